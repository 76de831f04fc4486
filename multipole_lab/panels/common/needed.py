"""Imported before everything else here: says in our own words what panels need, where it is missing."""

from multipole_lab import extras

extras.require("a panel", "lab", "ipywidgets", "anywidget")
extras.require_versions("a panel", "lab", "ipywidgets", "plotly")  # Colab begins with older ones

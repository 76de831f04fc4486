"""Panels: sliders around the figures, on real queries and keys. Each function returns a widget to display."""

from .clusters import clusters
from .expansion import expansion

__all__ = ["clusters", "expansion"]

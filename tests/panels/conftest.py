"""What keeps panels that measure quick."""

import importlib

import pytest

from multipole_lab.search.candidates import candidates


@pytest.fixture
def few_candidates(monkeypatch):
    """The front panel measures every candidate; three tell as much about the panel as twenty."""
    module = importlib.import_module("multipole_lab.panels.front")
    monkeypatch.setattr(module, "candidates", lambda *args: candidates(*args)[:3])

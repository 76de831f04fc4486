"""MuSe with clusters of any members: summaries, the near field, dipoles, and their gradients."""

from multipole_lab.suggesting import lazy_names

_WHERE = {"muse": "forward"}

__all__ = list(_WHERE)

__getattr__, __dir__ = lazy_names(__name__, _WHERE)

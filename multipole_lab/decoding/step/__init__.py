"""One decoding step: which clusters are opened, attention over them, and who runs it."""

from multipole_lab.suggesting import lazy_names

_WHERE = {"decode_step": "reference"}

__all__ = list(_WHERE)

__getattr__, __dir__ = lazy_names(__name__, _WHERE)

"""One decoding step over a clustered cache: look up, select, attend, merge."""

from multipole_lab.suggesting import lazy_names

_WHERE = {"decode_step": "step"}

__all__ = list(_WHERE)

__getattr__, __dir__ = lazy_names(__name__, _WHERE)

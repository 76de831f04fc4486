"""What only lessons use: pictures of small cases that the notebooks and their panels show."""

from multipole_lab.suggesting import lazy_names

_SUBPACKAGES = ("block_errors", "decode_trace", "projection", "step_times", "toy")

__all__ = list(_SUBPACKAGES)

__getattr__, __dir__ = lazy_names(__name__, {}, _SUBPACKAGES)

"""What every kernel needs on every GPU, compiled ahead of time: `multipole-lab kernels`."""

from multipole_lab.suggesting import lazy_names

_WHERE = {"report": "compiling"}

__all__ = list(_WHERE)

__getattr__, __dir__ = lazy_names(__name__, _WHERE)

"""What every kernel needs on every GPU, compiled ahead of time: `multipole-lab kernels`."""

from ..common.names import from_modules

__all__ = ["report"]

__getattr__ = from_modules(__name__, report="compiling")

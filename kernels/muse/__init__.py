"""MuSe with clusters of any members: summaries, the near field, dipoles, and their gradients."""

from ..common.names import from_modules

__all__ = ["muse"]

__getattr__ = from_modules(__name__, muse="forward")

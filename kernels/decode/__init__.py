"""One decoding step over a clustered cache: look up, select, attend, merge."""

from ..common.names import from_modules

__all__ = ["decode_step"]

__getattr__ = from_modules(__name__, decode_step="step")

"""Errors, timing, and comparisons of methods."""

from multipole_lab.analysis.comparing import compare
from multipole_lab.analysis.errors import per_head_error, per_query_error, relative_squared_error
from multipole_lab.analysis.timing import interleaved, machine

__all__ = ["compare", "interleaved", "machine", "per_head_error", "per_query_error", "relative_squared_error"]

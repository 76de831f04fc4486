"""Measures: errors against exact attention, times in turns, operations, and methods side by side."""

from typing import TYPE_CHECKING

from multipole_lab.suggesting import lazy_names

_WHERE = {
    "Measured": ".environment",
    "compare": "comparison",
    "cosine": "errors",
    "interleaved": "timing",
    "loss_difference": "errors",
    "machine": ".environment",
    "mass_overlap": "attention_mass",
    "mass_recall": "attention_mass",
    "method_weights": "attention_mass",
    "next_token_kl": "errors",
    "operations": "operation_counts",
    "per_head_error": "errors",
    "per_query_error": "errors",
    "relative_squared_error": "errors",
    "share_of_exact": "operation_counts",
    "worst_token": "errors",
}

if TYPE_CHECKING:  # the same for type checkers and editors, which do not run this
    from multipole_lab.environment import Measured as Measured, machine as machine
    from multipole_lab.measure.attention_mass import (
        mass_overlap as mass_overlap,
        mass_recall as mass_recall,
        method_weights as method_weights,
    )
    from multipole_lab.measure.comparison import compare as compare
    from multipole_lab.measure.errors import (
        cosine as cosine,
        loss_difference as loss_difference,
        next_token_kl as next_token_kl,
        per_head_error as per_head_error,
        per_query_error as per_query_error,
        relative_squared_error as relative_squared_error,
        worst_token as worst_token,
    )
    from multipole_lab.measure.operation_counts import (
        operations as operations,
        share_of_exact as share_of_exact,
    )
    from multipole_lab.measure.timing import interleaved as interleaved

__all__ = list(_WHERE)

__getattr__, __dir__ = lazy_names(__name__, _WHERE)

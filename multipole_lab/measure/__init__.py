"""Measures: errors against exact attention, times in turns, operations, and methods side by side."""

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

__all__ = list(_WHERE)

__getattr__, __dir__ = lazy_names(__name__, _WHERE)

"""Errors, timing, and comparisons of methods."""

from multipole_lab.analysis.attention_mass import mass_overlap, mass_recall, method_weights
from multipole_lab.analysis.comparing import compare
from multipole_lab.analysis.cost_model import CostModel, fit_cost_model, recommended
from multipole_lab.analysis.errors import (
    cosine,
    loss_difference,
    next_token_kl,
    per_head_error,
    per_query_error,
    relative_squared_error,
    worst_token,
)
from multipole_lab.analysis.measured import Measured, machine
from multipole_lab.analysis.operation_counts import operations, share_of_exact
from multipole_lab.analysis.sweeping import sweep
from multipole_lab.analysis.timing import interleaved
from multipole_lab.analysis.tuning import tune
from multipole_lab.suggesting import known_names

__all__ = [
    "CostModel",
    "Measured",
    "compare",
    "cosine",
    "fit_cost_model",
    "interleaved",
    "loss_difference",
    "machine",
    "mass_overlap",
    "mass_recall",
    "method_weights",
    "next_token_kl",
    "operations",
    "per_head_error",
    "per_query_error",
    "recommended",
    "relative_squared_error",
    "share_of_exact",
    "sweep",
    "tune",
    "worst_token",
]

__getattr__ = known_names(__name__, __all__)

"""Search for settings: sweeps over a grid, tuning under an error, and a model of what a call costs."""

from typing import TYPE_CHECKING

from multipole_lab.suggesting import lazy_names

_WHERE = {
    "CostModel": "cost_model",
    "fit_cost_model": "cost_model",
    "load_choice": "choice",
    "recommended": "cost_model",
    "sweep": "grid_sweep",
    "tune": "tuner",
}

if TYPE_CHECKING:  # the same for type checkers and editors, which do not run this
    from multipole_lab.search.choice import load_choice as load_choice
    from multipole_lab.search.cost_model import (
        CostModel as CostModel,
        fit_cost_model as fit_cost_model,
        recommended as recommended,
    )
    from multipole_lab.search.grid_sweep import sweep as sweep
    from multipole_lab.search.tuner import tune as tune

__all__ = list(_WHERE)

__getattr__, __dir__ = lazy_names(__name__, _WHERE)

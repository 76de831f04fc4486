"""Search for settings: sweeps over a grid, tuning under an error, and a model of what a call costs."""

from multipole_lab.suggesting import lazy_names

_WHERE = {
    "CostModel": "cost_model",
    "fit_cost_model": "cost_model",
    "recommended": "cost_model",
    "sweep": "grid_sweep",
    "tune": "tuner",
}

__all__ = list(_WHERE)

__getattr__, __dir__ = lazy_names(__name__, _WHERE)

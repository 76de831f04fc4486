"""Triton kernels of multipole_lab: one concept, one file."""

import importlib
import pkgutil


def load_all() -> None:
    """Import every kernel file, so that each has registered its tiles and its entry in the compile report."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")

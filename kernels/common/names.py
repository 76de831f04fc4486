"""What a folder of kernels exports, imported when first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable


def from_modules(package: str, **where: str) -> Callable[[str], object]:
    """`__getattr__` of a package: `where` names the module in it that has each name."""

    def get(name: str) -> object:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {', '.join(where)}")
        return getattr(importlib.import_module(f".{where[name]}", package), name)

    return get

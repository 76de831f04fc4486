"""Triton kernels of multipole_lab: one concept, one file. Import them as `multipole_lab.kernels`."""

import importlib
import pkgutil

if __name__ == "kernels":
    # Python started in the repository root finds this folder first when somebody asks for `kernels`, a name
    # that belongs to a Hugging Face package which transformers looks for. Hand over to that package where it
    # is installed; otherwise stay empty, without a version and without submodules, which transformers reads
    # as "not installed". (Raising ImportError here would break `import transformers`.)
    import sys
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec
    from pathlib import Path

    root = Path(__file__).resolve().parent.parent
    elsewhere = [entry for entry in sys.path if Path(entry).resolve() != root]
    spec = PathFinder.find_spec("kernels", elsewhere)
    if spec is not None and spec.loader is not None:
        module = sys.modules["kernels"] = module_from_spec(spec)
        spec.loader.exec_module(module)  # the import system returns what it then finds in sys.modules
    else:
        __path__ = []
else:
    from multipole_lab import extras

    extras.require("a Triton kernel", "", "triton")


def load_all() -> None:
    """Import every kernel file, so that all tiles are in the table."""
    for module in pkgutil.walk_packages(__path__, f"{__name__}."):
        importlib.import_module(module.name)

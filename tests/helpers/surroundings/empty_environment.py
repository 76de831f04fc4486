"""`python empty_environment.py FOLDER`: the library installed in FOLDER, as in an environment without any extra.

Everything that the library's own requirements do not bring is hidden. Prints one JSON object: how each command's help
ends, how each public name and each module is found, and what the commands say that need more.
"""

import contextlib
import importlib
import importlib.metadata as metadata
import io
import json
import pkgutil
import sys
import tempfile
from importlib.machinery import PathFinder

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def brought(requirements) -> set[str]:
    """The distributions that these requirements bring, and theirs, on this machine."""
    found, left = set(), [(Requirement(line), "") for line in requirements]
    while left:
        need, extra = left.pop()
        name = canonicalize_name(need.name)
        if need.marker and not need.marker.evaluate({"extra": extra}):
            continue
        for asked in ("", *need.extras):
            if (name, asked) not in found:
                found.add((name, asked))
                with contextlib.suppress(metadata.PackageNotFoundError):
                    left += [(Requirement(line), asked) for line in metadata.requires(name) or []]
    return {name for name, _ in found}


def hidden_modules(project: str = "multipole_lab") -> set[str]:
    """The top-level modules of everything that is installed here and would not be in an empty environment."""
    here = brought(metadata.requires(project) or []) | {canonicalize_name(project), "pip", "setuptools"}
    owners = metadata.packages_distributions()
    return {module for module, names in owners.items() if not here & set(map(canonicalize_name, names))}


def hide(modules: set[str]) -> None:
    """From now on these modules are as if they were not installed."""
    find, version = PathFinder.find_spec, metadata.version
    owners = metadata.packages_distributions()
    gone = {canonicalize_name(name) for module in modules for name in owners.get(module, ())}

    def find_spec(name, path=None, target=None):
        return None if name.split(".")[0] in modules else find(name, path, target)

    def version_of(name):
        if canonicalize_name(name) in gone:
            raise metadata.PackageNotFoundError(name)
        return version(name)

    PathFinder.find_spec, metadata.version = find_spec, version_of


def outcome(action) -> str:
    """ "fine", or what the error says."""
    try:
        action()
    except ModuleNotFoundError as error:
        return f"{type(error).__name__}: {error}"
    return "fine"


def names():
    """Every public name of the package and of its subpackages."""
    import multipole_lab as ml

    for name in ml.__all__:
        yield f"ml.{name}", lambda name=name: getattr(ml, name)
    for name in ml._SUBPACKAGES:
        with contextlib.suppress(ModuleNotFoundError):
            package = importlib.import_module(f"multipole_lab.{name}")
            for inner in getattr(package, "__all__", ()):
                yield f"ml.{name}.{inner}", lambda package=package, inner=inner: getattr(package, inner)


def modules():
    """Every module of the package."""
    import multipole_lab as ml

    for module in pkgutil.walk_packages(ml.__path__, "multipole_lab.", onerror=lambda name: None):
        yield module.name, lambda name=module.name: importlib.import_module(name)


def typed(*words: str) -> tuple[object, str]:
    """The status with which a command line ends, and all that it says."""
    from multipole_lab import cli

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = cli.main(words)
        except SystemExit as end:
            status = end.code
    return status, said.getvalue()


def main(folder: str) -> None:
    # The wheel's copy, not the editable install that the tests run in.
    sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    hide(hidden_modules())
    from multipole_lab import cli

    with tempfile.TemporaryDirectory() as to:
        said = {
            "where": cli.__file__,
            "help": {name: typed(name, "--help") for name in cli.COMMANDS},
            "release": typed("course", "release", "A1", "--to", to),
            "solutions": typed("course", "solutions", "A1", "--to", to),
            "grade": typed("course", "grade", to, "--out", to),
            "copies": typed("lab", "--copy-only", "--notebooks", f"{to}/lab"),
            "lab": typed("lab", "--notebooks", f"{to}/lab"),
            "doctor": typed("doctor"),
            "names": {name: outcome(action) for name, action in names()},
            "modules": {name: outcome(action) for name, action in modules()},
        }
    import torch

    import multipole_lab as ml

    layer = ml.load_sample("smollm2")[15]
    q, k, v = (x[:, :, :128] for x in (layer.q, layer.k, layer.v))
    said["attention"] = torch.isfinite(ml.MuSe(clusters=8)(q, k, v)).all().item()
    print(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1])

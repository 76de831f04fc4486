"""Packages that only some features need: where one is missing, our own words say so, with the command that installs it.

pyproject.toml names the extras, the installed package's metadata repeats them, and nothing else lists them. Imports
nothing heavy.
"""

from __future__ import annotations

import importlib.metadata as metadata
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

APART = {
    "import-linter": "importlinter",
    "pytest-xdist": "xdist",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
}  # imported by another name than they are installed by


class MissingPackage(ModuleNotFoundError):
    """A package that a feature needs is not installed; the message has the command that installs it."""


@dataclass(frozen=True)
class Need:
    """A distribution that pyproject.toml asks for.

    Attributes
    ----------
    name : of the distribution, such as ``"scikit-learn"``.
    range : of versions, such as ``">=1.5"``.
    extra : the extra that asks for it; empty for what the library itself needs.
    """

    name: str
    range: str
    extra: str

    @property
    def module(self) -> str:
        """The name by which it is imported."""
        return APART.get(self.name, self.name.replace("-", "_"))


def needs() -> Iterator[Need]:
    """Every distribution that pyproject.toml asks for on this machine, the library's own first."""
    from packaging.requirements import Requirement

    lines = [Requirement(line) for line in metadata.requires("multipole_lab") or []]
    for extra in ("", *(metadata.metadata("multipole_lab").get_all("Provides-Extra") or ())):
        for line in lines:
            # A marker of the platform alone holds for every extra; only the library's own list repeats it.
            alone = line.marker is None or line.marker.evaluate({"extra": ""})
            if alone == (extra == "") and (alone or line.marker.evaluate({"extra": extra})):
                yield Need(line.name, str(line.specifier), extra)


def is_there(module: str) -> bool:
    """Whether a module can be found; it is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a parent is missing, or somebody put None in its place
        return False


def require(feature: str, extra: str, *modules: str) -> None:
    """Refuse to go on without the packages of a feature.

    Parameters
    ----------
    feature : what needs them, as the subject of a sentence: ``"a panel"``.
    extra : the extra that brings them; ``""`` for what the library itself needs.
    modules : the names by which they are imported.

    Raises
    ------
    MissingPackage : names those that are not there, and the command.
    """
    missing = [module for module in modules if not is_there(module)]
    if missing:
        raise MissingPackage(
            f"{feature} needs {' and '.join(missing)}: {command(extra, *missing)}",
            name=missing[0],
        )


def require_versions(feature: str, extra: str, *modules: str) -> None:
    """Refuse to go on where a process has loaded a package that is too old: one that is installed then comes too late.

    Parameters
    ----------
    feature, extra, modules : as `require` has them; the modules are imported.

    Raises
    ------
    MissingPackage : names the first of them, its version, what is needed, and what to do.
    """
    from packaging.specifiers import SpecifierSet

    ranges = {need.module: need.range for need in needs()}
    for module in modules:
        version, wanted = importlib.import_module(module).__version__, ranges.get(module, "")
        if not SpecifierSet(wanted).contains(version, prereleases=True):
            raise MissingPackage(
                f"{feature} needs {module}{wanted}, and {version} is loaded: {command(extra, module)}, then restart "
                "the kernel (in Colab: Runtime, Restart session)",
                name=module,
            )


def command(extra: str, *modules: str) -> str:
    """What a reader types to install an extra; or these modules, which the library itself needs."""
    names = {module: name for name, module in APART.items()}
    wanted = f"'multipole_lab[{extra}]'" if extra else " ".join(names.get(one, one) for one in modules)
    return f"pip install {wanted}"


def explain(error: ModuleNotFoundError) -> str:
    """One sentence for a package that is missing, whoever found out."""
    if isinstance(error, MissingPackage) or not error.name:
        return str(error)
    module = error.name.split(".")[0]
    extra = next((need.extra for need in needs() if need.module == module), None)
    if extra is None:
        return f"{error.name} is needed and not installed; 'multipole-lab doctor' looks at what is there"
    return f"{module} is needed and not installed: {command(extra, module)}"

"""Which of the packages that pyproject.toml asks for are here, and in which versions."""

from __future__ import annotations

import importlib.metadata as metadata
from collections.abc import Iterable, Iterator

from multipole_lab.extras import Need, needs

from .finding import Finding, install


def versions() -> Iterator[Finding]:
    """Every distribution with its version, against the range that pyproject.toml gives."""
    seen = set()
    for need in needs():
        if need.name in seen:
            continue
        seen.add(need.name)
        have = version(need)
        if have is None:
            level, role = ("note", f"only for {need.extra}") if need.extra else ("problem", "needed")
            fix = install(need.extra, need.name + need.range)
            yield Finding(need.name, f"not installed ({role})", level, fix, "package")
        elif fits(need, have):
            yield Finding(need.name, have, part="package")
        else:
            fix = install(need.extra, need.name + need.range)
            yield Finding(need.name, f"{have}, wanted {need.range}", "warning", fix, "package")


def version(need: Need) -> str | None:
    """The installed version; None where it is not installed."""
    try:
        return metadata.version(need.name)
    except metadata.PackageNotFoundError:
        return None


def fits(need: Need, have: str) -> bool:
    """Whether a version is in the range that pyproject.toml gives."""
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(need.range).contains(have, prereleases=True)


def asked_by(extra: str, *, only: Iterable[str] = (), but: Iterable[str] = ()) -> list[Need]:
    """The distributions of an extra; ``""`` are the library's own."""
    only, but = set(only), set(but)
    return [
        need
        for need in needs()
        if need.extra == extra and need.name not in but and (not only or need.name in only)
    ]


def missing_for(feature: str, wanted: list[Need], level: str = "note") -> list[Finding]:
    """What is missing for a feature: packages not installed, at this level, and warnings for those out of range."""
    have = {need: version(need) for need in wanted}
    missing = [need for need in wanted if have[need] is None]
    found = []
    if missing:
        extra = wanted[0].extra
        fix = install(extra, *(() if extra else (need.name + need.range for need in missing)))
        words = ", ".join(need.name for need in missing)
        found.append(Finding(feature, f"not installed: {words}", level, fix, "feature"))
    for need in wanted:
        if have[need] is not None and not fits(need, have[need]):
            fix = install(need.extra, need.name + need.range)
            text = f"{need.name} is {have[need]}, wanted {need.range}"
            found.append(Finding(feature, text, "warning", fix, "feature"))
    return found

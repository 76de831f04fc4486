"""What other machines measured: the files of ``data/benchmarks``, each with its device, date and command.

They lie in a folder for each subject, and are found by their names alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from multipole_lab.method_text import parse_method

if TYPE_CHECKING:
    import pandas


def record(name: str) -> dict:
    """One recorded result, as its command wrote it.

    Parameters
    ----------
    name : of the file, without ``.json`` and without the folder of its subject.

    Raises
    ------
    FileNotFoundError : there is none of that name; the message lists those that there are.
    """
    paths = {path.stem: path for path in records()}
    if name not in paths:
        there = ", ".join(sorted(paths)) or "none"
        raise FileNotFoundError(f"data/benchmarks has no record {name!r}; there are {there}")
    return json.loads(paths[name].read_text(encoding="utf-8"))


def attention_speedups() -> pandas.DataFrame:
    """Every recorded run of MuSe in full attention, forward, against the fastest exact kernel of the same run.

    Returns
    -------
    A row for each setting and length, in this order: ``name`` (heads and method; the device, too, where there are
    several), ``n``, ``speedup``, ``rse``, ``recorded`` (in words: when and where). What is fastest at its greatest
    length comes first. Without any record it has no rows.
    """
    import pandas

    found: dict[tuple[str, str], list[dict]] = {}
    dates: dict[str, set[str]] = {}
    for path in records("*attention*.json"):
        run = json.loads(path.read_text(encoding="utf-8"))
        for row in run["rows"]:
            method = parse_method(row["method"])
            kind = "k-means" if method.partition == "kmeans" else method.partition
            words = f"{row['heads']} heads of {row['dim']}, {kind}, near={method.near}"
            place = f"{run['device']}, {row['dtype']}"
            found.setdefault((place, words), []).append(row)
            dates.setdefault(place, set()).add(run["date"])
    rows = []
    ordered = {key: sorted(runs, key=lambda row: row["n"]) for key, runs in found.items()}
    for (place, words), runs in sorted(ordered.items(), key=lambda one: -one[1][-1]["speedup"]):
        named = {
            "name": words if len(dates) == 1 else f"{words}, {place}",
            "recorded": f"Recorded {' and '.join(sorted(dates[place]))}, {place}.",
        }
        rows += [named | {key: row[key] for key in ("n", "speedup", "rse")} for row in runs]
    return pandas.DataFrame(rows, columns=["name", "n", "speedup", "rse", "recorded"])


def records(pattern: str = "*.json", folder: Path | None = None) -> list[Path]:
    """The files of ``data/benchmarks``, in whatever folder by their subject, sorted by name.

    Parameters
    ----------
    pattern : of their names. folder : another one to look in.
    """
    return sorted((folder or benchmarks_folder()).rglob(pattern), key=lambda path: path.name)


def benchmarks_folder() -> Path:
    """Where the records lie."""
    from multipole_lab.folders import data_folder

    return data_folder() / "benchmarks"

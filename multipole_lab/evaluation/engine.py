"""Work through an evaluation: every item with dense attention and with each method, continuing what was begun."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from multipole_lab.journal import Journal
from multipole_lab.printing import one_line
from multipole_lab.suggesting import suggesting

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go

    from multipole_lab.evaluation.reader import Reader

RESULTS = "results.jsonl"


@dataclass(frozen=True)
class Item:
    """One piece of work.

    Attributes
    ----------
    id : stable: the same settings give the same ids.
    facts : what tables group by: length, depth, domain ... They are written into each row.
    content : what ``Evaluation.score`` needs; not written.
    """

    id: str
    facts: Mapping[str, object] = field(default_factory=dict)
    content: object = None

    __repr__ = one_line


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation is made of; ``run_items`` and ``report.write`` do the rest.

    Attributes
    ----------
    name, title : for files, and for readers.
    reading : a paragraph on what was measured and how to read it.
    settings : everything but the items and methods that a row depends on.
    items : the work, in order.
    score : a row for an item read by a ``Reader``.
    table : the summary of all rows (a frame of them), methods in the order given.
    figures : the pictures of all rows.
    """

    name: str
    title: str
    reading: str
    settings: Mapping[str, object]
    items: list[Item]
    score: Callable[[Item, Reader], dict]
    table: Callable[[pandas.DataFrame, list[str]], pandas.DataFrame]
    figures: Callable[[pandas.DataFrame, list[str]], list[go.Figure]]

    __repr__ = one_line


@suggesting
def run_items(evaluation: Evaluation, readers: Iterable[Reader], journal: Journal, device: str) -> list[dict]:
    """Score what the journal lacks; returns the rows of these items and methods, in order.

    Parameters
    ----------
    device : the name of what the readers compute on, which every row keeps beside its seconds.

    Raises
    ------
    ValueError : what scoring refuses, with the item and the method. What is done by then is kept.
    """
    from tqdm.auto import tqdm

    pairs = [(item, reader) for item in evaluation.items for reader in readers]
    missing = [(item, reader) for item, reader in pairs if (item.id, reader.name) not in journal.rows]
    if missing and len(missing) < len(pairs):
        done = len(pairs) - len(missing)
        print(f"{journal.path} has {done} of {len(pairs)} results already; continuing", file=sys.stderr)
    with tqdm(total=len(pairs), initial=len(pairs) - len(missing), unit="result", disable=not missing) as bar:
        for item, reader in missing:
            bar.set_description(f"{item.id}, {reader.name}"[:60])
            begun = time.perf_counter()
            try:
                row = evaluation.score(item, reader)
            except ValueError as error:
                raise ValueError(f"{item.id} with {reader.name}: {error}") from error
            spent = round(time.perf_counter() - begun, 3)
            calls = reader.taken_calls()
            row = {
                "id": item.id,
                "method": reader.name,
                **item.facts,
                **row,
                "calls": calls,
                "seconds": spent,
                "device": device,
            }
            journal.add(row)
            bar.update()
    return [journal.rows[item.id, reader.name] for item, reader in pairs]


def results_path(out: str | Path | None, name: str, model: str, digest: str) -> Path:
    """Where the rows go: in ``out``, or in a folder of runs/ that the same settings find again."""
    if out is None:
        model = "".join(c if c.isalnum() or c in ".-" else "-" for c in Path(model).name)
        out = Path("runs") / f"eval-{name}-{model}-{digest[:8]}"
    out = Path(out)
    if out.is_file():
        raise ValueError(f"--out {out} is a file; a folder is needed")
    return out / RESULTS

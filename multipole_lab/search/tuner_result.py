"""What ``ml.tune`` found: the method, the line to paste, the evidence, and everything that was measured."""

from __future__ import annotations

import html
import json
import math
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from multipole_lab import files
from multipole_lab.attention import Exact, Method
from multipole_lab.environment import Measured
from multipole_lab.method_text import as_python, as_text
from multipole_lab.renamed import with_old_names

if TYPE_CHECKING:
    from multipole_lab.table import Table

FORMAT = "multipole_lab tuned 1"
FIRST = ["method", "rse", "seconds", "speedup"]


@dataclass(frozen=True, eq=False)
class TuningResult:
    """The fastest method under an error; ``tuned.method(q, k, v)`` attends.

    Attributes
    ----------
    method : the choice; ``ml.Exact()`` where nothing allowed is faster.
    error : its relative squared error on held-out queries, the mean over the heads of all layers.
    tuned_error : the error that it was chosen by.
    max_error : the error allowed. holds : whether ``error`` and that on another sample, if given, keep to it.
    seconds, exact_seconds, speedup : of one call on the middle layer, medians of turns beside each other.
    table : a row for each approximation that was timed, the fastest first: method, rse, seconds, speedup (over exact
        attention), worst_head, exact_seconds, turns, operations, allowed.
    evidence : a row for each layer: part ("held out", or "other sample"), layer, rse, worst_head, source.
    tried : how many methods were looked at.
    length, layers, causal, source, device, baseline : what it is true of.
    measured : the machine, precision, versions and command that the times are of.
    """

    method: Method
    error: float
    tuned_error: float
    max_error: float
    seconds: float
    exact_seconds: float
    speedup: float
    tried: int
    length: int
    layers: list[int]
    causal: bool
    source: str
    device: str
    baseline: str
    measured: Measured
    table: Table = field(repr=False)
    evidence: Table = field(repr=False)

    @classmethod
    def from_rows(cls, method: Method, rows: list[dict], evidence: list[dict], **facts) -> TuningResult:
        """Put together from the measured rows; ``facts`` are the remaining attributes that are known already."""
        from multipole_lab.table import Table

        table = Table([{k: x for k, x in row.items() if k not in ("id", "ms")} for row in rows])
        table = table[[*FIRST, *(name for name in table.columns if name not in FIRST)]]
        table["allowed"] = table["rse"] <= facts["max_error"]
        table = table.sort_values("speedup", ascending=False, ignore_index=True)
        table.attrs["measured"] = facts["measured"].facts()
        lines = Table(evidence)
        own = table[table["method"] == as_text(method)].to_dict("records")
        exact_seconds = float(table["exact_seconds"].median())
        own = (
            own[0] if own else {"rse": 0.0, "seconds": exact_seconds, "speedup": 1.0}
        )  # exact attention itself
        return cls(
            method=method, error=float(lines[lines["part"] == "held out"]["rse"].mean()),
            tuned_error=float(own["rse"]), seconds=float(own["seconds"]), exact_seconds=exact_seconds,
            speedup=float(own["speedup"]), table=table, evidence=lines, **facts,
        )  # fmt: skip

    @property
    def machine(self) -> str:
        """The name of the GPU, or of the processor with its threads, that times are of."""
        return self.measured.device

    @property
    def holds(self) -> bool:
        """Whether the error is kept to on every part that was held out."""
        return bool((self.evidence.groupby("part")["rse"].mean() <= self.max_error).all())

    @property
    def code(self) -> str:
        """What to paste after ``import multipole_lab as ml``: a comment, and the line that it is about."""
        return f"# {self._pace}, error {self.error:.2g}\nattend = {as_python(self.method)}"

    @property
    def note(self) -> str:
        """The finding in a sentence or two."""
        kind = "causal" if self.causal else "full"
        what = f"{kind} attention over {self.length:,} tokens ({self.source}) on {self.measured.words}"
        if isinstance(self.method, Exact):
            return f"{self._why_exact} For {what}, exact attention is the choice."
        kept = "keeps to it" if self.holds else "DOES NOT keep to it: ask for a smaller max_error"
        others = self.evidence[self.evidence["part"] == "other sample"]["rse"]
        other = f", {others.mean():.2g} on the other sample" if len(others) else ""
        return (
            f"For {what}, {as_text(self.method)} is {self._pace}. Allowed is an error of {self.max_error:g}; it was "
            f"chosen at {self.tuned_error:.2g} and {kept} on held-out queries with {self.error:.2g}{other}."
        )

    @property
    def _pace(self) -> str:
        if isinstance(self.method, Exact):
            return "nothing allowed is faster"
        return f"{self.speedup:.2f} times as fast as exact"

    @property
    def _why_exact(self) -> str:
        """What stands in the way of an approximation."""
        allowed = self.table[self.table["allowed"]]
        if len(allowed):
            best = allowed.iloc[0]
            return (
                f"Of {self.tried} methods the fastest with an error of at most {self.max_error:g}, "
                f"{best['method']}, is {best['speedup']:.2f} times as fast as exact attention."
            )
        best = self.table.loc[self.table["rse"].idxmin()]
        return (
            f"None of {self.tried} methods has an error of at most {self.max_error:g}; the least is {best['rse']:.2g}, "
            f"of {best['method']}, {best['speedup']:.2f} times as fast as exact attention."
        )

    def as_dict(self) -> dict:
        """Everything, in what JSON can hold."""
        own = {
            name: getattr(self, name)
            for name in ("error", "tuned_error", "max_error", "holds", "seconds", "exact_seconds", "speedup",
                         "tried", "length", "layers", "causal", "source", "device", "machine", "baseline", "note")
        }  # fmt: skip
        tables = {
            name: [_without_nan(row) for row in getattr(self, name).to_dict("records")]
            for name in ("table", "evidence")
        }
        facts = {"measured": self.measured.facts()}
        return {"format": FORMAT, "method": as_text(self.method), "code": self.code, **own, **facts, **tables}

    def save(self, path: str | Path) -> Path:
        """Write everything as JSON; ``method_text.parse_method`` reads the method back."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n")
        return path

    def __str__(self) -> str:
        parts = self.table[[*FIRST, "worst_head"]], self.evidence, textwrap.fill(self.note, 80), self.code
        return "\n\n".join(map(str, parts))

    def __repr__(self) -> str:
        held = f"error {self.error:.2g} on held-out queries, allowed {self.max_error:g}"
        return f"TuningResult({self.method}: {self._pace}, {held}; print it for the tables)"

    def _repr_html_(self) -> str:
        table = self.table[[*FIRST, "worst_head"]].head(12)
        return (
            f"<p>{html.escape(self.note)}</p><pre>{html.escape(self.code)}</pre>"
            f"{table.to_html(index=False, float_format='{:.4g}'.format)}"
            f"<p>Held-out evidence</p>{self.evidence.to_html(index=False, float_format='{:.4g}'.format)}"
        )


def _without_nan(row: dict) -> dict:
    """JSON knows no NaN: what was not measured becomes null."""
    return {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in row.items()}


__getattr__ = with_old_names(__name__)

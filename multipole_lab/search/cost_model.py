"""What a call of MuSe takes: its time as a sum of a few counts with fitted prices, and the clusters that cost least."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from multipole_lab.attention import MuSe
from multipole_lab.attention.causal import block_sizes
from multipole_lab.environment import Measured
from multipole_lab.method_text import parse_method
from multipole_lab.search.limits import check_max_error, check_table
from multipole_lab.suggesting import suggesting

if TYPE_CHECKING:
    import pandas

TERMS = ("call", "tokens", "far", "near", "leaf", "dipole")


@dataclass(frozen=True, eq=False)
class CostModel:
    """``t = sum_i price_i count_i``, prices not negative, with the relative errors as small as they can be made.

    With N tokens, C clusters and the blocks of causal attention (one block of N in full attention), the counts are:

    - ``call`` 1 a call and ``tokens`` N;
    - ``far`` N C in every block: clusterings, summaries and the far field;
    - ``near`` N near N / C in every block: the exact pairs of the near field;
    - ``leaf`` the exact pairs of causal leaves; ``dipole`` ``far`` times the dipole's rank.

    Attributes
    ----------
    prices : milliseconds for one of each count; those that no row has are left out.
    table : the rows that it was fitted to: method, length, causal, ms, predicted_ms, residual (predicted / ms - 1).
    """

    prices: Mapping[str, float]
    table: pandas.DataFrame = field(repr=False)

    @property
    def typical_error(self) -> float:
        """The median of the residuals' sizes: 0.1 is 10% off."""
        return float(self.table["residual"].abs().median())

    @property
    def worst_error(self) -> float:
        """The largest residual's size."""
        return float(self.table["residual"].abs().max())

    def predict(self, method: MuSe, length: int, causal: bool = False) -> float:
        """Milliseconds of one call."""
        return float(
            sum(self.prices.get(name, 0.0) * x for name, x in counts(method, length, causal).items())
        )

    def cheapest_clusters(self, near: int, length: int) -> float:
        """The C of least time at a number of near clusters in full attention: ``sqrt(p_near near N / p_far)``.

        More clusters make the far field more costly and the near field cheaper. Nothing is said of the error, which
        falls with C. NaN where a price is missing, or where nothing is near.
        """
        far, pairs = self.prices.get("far", 0.0), self.prices.get("near", 0.0)
        return float(np.sqrt(pairs * near * length / far)) if far and pairs and near else float("nan")

    def __repr__(self) -> str:
        prices = " + ".join(f"{price:.3g} {name}" for name, price in self.prices.items() if price)
        return (
            f"ms = {prices}; residuals {self.typical_error:.0%} in the median and {self.worst_error:.0%} at most; "
            f"{len(self.table)} times{self._place}"
        )

    def __str__(self) -> str:
        """A line for each price and each of the facts, short enough for a notebook in a narrow window."""
        return repr(self).replace("; ", "\n").replace(" + ", "\n   + ")

    @property
    def _place(self) -> str:
        facts = self.table.attrs.get("measured")
        return f" on {Measured(**facts).words}" if facts else ""


@suggesting
def fit_cost_model(table: pandas.DataFrame) -> CostModel:
    """Fit the prices to the MuSe rows of a sweep by least squares of the relative errors, none below 0.

    Parameters
    ----------
    table : columns method (text), length, causal and ms, as ``ml.sweep`` returns.

    Raises
    ------
    ValueError : missing columns, or fewer rows of MuSe than three. TypeError : what is no table.
    """
    from scipy.optimize import nnls

    check_table(table, ("method", "length", "causal", "ms"))
    rows = table[table["method"].str.startswith("MuSe(") & np.isfinite(table["ms"])]
    if len(rows) < 3:
        raise ValueError(f"table has {len(rows)} rows of MuSe; at least 3 are needed to fit a cost model")
    known = [counts(parse_method(row.method), row.length, row.causal) for row in rows.itertuples(index=False)]
    A = np.array([[of_row[name] for name in TERMS] for of_row in known], float)
    ms = rows["ms"].to_numpy(float)
    used = A.any(axis=0)
    names = [name for name, there in zip(TERMS, used, strict=True) if there]
    prices = _fitted(A[:, used] / ms[:, None], nnls)
    predicted = A[:, used] @ prices
    kept = rows[["method", "length", "causal", "ms"]].assign(
        predicted_ms=predicted, residual=predicted / ms - 1
    )
    kept = kept.reset_index(drop=True)
    kept.attrs = dict(table.attrs)  # where it was measured
    return CostModel(dict(zip(names, prices.tolist(), strict=True)), kept)


def counts(method: MuSe, length: int, causal: bool = False) -> dict[str, float]:
    """How often each price is paid in one call."""
    block, levels = block_sizes(length, method.leaf) if causal else (length, 0)
    # Causal: at every level half of the tokens are queries, and half of them keys, of blocks that double in size.
    blocks = [(length / 2, block << i) for i in range(levels)] if causal else [(float(length), length)]
    rank = method._rank(64)
    found = dict.fromkeys(TERMS, 0.0) | {"call": 1.0, "tokens": float(length)}
    for tokens, size in blocks:
        clusters = method._partition.number(block if causal and method._merged else size)
        found["far"] += tokens * clusters
        found["near"] += tokens * min(method.near / clusters, 1.0) * size
        found["dipole"] += tokens * clusters * rank
    found["leaf"] = length * block / 2 if causal else 0.0
    return found


def _fitted(A: Float[np.ndarray, "rows terms"], nnls) -> Float[np.ndarray, " terms"]:
    """Prices with ``A prices ~ 1``; the columns are brought to one size first, or the solver loses the small ones."""
    sizes = np.linalg.norm(A, axis=0)
    return nnls(A / sizes, np.ones(len(A)))[0] / sizes


@suggesting
def recommended(table: pandas.DataFrame, max_error: float) -> pandas.DataFrame:
    """The fastest MuSe under an error at every length of a sweep, and so the C to take there.

    Returns
    -------
    A row a length: length, causal, source, clusters, near, method, rse, ms, speedup; empty cells (None, NaN) where
    no method keeps the error.

    Raises
    ------
    ValueError : an error that is not above 0, missing columns. TypeError : what is no number, no table.
    """
    from multipole_lab.table import Table

    check_max_error(max_error)
    names = ["clusters", "near", "method", "rse", "ms", "speedup"]
    check_table(table, ("length", "causal", "source", *names))
    found = []
    for (length, causal, source), rows in table.groupby(["length", "causal", "source"], sort=True):
        allowed = rows[rows["method"].str.startswith("MuSe(") & (rows["rse"] <= max_error)]
        best = allowed.loc[allowed["ms"].idxmin(), names].to_dict() if len(allowed) else dict.fromkeys(names)
        found.append({"length": length, "causal": causal, "source": source, **best})
    best = Table(found)
    best.attrs = dict(table.attrs)  # where it was measured
    return best

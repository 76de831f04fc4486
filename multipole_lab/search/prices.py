"""What attention would cost: operations, bytes, time at prices measured on this machine, and memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from multipole_lab.attention import Centroid, Exact, Method, MuSe, TopK, Window
from multipole_lab.attention.causal import block_sizes
from multipole_lab.attention.clusters.own_near import tile_size
from multipole_lab.measure.operation_counts import operations
from multipole_lab.method_text import parse_method
from multipole_lab.models import Sample
from multipole_lab.search.cost_model import CostModel, fit_cost_model
from multipole_lab.search.grid_sweep import sweep
from multipole_lab.threads import one_thread

# Settings whose times are in different proportions made of the counts of the cost model.
MEASURED = (
    MuSe(clusters=16), MuSe(clusters=64), MuSe(clusters=16, near=4), MuSe(clusters=32, order="dipole"),
    Centroid(clusters=32), Window(size=64), TopK(keys=64),
)  # fmt: skip
LONGEST, SHORTEST = 2048, 256  # tokens of the longer of the two texts that are timed
LEAF = (
    128  # of causal attention while prices are measured: with longer leaves short texts would be nothing else
)


@dataclass(frozen=True)
class Problem:
    """Attention of a whole model over a batch of texts: all heads are query heads with keys of their own.

    Attributes
    ----------
    tokens : N of each text. number_bytes : of one number of queries, keys, values and outputs.
    """

    tokens: int
    heads: int = 32
    head_size: int = 128
    batch: int = 1
    layers: int = 32
    causal: bool = True
    number_bytes: int = 2

    @property
    def rows(self) -> int:
        """Heads of all texts and layers."""
        return self.heads * self.batch * self.layers


@dataclass(frozen=True)
class Cost:
    """What all layers take together.

    Attributes
    ----------
    operations : multiply-adds. moved : bytes that are read and written at least. ms : milliseconds.
    held : bytes of memory: keys and values of all layers; queries, output and summaries of one.
    """

    operations: float
    moved: float
    ms: float
    held: float


@dataclass(frozen=True)
class Prices:
    """Measured prices of one machine.

    Attributes
    ----------
    model : of MuSe. others : milliseconds of a call and of a multiply-add, by kind of method.
    heads, head_size : that were measured; times grow in proportion to both.
    """

    model: CostModel
    others: Mapping[type, tuple[float, float]] = field(repr=False)
    heads: int
    head_size: int

    def cost(self, method: Method, problem: Problem) -> Cost:
        """What a method costs.

        Raises
        ------
        TypeError : a method without a formula.
        """
        D, N = problem.head_size, problem.tokens
        each = operations(method, N, causal=problem.causal, head_size=D)
        if isinstance(method, MuSe):
            ms = self.model.predict(method, N, problem.causal)
            ms *= problem.rows / self.heads * D / self.head_size
        else:
            call, price = self.others[type(method)]
            ms = call + price * each * problem.rows
        extra, read_again = _summaries(method, problem)
        io = 4 * N * D * problem.number_bytes  # queries, keys, values, output
        held = problem.batch * problem.heads * (io / 2 * (problem.layers + 1) + extra)
        return Cost(each * problem.rows, problem.rows * (io + 2 * extra + read_again), ms, held)

    def crossover(self, method: Method, problem: Problem, longest: int = 1 << 20) -> int | None:
        """The shortest text, among powers of two from 256 on, from which on the method is faster than exact attention.

        None where it is not at the longest.
        """
        lengths, first = [1 << i for i in range(8, longest.bit_length())], None
        for N in reversed(lengths):
            this = replace(problem, tokens=N)
            if self.cost(method, this).ms >= self.cost(Exact(), this).ms:
                break
            first = N
        return first


def measure_prices(
    sample: Sample, layer: int, causal: bool, device: str | None = None
) -> Iterator[Prices | None]:
    """Measure on one key head of a layer with its query heads; yield None after each length and the prices last.

    Raises
    ------
    ValueError : a sample of fewer than 256 tokens, on which no price can be seen.
    """
    import pandas

    longest = min(LONGEST, len(sample.tokens))
    if longest < SHORTEST:
        raise ValueError(f"sample: prices need a text of at least {SHORTEST} tokens, got {longest}")

    methods = [replace(one, leaf=LEAF) if isinstance(one, (MuSe, Centroid)) else one for one in MEASURED]
    methods.append(MuSe(clusters=16, leaf=8 * LEAF))  # in full attention the same as another, and left out
    tables = []
    # One length alone would not tell a call's price from an operation's.
    for length in (longest // 4, longest):
        how = {
            "lengths": [length],
            "causal": causal,
            "layers": [layer],
            "groups": 1,
            "repeats": 3,
            "device": device,
        }
        with one_thread():  # a time that a busy machine changes least
            tables.append(sweep(sample, methods, **how))
        yield None
    table = pandas.concat(tables, ignore_index=True)
    heads, D = int(table["heads"].iloc[0]), sample[layer].q.shape[-1]
    rows: dict[type, list[tuple[float, float]]] = {}
    for row in table.itertuples(index=False):
        kind = parse_method(row.method)
        rows.setdefault(type(kind), []).append((row.operations, row.ms))
        exact = heads * operations(Exact(), row.length, causal=causal, head_size=D)
        rows.setdefault(Exact, []).append((exact, row.exact_ms))
    others = {kind: _line(np.array(found)) for kind, found in rows.items() if kind is not MuSe}
    yield Prices(fit_cost_model(table), others, heads, D)


def _line(rows: np.ndarray) -> tuple[float, float]:
    """The call and the operation of ``ms = call + price operations``, none below 0, by relative errors."""
    from scipy.optimize import nnls

    A = np.stack([np.ones(len(rows)), rows[:, 0] / rows[:, 0].max()], 1) / rows[:, 1:]
    call, price = nnls(A, np.ones(len(rows)))[0]
    return float(call), float(price / rows[:, 0].max())


def _summaries(method: Method, problem: Problem) -> tuple[float, float]:
    """Of one head: bytes of the summaries, and of what is read once more for clusterings and near clusters.

    Summaries are float32: a log mass and two means for each pair of a query cluster and a key cluster (MuSe), two
    means and a count for each cluster (Centroid). K-means reads its vectors ``iterations + 1`` times; each query
    cluster reads its near clusters' keys and values. Causal attention does so at every level.
    """
    if not isinstance(method, (MuSe, Centroid)):
        return 0.0, 0.0
    D, b = problem.head_size, problem.number_bytes
    block, levels = block_sizes(problem.tokens, method.leaf) if problem.causal else (problem.tokens, 0)
    sizes = [(2 ** (levels - 1 - i), block << i) for i in range(levels)] or [(1, problem.tokens)]
    if problem.causal and not levels:
        return 0.0, 0.0  # one leaf
    extra = again = 0.0
    merged = isinstance(method, MuSe) and method._merged and problem.causal
    for i, (pairs, n) in enumerate(sizes):
        partition = method._partition
        C = partition.number(block if merged else n)
        reads = (method.iterations + 1) * n * D * b if partition.kind == "kmeans" else 0.0
        if isinstance(method, MuSe):
            Cq = (
                method._leaf_query_partition.number(block) << i
                if merged
                else method._query_partition.number(n)
            )
            copies = Cq * method.near
            if method.near_for == "query":  # of a tile, each for one cluster
                copies = n * method.near // tile_size(n, method.near, C) + C if method.near else 0
            near = copies * min(partition.size(n), n) * 2 * D * b
            extra += pairs * 4 * Cq * C * (2 * D + 1)
            again += pairs * ((0 if merged else 2 * reads) + near)
        else:
            extra += pairs * 4 * C * (2 * D + 1)
            again += pairs * reads
    if merged:  # once, in the leaves
        again += 2 * (method.iterations + 1) * problem.tokens * D * b
    return extra, again

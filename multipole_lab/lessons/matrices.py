"""The matrix of a head: how much each query gives to each key under any method, and which pairs are summed exactly.

Every method is linear in the values: where a value says which keys are meant, 1 or 0, the output is their weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot, pad

from multipole_lab.attention import Method, MuSe
from multipole_lab.attention.causal import block_sizes, of_side, sides
from multipole_lab.attention.clusters.assignments import Assignments
from multipole_lab.attention.clusters.slots import Labels, Slots
from multipole_lab.attention.expansion import masses_at, nearest_clusters, summarise
from multipole_lab.clustering.clusters import Clusters


@dataclass(frozen=True)
class Cells:
    """Where queries and keys fall in a picture of ``count`` rows and columns.

    Attributes
    ----------
    queries, keys : [N]. The row of every query and the column of every key.
    """

    queries: Int[np.ndarray, " N"]
    keys: Int[np.ndarray, " N"]
    count: int

    @classmethod
    def of(cls, queries: Int[np.ndarray, " N"], keys: Int[np.ndarray, " N"], most: int) -> Cells:
        """As many in every row and column, in the order of two rankings (0 to N - 1, each once)."""
        N = len(queries)
        count = min(most, N)
        return cls(queries * count // N, keys * count // N, count)

    def tensors(self) -> tuple[Float[Tensor, "N cells"], Float[Tensor, "N cells"]]:
        """1 where a query is in a row, and where a key is in a column."""
        rows, columns = (one_hot(torch.from_numpy(x), self.count).float() for x in (self.queries, self.keys))
        return rows, columns


def share(
    method: Method,
    q: Float[Tensor, "1 1 N D"],
    k: Float[Tensor, "1 1 N D"],
    cells: Cells,
    causal: bool,
    scale: float | None = None,
) -> Float[np.ndarray, "cells cells"]:
    """The share of its attention that a query of a row gives to the keys of a column, on average.

    A row adds up to 1; a dipole may make some shares negative.
    """
    return share_and_output(method, q, k, q[..., :0], cells, causal, scale)[0]


@torch.inference_mode()
def share_and_output(
    method: Method,
    q: Float[Tensor, "1 1 N D"],
    k: Float[Tensor, "1 1 N D"],
    v: Float[Tensor, "1 1 N Dv"],
    cells: Cells,
    causal: bool,
    scale: float | None = None,
) -> tuple[Float[np.ndarray, "cells cells"], Float[Tensor, "1 1 N Dv"]]:
    """What ``share`` returns, and the output for values v, by one call of the method."""
    rows, columns = cells.tensors()
    both = torch.cat([columns[None, None].to(v.dtype), v], -1)
    out = method(q, k, both, causal=causal, scale=scale).float()
    weights, out = out[..., : cells.count], out[..., cells.count :]
    return (rows.T @ weights[0, 0] / rows.sum(0)[:, None]).numpy(), out


def by_cluster(queries: Clusters, keys: Clusters, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Rankings [N] that put the members of a cluster side by side, of the queries and of the keys.

    Key clusters are ranked along the direction in which their centroids differ most, query clusters by the mean rank
    of the keys that their centroids attend to: so heavy cells come near the diagonal.
    """
    p, c = queries.centroids[0, 0].double(), keys.centroids[0, 0].double()
    counts = keys.counts[0, 0].double()
    spread = (c - (counts @ c) / counts.sum()) * counts.sqrt()[:, None]
    along = spread @ torch.linalg.eigh(spread.T @ spread).eigenvectors[:, -1] / counts.clamp(min=1).sqrt()
    place = along.argsort().argsort()
    centre = (scale * p @ c.T + counts.log()).softmax(-1) @ place.double()
    ranks = (centre.argsort().argsort(), queries), (place, keys)
    return tuple(
        rank[clusters.labels[0, 0]].argsort(stable=True).argsort().numpy() for rank, clusters in ranks
    )


@torch.inference_mode()
def exact_pairs(
    method: MuSe,
    q: Float[Tensor, "1 1 N D"],
    k: Float[Tensor, "1 1 N D"],
    cells: Cells,
    causal: bool,
    scale: float,
) -> tuple[Float[np.ndarray, "cells cells"], Float[np.ndarray, "cells cells"]]:
    """How many pairs of every cell are summed one by one, and how many pairs there are that a query sees.

    One by one: near clusters, and the leaves of causal blocks. MuSe (2509.10406), sections 3 and 4.
    """
    N = q.shape[2]
    rows, columns = cells.tensors()
    if not causal:
        found = method._query_partition.found(q), method._partition.found(k)
        exact = _near_pairs(method, q, k, rows[None], columns[None], scale, found)
        return exact.numpy(), rows.sum(0).outer(columns.sum(0)).numpy()
    size, levels = block_sizes(N, method.leaf)
    so_far = columns.cumsum(0)
    leaf_began = torch.arange(N) // size * size
    own_leaf = so_far - pad(so_far, (0, 0, 1, 0))[leaf_began]
    seen, exact = rows.T @ so_far, rows.T @ own_leaf
    extra = (size << levels) - N  # fills up the last block, as the method does, and counts for nothing
    q, k = (pad(x, (0, 0, 0, extra)) for x in (q, k))
    rows, columns = (pad(x, (0, 0, 0, extra)) for x in (rows, columns))
    for found in method._level_labels(q, k, None, size, levels) if levels else ():
        left, right = sides(1, size)
        found = tuple(map(of_side, found, (right, left)))
        tops, lefts = (side(x[None, None])[:, 0] for side, x in ((right, rows), (left, columns)))
        exact += _near_pairs(method, right(q), left(k), tops, lefts, scale, found)
        size *= 2
    return exact.numpy(), seen.numpy()


def _near_pairs(
    method: MuSe,
    q: Float[Tensor, "B 1 n D"],
    k: Float[Tensor, "B 1 n D"],
    rows: Float[Tensor, "B n cells"],
    columns: Float[Tensor, "B n cells"],
    scale: float,
    labels: tuple[Labels, Labels],
) -> Float[Tensor, "cells cells"]:
    """How many pairs of every cell the method sums exactly, because they lie in near clusters."""
    if method.near == 0:
        return rows.new_zeros(rows.shape[-1], rows.shape[-1])
    kept = torch.ones(k.shape[:3], dtype=torch.bool)
    clusters = Assignments(*map(Slots.laid_out, labels), kept)
    qs, p = clusters.queries_and_points(q)
    ks, vs = clusters.keys_and_values(k, k)
    a, k_tilted, _ = summarise(p, ks, vs, clusters.filled, scale)
    masses = a.unsqueeze(2).expand(*qs.shape[:3], -1)
    if method.near_for == "query":
        masses = masses_at(qs, p, a, k_tilted, scale)
    chosen = clusters.of_queries(nearest_clusters(masses, method.near))  # [B, n, near]
    near = rows.new_zeros(*chosen.shape[:2], a.shape[-1]).scatter(-1, chosen, 1.0)  # [B, n, J]
    cluster = clusters.keys.slot[:, 0] // clusters.keys.index.shape[-1]
    lefts = one_hot(cluster, a.shape[-1]).float().mT @ columns  # [B, J, cells]
    return torch.einsum("bnr,bnj,bjc->rc", rows, near, lefts)

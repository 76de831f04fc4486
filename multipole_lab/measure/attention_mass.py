"""Where a method puts its attention: its weights, and how much of the exact softmax mass it gets right.

Every method's output is linear in the values, so its weights can be read off: with the values set to unit vectors, the
output of a query is the weights of those keys. No method needs to tell what it does inside.
"""

from __future__ import annotations

from numbers import Real

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multipole_lab.attention import Method
from multipole_lab.clustering.checks import check_vectors
from multipole_lab.suggesting import suggesting

# Unit vectors at a time: the value head size of one call.
STEP = 128


@suggesting
@torch.no_grad()
def method_weights(
    method: Method,
    q: Float[Tensor, "B Hq N D"],
    k: Float[Tensor, "B Hk N D"],
    queries: Int[Tensor, " n"] | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> tuple[Float[Tensor, "B Hq n N"], Float[Tensor, "B Hq n"]]:
    """The weight of every key in a method's answer to some queries, and the method's log-sum-exp.

    Takes N / 128 calls of the method and memory for n N weights a head: meant for a few thousand keys.

    Parameters
    ----------
    method : any.
    q, k : [B, Hq, Nq, D], [B, Hk, Nk, D].
    queries : positions of the queries whose weights are wanted; all by default. The method sees all queries.
    causal, scale : as for the method.

    Raises
    ------
    ValueError, TypeError : what is no method, no tensors, no integers in one row, or a query that is not there.
    """
    if not isinstance(method, Method):
        raise TypeError(f"method is {method!r}; an attention method such as ml.MuSe() is needed")
    check_vectors(q, "q")
    check_vectors(k, "k")
    queries, Nk = _positions(q, queries), k.shape[2]
    parts = []
    for first in range(0, Nk, STEP):
        unit = torch.zeros(Nk, min(STEP, Nk - first), dtype=q.dtype, device=q.device)
        unit[first : first + STEP] = torch.eye(unit.shape[1], dtype=q.dtype, device=q.device)
        v = unit.expand(*k.shape[:2], *unit.shape)
        out, lse = method(q, k, v, causal=causal, scale=scale, return_lse=True)
        parts.append(out[:, :, queries])
    return torch.cat(parts, -1), lse[:, :, queries]


@suggesting
@torch.no_grad()
def mass_overlap(
    method: Method,
    q: Float[Tensor, "B Hq N D"],
    k: Float[Tensor, "B Hk N D"],
    queries: Int[Tensor, " n"] | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> Float[Tensor, "B Hq n"]:
    """``sum_n min(w_n, w~_n)`` of exact and approximate weights: the attention mass that is where it should be.

    1 is the same distribution over keys, 0 a disjoint one; it is one less the total variation distance. A dipole's
    weights may be negative and count as they are. Arguments as for ``method_weights``.
    """
    ours, _ = method_weights(method, q, k, queries, causal=causal, scale=scale)
    exact, _ = _exact(q, k, queries, causal, scale)
    return torch.minimum(ours, exact).sum(-1)


@suggesting
@torch.no_grad()
def mass_recall(
    method: Method,
    q: Float[Tensor, "B Hq N D"],
    k: Float[Tensor, "B Hk N D"],
    queries: Int[Tensor, " n"] | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    tolerance: float = 1e-3,
) -> Float[Tensor, "B Hq n"]:
    """The share of the exact softmax mass that lies on keys which the method sums exactly.

    A key is summed exactly where its share of the method's sum is what it should be: where
    ``log w~_n + lse~ = s q.k_n`` up to ``tolerance``, the method's weights w~ and log-sum-exp lse~. Keys behind a
    centroid miss it except by chance. Selecting methods (``Window``, ``TopK``) get the mass of what they select, so no
    method with as many keys a query has more than ``TopK``; ``Exact`` has 1. Arguments as for ``method_weights``.
    """
    if isinstance(tolerance, bool) or not isinstance(tolerance, Real):
        raise TypeError(f"tolerance is {tolerance!r}; a number is needed")
    if not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance}; at least 0 is needed")
    ours, lse = method_weights(method, q, k, queries, causal=causal, scale=scale)
    exact, logits = _exact(q, k, queries, causal, scale)
    error = (ours.double().log() + lse.double().unsqueeze(-1) - logits).abs()  # NaN for a negative weight
    return torch.where(error <= tolerance, exact, 0.0).sum(-1)


def _exact(
    q: Tensor, k: Tensor, queries: Tensor | None, causal: bool, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Exact weights and logits of some queries, [B, Hq, n, Nk], in float64."""
    Nq, Nk = q.shape[2], k.shape[2]
    queries = _positions(q, queries)
    keys = k.double().repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    logits = (q.shape[-1] ** -0.5 if scale is None else scale) * q[:, :, queries].double() @ keys.mT
    if causal:
        future = torch.arange(Nk, device=q.device) > (queries + Nk - Nq)[:, None]
        logits = logits.masked_fill(future, -torch.inf)
    return logits.softmax(-1), logits


def _positions(q: Tensor, queries: Tensor | None) -> Tensor:
    """The positions asked for, on q's device; all of them by default."""
    Nq = q.shape[2]
    if queries is None:
        return torch.arange(Nq, device=q.device)
    queries = torch.as_tensor(queries, device=q.device)
    if queries.ndim != 1 or queries.is_floating_point() or queries.dtype == torch.bool:
        raise TypeError(
            f"queries is {queries.dtype} of shape {tuple(queries.shape)}; integers of shape [n] are needed"
        )
    if queries.numel() and not 0 <= int(queries.min()) <= int(queries.max()) < Nq:
        raise ValueError(f"queries has positions beyond 0 to {Nq - 1}")
    return queries

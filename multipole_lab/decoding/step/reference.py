"""One decoding step over a clustered cache: plain tensors in, ``(out, lse)`` out.

The cache is a ``State``, whose layout ``state.py`` describes; G = Hq / Hk query heads share a row, and with it
one selection. For the queries q_g of one row (s the scale; the same parts as functions below):

1. ``masses``: ``a_gj = log tokens_j + s q_g.keys_j [+ s^2 |q_g|^2 spread_j]`` over the top level, whole. The
   bracket is the second order of the log mass at the origin for keys that spread alike in all directions: an
   average of exponentials is above the exponential of the average. It is left out where there are no
   ``State.spreads``, and under a softcap. Where there is a ``State.sketch``, fine clusters have the sum over their
   members instead, ``a_gj = s q_g.keys_j + log sum_i exp(s q_g.r_i)`` (``store/sketch.py``); not under a softcap.
2. ``open_clusters``: clusters ranked by ``share_j = sum_g exp(a_gj - norm_g)`` per member (what a place buys, and
   the paper's score, its equation 1; ``ml.Centroid`` ranks by the whole mass), taken in that order while their members
   fit. On the coarse level ``lookups`` fine clusters fit (they are looked at), on the fine one ``budget`` keys (they
   are summed exactly). ``norm_g`` is the log-sum-exp over the top level, sinks and tail.
3. One softmax over the masses of every cluster that was not opened (``replacement``; each stands for its keys
   with its mean value), the sinks, the tail and the members of opened clusters.

Every shape depends on sizes that the host knows, never on the data. Bytes a row touches: the top level once,
twice ``lookups`` centroids, ``2 (budget + sinks + tail)`` keys and values.

Multipole Attention, arXiv 2506.13059, section 3; ``docs/design.md#decode``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multipole_lab.attention.expansion import NEVER
from multipole_lab.attention.partials import Partial
from multipole_lab.clustering.clusters import statistics_dtype
from multipole_lab.decoding.step.opening import gather_rows, open_clusters, weighted_rows
from multipole_lab.decoding.step.trace import Seen
from multipole_lab.decoding.store.sketch import Sketch, residual_masses
from multipole_lab.decoding.store.state import Level, State
from multipole_lab.suggesting import suggesting

if TYPE_CHECKING:
    from multipole_lab.kernels.decode.work import Work

__all__ = ["Level", "State", "decode_step", "exact_part", "masses", "open_clusters"]


@suggesting
def decode_step(
    q: Float[Tensor, "B Hq 1 D"],
    state: State,
    *,
    scale: float,
    budget: int,
    rooms: Int[Tensor, " R"] | None = None,
    lookups: int | None = None,
    replacement: bool = True,
    top_p: float | None = None,
    softcap: float | None = None,
    lookup_q: Float[Tensor, "B Hq 1 D"] | None = None,
    work: Work | None = None,
    seen: Seen | None = None,
) -> Partial:
    """Attention of one new query per head over everything in the cache.

    Parameters
    ----------
    q : [B, Hq, 1, D], Hq a multiple of Hk.
    state : the cache of this layer, the query's own key included.
    scale : factor s of the logits.
    budget : keys of opened clusters that every row sums exactly.
    rooms : [B * Hk], every row's own budget, at most ``budget``; None for the same (``balance.py``).
    lookups : with two levels, how many fine clusters a row looks at; None for all.
    replacement : whether clusters that were not opened count with their means; otherwise they are dropped.
    top_p : also stop opening clusters once the exact part is estimated to hold this share of the mass.
    softcap : logits become ``softcap * tanh(s q.k / softcap)`` (Gemma 2).
    lookup_q : the query for centroids, where those are in another frame than the keys (``rope.py``).
    work : buffers kept from step to step, for inference; None for new ones, which costs twice the time.
    seen : where it is noted what was looked at and opened (``trace.py``).

    Returns
    -------
    out [B, Hq, 1, Dv] in q's dtype and lse [B, Hq, 1] float32 (float64 for float64).
    """
    B, Hq, _, D = q.shape
    Hk = state.keys.shape[1]
    G = Hq // Hk
    dtype = statistics_dtype(q.dtype)
    rows = q.reshape(B * Hk, G, D).to(dtype)
    probe = rows if lookup_q is None else lookup_q.reshape(B * Hk, G, D).to(dtype)
    logits, values = exact_part(rows, state, scale, softcap)

    if state.levels:
        fine, top = state.levels[0].rows(), state.levels[-1].rows()
        spreads = [x.flatten(0, 1) for x in state.spreads] if softcap is None else []
        inner = None
        if state.sketch is not None and softcap is None:
            sketches = Sketch(*(x.flatten(0, 1) for x in state.sketch))
            members = fine.first[:, : fine.size], fine.tokens[:, : fine.size]
            inner = residual_masses(probe, sketches, *members, state.clustered, scale)
        spread, one = spreads[-1][:, : top.size] if spreads else None, len(state.levels) == 1
        counted = top.keys[:, : top.size], top.tokens[:, : top.size]
        a = masses(probe, *counted, scale, softcap, spread, inner if one else None)
        norm = _softmax([a, *logits])[2]
        limit = None
        if top_p is not None:
            limit = top_p * G - (_share(torch.cat(logits, -1), norm).sum(-1, keepdim=True) if logits else 0.0)
        looked = None
        if not one:
            places = fine.size if lookups is None else min(lookups, fine.size)
            looked = open_clusters(_share(a, norm), top.first, top.members, places)
            if replacement:
                logits.append(a.masked_fill(looked[2].unsqueeze(1), NEVER))
                values.append(top.values[:, : top.size])
            among, reached, _ = looked
            tokens, first = (torch.where(reached, x.gather(-1, among), 0) for x in (fine.tokens, fine.first))
            spread = spreads[0].gather(-1, among) if spreads else None
            if inner is not None:
                inner = inner.gather(-1, among.unsqueeze(1).expand(-1, G, -1))
            a = masses(probe, gather_rows(fine.keys, among, work), tokens, scale, softcap, spread, inner)
        else:
            tokens, first = fine.tokens, fine.first
        share = _share(a, norm)
        # Empty places read the newest key, which is never padding: whose value may be anything, and 0 * inf is no 0.
        index, taken, opened = open_clusters(
            share, first, tokens, budget, limit, rooms, spare=state.length - 1
        )
        if seen is not None:
            seen.note(state, looked, share, index, taken, opened)
        if replacement:
            logits.append(a.masked_fill(opened.unsqueeze(1), NEVER))
            values.append(fine.values[:, : fine.size] if looked is None else (fine.values, looked[0]))
        if index.shape[-1]:
            member = _logits(rows, gather_rows(state.keys.flatten(0, 1), index, work), scale, softcap)
            logits.append(member.masked_fill(~taken.unsqueeze(1), NEVER))
            values.append((state.values.flatten(0, 1), index))

    weights, total, lse = _softmax(logits)
    out = 0.0
    for w, v in zip(weights.split([x.shape[-1] for x in logits], -1), values, strict=True):
        out = out + (weighted_rows(w, *v) if isinstance(v, tuple) else torch.bmm(w, v.to(dtype)))
    out = out / total
    lse = torch.where(lse < NEVER / 2, -torch.inf, lse)
    return out.to(q.dtype).view(B, Hq, 1, -1), lse.view(B, Hq, 1)


def exact_part(
    q: Float[Tensor, "R G D"], state: State, scale: float, softcap: float | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Logits [R, G, n] and values [R, n, Dv] of the sinks and of the tail, each where there are any."""
    logits, values, start = [], [], 0
    for begin, end in ((0, state.sinks), (state.clustered, state.length)):
        if begin == end:
            continue
        one = _logits(q, state.keys[:, :, begin:end].flatten(0, 1), scale, softcap)
        value = state.values[:, :, begin:end].flatten(0, 1)
        if state.valid is not None:
            hidden = ~state.valid[:, start : start + end - begin].repeat_interleave(state.keys.shape[1], 0)
            one = one.masked_fill(hidden.unsqueeze(1), NEVER)
            value = value.masked_fill(hidden.unsqueeze(-1), 0)
        start += end - begin
        logits.append(one)
        values.append(value)
    return logits, values


def masses(
    q: Float[Tensor, "R G D"],
    centroids: Float[Tensor, "R C D"],
    tokens: Int[Tensor, "R C"],
    scale: float,
    softcap: float | None = None,
    spread: Float[Tensor, "R C"] | None = None,
    inner: Float[Tensor, "R G C"] | None = None,
) -> Float[Tensor, "R G C"]:
    """``a_gj = log tokens_j + s q_g.centroid_j [+ s^2 |q_g|^2 spread_j]``; ``NEVER`` for empty clusters.

    ``inner`` stands for the count and the spread, where sums over the members are known (``residual_masses``).
    """
    if inner is not None:
        return _logits(q, centroids, scale) + inner.masked_fill(tokens.unsqueeze(1) == 0, NEVER)
    # log(0) = -inf, which would make NaN of 0 * -inf later
    log_tokens = tokens.to(q.dtype).log().clamp(min=NEVER).unsqueeze(1)
    if spread is not None:
        log_tokens = log_tokens + (scale * q).square().sum(-1, keepdim=True) * spread.unsqueeze(1)
    return _logits(q, centroids, scale, softcap) + log_tokens


def _logits(q: Tensor, keys: Tensor, scale: float, softcap: float | None = None) -> Tensor:
    # Keys from the left: a CPU reads them once, row by row.
    logits = torch.bmm(keys.to(q.dtype), (scale * q).mT).mT
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def _softmax(logits: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """exp(x - max) of all logits side by side, its sum and the log-sum-exp, both [R, G, 1]."""
    x = torch.cat(logits, -1)
    largest = x.amax(-1, keepdim=True)
    weights = x.sub_(largest).exp_()  # in place: new memory costs more than the arithmetic
    total = weights.sum(-1, keepdim=True)
    return weights, total, largest + total.log()


def _share(a: Tensor, norm: Tensor) -> Tensor:
    """Every cluster's share of the mass, summed over the queries of the group."""
    return (a - norm).exp().sum(1)

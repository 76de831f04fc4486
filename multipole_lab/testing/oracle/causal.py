"""Causal attention from an approximation of full attention."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from multipole_lab.testing.oracle.softmax import Partial, exact, merge, visible


def causal(
    full: Callable[[Tensor, Tensor, Tensor], Partial],
    q: Float[Tensor, "*batch Nq D"],
    k: Float[Tensor, "*batch Nk D"],
    v: Float[Tensor, "*batch Nk Dv"],
    *,
    s: float,
    leaf: int,
) -> Partial:
    """``causal(N) = causal(left half), causal(right half) merged with full(right -> left)``, exact up to ``leaf``.

    The queries are the last Nq positions; the keys before them are one more full block, exact up to ``leaf`` too.
    Zeros behind the last position make all leaves equally long.
    """
    N, past = q.shape[-2], k.shape[-2] - q.shape[-2]
    blocks = 1
    while -(-N // blocks) > leaf:
        blocks *= 2
    extra = -(-N // blocks) * blocks - N
    padded = [pad(x, (0, 0, 0, extra)) for x in (q, k[..., past:, :], v[..., past:, :])]
    out, lse = _halves(full, *padded, s=s, leaf=leaf)
    square = out[..., :N, :], lse[..., :N]
    if past == 0:
        return square
    before = q, k[..., :past, :], v[..., :past, :]
    return merge([square, exact(*before, s) if past <= leaf else full(*before)])


def _halves(full: Callable, q: Tensor, k: Tensor, v: Tensor, *, s: float, leaf: int) -> Partial:
    N = q.shape[-2]
    if leaf >= N:
        return exact(q, k, v, s, visible(N, N, causal=True).to(q.device))
    (lq, rq), (lk, rk), (lv, rv) = (x.split(N // 2, -2) for x in (q, k, v))
    left = _halves(full, lq, lk, lv, s=s, leaf=leaf)
    right = merge([_halves(full, rq, rk, rv, s=s, leaf=leaf), full(rq, lk, lv)])
    return torch.cat([left[0], right[0]], -2), torch.cat([left[1], right[1]], -1)

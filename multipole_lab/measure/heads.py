"""One head, or the first n tokens, of a captured layer, with the key head that each query head reads."""

from __future__ import annotations

from torch import Tensor


def one_head(layer, head: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k, v, each [1, 1, length, D], of query head ``head`` and of the key/value head it reads.

    Parameters
    ----------
    layer : anything with q [1, Hq, N, D], k [1, Hk, N, D] and v [1, Hk, N, Dv].
    head : the query head, 0..Hq-1; it reads key head ``head // (Hq / Hk)``.
    length : the context: the first ``length`` tokens.

    Raises
    ------
    ValueError : a head that does not exist, or a length beyond the sample's.
    """
    heads = layer.q.shape[1]
    if not 0 <= head < heads:
        raise ValueError(f"head: this layer has heads 0 to {heads - 1}, got {head}")
    q, k, v = first_tokens(layer, length)
    source = head // (heads // k.shape[1])
    return q[:, head : head + 1], k[:, source : source + 1], v[:, source : source + 1]


def first_tokens(layer, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k, v of all heads, cut to the first ``length`` tokens."""
    tokens = layer.q.shape[2]
    if not 1 <= length <= tokens:
        raise ValueError(f"length: this sample has {tokens:,} tokens, got {length:,}")
    return layer.q[:, :, :length], layer.k[:, :, :length], layer.v[:, :, :length]

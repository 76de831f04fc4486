"""Attention of a model's queries, keys and values, made of the operators."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pad

from ..common.layout import level_blocks
from .clusters import clusters as clusters_of
from .exact import exact
from .muse import muse, muse_causal


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, scale: float | None = None) -> Tensor:
    """Exact attention: q [B, Hq, Nq, D], k [B, Hk, Nk, D], v [B, Hk, Nk, Dv] give [B, Hq, Nq, Dv].

    Hq is a multiple of Hk. scale is D ** -0.5 by default. Causal queries are the last ones.
    """
    return exact(q, k, v, q.shape[-1] ** -0.5 if scale is None else scale, causal)[0]


def muse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool = False,
    scale: float | None = None,
    clusters: int = 64,
    query_clusters: int | None = None,
    near: int = 0,
    iterations: int = 1,
    cap: float | None = 1.5,
    leaf: int = 1024,
    seed: int = 0,
) -> Tensor:
    """Multipole semantic attention (arXiv 2509.10406) with k-means and a monopole, in time O(N clusters D).

    Shapes as in `attention`; causal attention needs as many queries as keys. No padding: cut it off first.

    Parameters
    ----------
    clusters : of the keys; causal, of every block. query_clusters : of the queries, by default as many.
    near : key clusters that each query cluster sums exactly.
    iterations, cap, seed : of k-means; see `clusters`.
    leaf : causal blocks of at most this many positions are exact.

    Raises
    ------
    ValueError, TypeError : for what the kernels do not take, with what they do.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    settings = iterations, cap, seed

    def both(of_queries: Tensor, of_keys: Tensor) -> list[Tensor]:
        mine = clusters_of(of_queries.detach(), query_clusters or clusters, *settings)
        return [*mine, *clusters_of(of_keys.detach(), clusters, *settings)[1:]]

    if not causal:
        return muse(q, k, v, *both(q, k), scale, min(near, clusters, k.shape[2]))[0]
    if q.shape[2] != k.shape[2]:
        raise ValueError(
            f"q has {q.shape[2]} positions and k {k.shape[2]}; causal attention needs one number"
        )
    N = q.shape[2]
    levels = (-(-N // leaf) - 1).bit_length()
    block = -(-N // (1 << levels))
    # Zeros behind all real positions, so that only they see themselves.
    q, k, v = (pad(x, (0, 0, 0, (block << levels) - N)) for x in (q, k, v))
    found = [
        x for level in range(levels) for x in both(*level_blocks(q.detach(), k.detach(), block << level))
    ]
    return muse_causal(q, k, v, found, block, scale, min(near, clusters, block))[0][:, :, :N]

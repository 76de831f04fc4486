"""MuSe whose clusters are runs of consecutive positions: nothing is clustered, sorted or gathered.

Three launches forward (means, summaries, attention) and six backward, for all levels of the causal recursion.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.checks import check_attention, check_tensors
from ..common.delta import output_delta
from ..common.derivatives import KernelFunction
from ..common.launch import fp32_precision, target_of
from ..common.layout import row_strided
from ..muse.forward import one_head_size
from ..muse.select import select_near
from .attend import runs_attend
from .key_grad import runs_key_grad
from .query_grad import runs_query_grad
from .summaries import runs_means, runs_summaries
from .summary_grad import runs_summary_grad
from .tree import Tree


def fits(q: Tensor, v: Tensor) -> bool:
    """Whether the heads are small enough that no kernel here spills: to 128 in half precision from 8.0 on, else 64."""
    large = q.element_size() == 2 and target_of(q).capability >= 80
    return max(q.shape[-1], v.shape[-1]) <= (128 if large else 64)


def runs_muse(
    q: Tensor, k: Tensor, v: Tensor, tree: Tree, scale: float, near: int = 0
) -> tuple[Tensor, Tensor]:
    """Full or causal attention with a monopole, as `muse` and `muse_causal` of runs of consecutive positions.

    Parameters
    ----------
    q : [B, Hq, Nq, D], k : [B, Hk, Nk, D], v : [B, Hk, Nk, Dv] of one dtype, any strides; head sizes as
        `fits` says.
    tree : the blocks; its queries and keys are Nq and Nk.
    near : key clusters that every query cluster sums exactly; without gradients only.

    Returns
    -------
    out [B, Hq, Nq, Dv] in the dtype of q, lse [B, Hq, Nq] fp32; differentiable in q, k and v where near is 0.

    Raises
    ------
    ValueError : for sizes that are not the tree's, larger heads, or near clusters where a gradient is asked for.
    """
    check_tensors("runs_muse", q=q, k=k, v=v)
    check_attention("runs_muse", q, k, v)
    if (q.shape[2], k.shape[2]) != (tree.queries, tree.keys):
        raise ValueError(
            f"q and k have {q.shape[2]} and {k.shape[2]} positions; the tree has {tree.queries} and {tree.keys}"
        )
    if not fits(q, v):
        raise ValueError(
            f"q and v have head sizes {q.shape[-1]} and {v.shape[-1]} in {q.dtype}; up to 128 are allowed in half "
            "precision from compute capability 8.0 on, and 64 elsewhere: use `muse` or `muse_causal`"
        )
    if near and torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        raise ValueError(
            f"near is {near}; with gradients only 0 is allowed here: use `muse` or `muse_causal`"
        )
    size = v.shape[-1]
    q, k, v = (row_strided(x) for x in one_head_size(q, k, v))
    out, lse = _RunsMuSe.apply(q, k, v, tree, scale, near, fp32_precision(q))
    return out[..., :size], lse


class _RunsMuSe(KernelFunction):
    operation = "runs_muse"

    @staticmethod
    def forward(ctx, q, k, v, tree, scale, near, precision):
        centroids = runs_means(q, tree)
        mass, mean_k, mean_v = runs_summaries(centroids, k, v, tree, scale, precision=precision)
        chosen, far = None, mass
        if near:
            rows = mass.flatten(2, 3)
            chosen, far, _ = select_near(rows, near)
            chosen, far = chosen.view(*mass.shape[:4], -1), far.view_as(mass)
        out, lse = runs_attend(
            q, k, v, centroids, chosen, far, mean_k, mean_v, tree, scale, precision=precision
        )
        ctx.save_for_backward(q, k, v, centroids, out, lse)
        ctx.tree, ctx.scale, ctx.precision = tree, scale, precision
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx, dout, dlse):
        q, k, v, centroids, out, lse = ctx.saved_tensors
        tree, scale = ctx.tree, ctx.scale
        dout = torch.zeros_like(out) if dout is None else row_strided(dout)
        delta = output_delta(out, dout, dlse)
        # Recomputed: they are several times as large as q, k and v.
        summaries = runs_summaries(centroids, k, v, tree, scale, precision=ctx.precision)
        seen = centroids, *summaries
        grads = runs_summary_grad(q, dout, *seen, lse, delta, tree, scale, precision=ctx.precision)
        dk, dv, d_centroids = runs_key_grad(
            q, k, v, dout, centroids, summaries[0], grads, lse, delta, tree, scale, precision=ctx.precision
        )
        dq = runs_query_grad(
            q, k, v, dout, *seen, d_centroids, lse, delta, tree, scale, precision=ctx.precision
        )
        return dq, dk, dv, None, None, None, None

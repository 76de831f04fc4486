"""MuSe attention of given query and key clusters, forward and backward, from the kernels beside this file."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..common.checks import check_attention, check_sorts, check_tensors
from ..common.derivatives import KernelFunction, Run, run_now
from ..common.launch import fp32_precision
from ..common.layout import row_strided
from .backward import muse_backward
from .dipole import dipole
from .evaluate import evaluate
from .select import select_near
from .summarise import summarise

ORDERS = ("monopole", "dipole")


def muse(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_centroids: Tensor,
    q_order: Tensor,
    q_offsets: Tensor,
    k_order: Tensor,
    k_offsets: Tensor,
    scale: float,
    near: int = 0,
    order: str = "monopole",
    basis: Tensor | None = None,
    precision: str | None = None,
    padded: bool = True,
    run: Run = run_now,
) -> tuple[Tensor, Tensor]:
    """Full attention of clustered queries to clustered keys; differentiable in q, k, v and the basis.

    With d = q - p_i: the logits are a_ij + s d.k~_ij with values v~_ij for the far key clusters, and s q.k_n
    with v_n for the keys of the `near` clusters of largest a_ij; a dipole adds share * s * M_i U_i U_i^T d.

    Parameters
    ----------
    q : [B, Hq, Nq, D], k : [B, Hk, Nk, D], v : [B, Hk, Nk, Dv] of one dtype, fp16, bf16 or fp32, head sizes
        16 .. 256; any strides. Where the last dimension is contiguous, as in views of causal blocks, nothing is copied.
    q_centroids : [B, Hq, Cq, D], the means of the query clusters.
    q_order, q_offsets : [B, Hq, Nq] and [B, Hq, Cq + 1], as in `Clusters`; k_order, k_offsets likewise of
        the keys. Padding lies behind the last offset and takes no part.
    scale : s, usually D ** -0.5.
    near : how many key clusters every query cluster sums exactly; all of them is exact attention.
    order : "monopole" or "dipole". basis : U [B, Hq, Cq, D, r], the directions of the dipole; None for all D.
    precision : of fp32 products, "ieee" or "tf32x3"; None takes tf32x3 where tensor cores have it.
    padded : whether some queries may be in no cluster; False saves a pass over the results.
    run : what computes the gradients of a monopole, of a name, a function and its tensors.

    Returns
    -------
    out [B, Hq, Nq, Dv] in the dtype of q, lse [B, Hq, Nq] fp32. A padded query has out 0 and lse -inf.

    The labels and the near selection are constants of the backward; p_i is the mean of its members, so its
    gradient flows to them. A basis that requires a gradient gets one. The backward recomputes the summaries instead
    of storing them.
    """
    check_tensors("muse", q=q, k=k, v=v)
    if order not in ORDERS:
        raise ValueError(f"order is {order!r}; allowed are {', '.join(map(repr, ORDERS))}")
    check_attention("muse", q, k, v)
    B, Hq, _, D = q.shape
    Cq = q_offsets.shape[-1] - 1
    check_sorts("muse", q, q.shape[:3], k.shape[:3], q_order, q_offsets, k_order, k_offsets)
    if tuple(q_centroids.shape) != (B, Hq, Cq, D) or (
        basis is not None and basis.shape[:-1] != q_centroids.shape
    ):
        raise ValueError(
            f"muse: q_centroids have shape {tuple(q_centroids.shape)}, basis "
            f"{None if basis is None else tuple(basis.shape)}; {(B, Hq, Cq, D)}, and that with r behind, are needed"
        )
    centroids = q_centroids.detach().to(q.dtype)
    size = v.shape[-1]
    q, k, v, centroids = (row_strided(x) for x in one_head_size(q, k, v, centroids))
    if basis is not None and basis.shape[-2] < q.shape[-1]:
        basis = pad(basis, (0, 0, 0, q.shape[-1] - basis.shape[-2]))
    basis = None if basis is None else basis.contiguous()
    # Triton 3.6 reads beyond shared memory in the split products of the dipole's kernels.
    precision = precision or ("ieee" if order == "dipole" else fp32_precision(q))
    sorted_queries, sorted_keys = (q_order, q_offsets), (k_order, k_offsets)
    out, lse = _MuSe.apply(
        q,
        k,
        v,
        centroids,
        *sorted_queries,
        *sorted_keys,
        scale,
        near,
        order == "dipole",
        basis,
        precision,
        padded,
        run,
    )
    return out[..., :size], lse


def one_head_size(q: Tensor, k: Tensor, v: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
    """fp32 tensors with zeros behind, so that all heads have one size; others as they are.

    Zeros change no product. Without them Triton 3.6 reads beyond shared memory on an H100 where the sizes of keys and
    values differ and products are split into three; half precision is right there.
    """
    size = max(x.shape[-1] for x in (q, v))
    if q.dtype != torch.float32 or not q.is_cuda or q.shape[-1] == v.shape[-1]:
        return q, k, v, *more
    return tuple(pad(x, (0, size - x.shape[-1])) for x in (q, k, v, *more))


class _MuSe(KernelFunction):
    operation = "muse"

    @staticmethod
    def forward(
        ctx,
        q,
        k,
        v,
        centroids,
        q_order,
        q_offsets,
        k_order,
        k_offsets,
        scale,
        near,
        with_dipole,
        basis,
        precision,
        padded,
        run,
    ):
        mass, mean_k, mean_v = summarise(centroids, k, v, k_order, k_offsets, scale, precision=precision)
        # Without a near field every cluster is far, and only a dipole or the backward asks for the far mass.
        if near or with_dipole:
            chosen, far, far_mass = select_near(mass, near)
        else:
            chosen, far, far_mass = mass.new_empty(0, dtype=torch.int32), mass, None
        moment = None
        if with_dipole:
            means = far, far_mass, mean_k, mean_v
            moment = dipole(
                centroids, k, v, k_order, k_offsets, *means, basis, scale, near > 0, precision=precision
            )
        sorts = (q_order, q_offsets, k_order, k_offsets)
        summaries = (chosen, far, mean_k, mean_v)
        out, lse, share = evaluate(
            q, k, v, centroids, *sorts, *summaries, scale, basis, moment, precision=precision, padded=padded
        )
        ctx.save_for_backward(q, k, v, centroids, *sorts, out, lse, share, basis, moment)
        ctx.scale, ctx.near, ctx.precision, ctx.run = scale, near, precision, run
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx, dout, dlse):
        *tensors, share, basis, moment = ctx.saved_tensors
        dout = torch.zeros_like(tensors[-2]) if dout is None else dout
        tensors += [dout] if dlse is None else [dout, dlse]
        settings = ctx.scale, ctx.near, ctx.precision
        if moment is None:
            grads = ctx.run(("muse backward", *settings), partial(muse_gradients, settings), *tensors)
        else:
            directions = basis is not None and ctx.needs_input_grad[11]
            grads = muse_gradients(settings, *tensors, dipole=(basis, moment, share), directions=directions)
        d_basis = grads[3].to(basis.dtype) if len(grads) > 3 else None
        return *grads[:3], *(None,) * 8, d_basis, None, None, None


def muse_gradients(
    settings: tuple[float, int, str], q: Tensor, k: Tensor, v: Tensor, centroids: Tensor, q_order: Tensor,
    q_offsets: Tensor, k_order: Tensor, k_offsets: Tensor, out: Tensor, lse: Tensor, dout: Tensor,
    dlse: Tensor | None = None, dipole: tuple[Tensor | None, ...] = (None, None, None), directions: bool = False,
) -> tuple[Tensor, ...]:  # fmt: skip
    """dq, dk and dv of what `_MuSe` saved, and with `directions` the gradient of the basis, from new summaries."""
    scale, near, precision = settings
    sorts = q_order, q_offsets, k_order, k_offsets
    mass, *means = summarise(centroids, k, v, k_order, k_offsets, scale, precision=precision)
    summaries = mass, *select_near(mass, near), *means
    grads = muse_backward(
        q,
        k,
        v,
        centroids,
        *sorts,
        *summaries,
        out,
        lse,
        dout,
        dlse,
        scale,
        *dipole,
        precision,
        directions=directions,
    )
    return grads if directions else grads[:3]

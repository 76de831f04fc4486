"""Causal MuSe whose clusters come from the leaves: those of the keys merge upwards, those of the queries stay.

So a query is expanded around one point at every level, and one launch evaluates all of them. The backward is that of
`muse_causal`, of the same clusters written out for every level.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..common.checks import check_attention, check_given, check_tensors
from ..common.derivatives import KernelFunction, Run, run_now
from ..common.graphs import in_branches
from ..common.launch import fp32_precision
from ..common.layout import flat_heads, sides
from .causal import LevelClusters, causal_gradients, causal_leaves
from .forward import one_head_size
from .levels import evaluate_levels
from .select import near_and_far
from .summarise import summarise


class Tree(NamedTuple):
    """The clusters of all levels; blocks = 2^levels leaves of n positions.

    centroids [blocks, B Hq, Cq, D], q_order [blocks, B Hq, n] and q_offsets [blocks, B Hq, Cq + 1] are of the queries
    of every leaf; k_order [levels, blocks / 2 B Hk n] and k_offsets [blocks - 1, B Hk, Ck + 1] of the left blocks' keys
    at every level, one after the other.
    """

    centroids: Tensor
    q_order: Tensor
    q_offsets: Tensor
    k_order: Tensor
    k_offsets: Tensor

    @property
    def levels(self) -> int:
        return self.k_order.shape[0]

    def keys(self, level: int) -> tuple[Tensor, Tensor]:
        """Order [pairs, Hk, n 2^level] and offsets [pairs, Hk, Ck + 1] of the left blocks' keys."""
        blocks, first = len(self.centroids), len(self.centroids) - (len(self.centroids) >> level)
        pairs, heads = blocks >> (level + 1), self.k_offsets.shape[1]
        return self.k_order[level].view(pairs, heads, -1), self.k_offsets[first : first + pairs]

    def points(self, level: int) -> Tensor:
        """The centroids of the right blocks' queries, [pairs, Hq, 2^level Cq, D]."""
        return self._right(self.centroids, level)

    def clusters(self, level: int) -> LevelClusters:
        """All clusters of a level, as `muse_causal` takes them."""
        n = self.q_order.shape[-1]
        inside = n * torch.arange(1 << level, device=self.q_order.device)[:, None, None]
        starts = self.q_offsets[..., :-1].unflatten(0, (-1, 1 << level)) + inside
        offsets = self._right(starts.flatten(0, 1), level)
        order = self._right((self.q_order.unflatten(0, (-1, 1 << level)) + inside).flatten(0, 1), level)
        ends = offsets.new_full((*offsets.shape[:2], 1), n << level)
        return self.points(level), order, torch.cat([offsets, ends], -1), *self.keys(level)

    def _right(self, x: Tensor, level: int) -> Tensor:
        """[blocks, H, m, ...] of the leaves of the right blocks, side by side: [pairs, H, 2^level m, ...]."""
        return x.unflatten(0, (-1, 2, 1 << level))[:, 1].transpose(1, 2).flatten(2, 3)


def muse_merged(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tree: Tree,
    scale: float,
    near: int = 0,
    leaves: tuple[Tensor, Tensor] | None = None,
    run: Run = run_now,
) -> tuple[Tensor, Tensor]:
    """`muse_causal` of the clusters of a tree: the same arguments but for those, the same results and derivatives.

    Bytes and operations: of the leaves, of `summarise` of N / 2 at every level, and of `evaluate_levels`.
    """
    check_tensors("muse_merged", q=q, k=k, v=v)
    check_attention("muse_merged", q, k, v)
    (B, Hq, N, _), Hk, size = q.shape, k.shape[1], v.shape[-1]
    blocks, _, n = tree.q_order.shape
    if q.shape[2] != k.shape[2] or blocks * n != N:
        raise ValueError(
            f"muse_merged: q has {N} positions, k {k.shape[2]} and the tree {blocks * n}; one number is needed"
        )
    Cq, Ck = tree.q_offsets.shape[-1] - 1, tree.k_offsets.shape[-1] - 1
    check_given(
        "muse_merged", torch.int64, q, q_order=(tree.q_order, (blocks, B * Hq, n)),
        q_offsets=(tree.q_offsets, (blocks, B * Hq, Cq + 1)),
        k_order=(tree.k_order, (tree.levels, blocks // 2 * B * Hk * n)),
        k_offsets=(tree.k_offsets, (blocks - 1, B * Hk, Ck + 1)),
    )  # fmt: skip
    leaves = causal_leaves(q, k, v, n, scale) if leaves is None else leaves
    out, lse = (x.contiguous().detach() for x in leaves)  # those of the caller stay outside the graph
    q, k, v, centroids = one_head_size(q, k, v, tree.centroids.detach().to(q.dtype))
    check_given("muse_merged", q.dtype, q, leaves=(out, (B * Hq, N, v.shape[-1])))
    check_given("muse_merged", torch.float32, q, leaves=(lse, (B * Hq, N, 1)))
    check_given("muse_merged", q.dtype, q, centroids=(centroids, (blocks, B * Hq, Cq, q.shape[-1])))
    tree = Tree(centroids.contiguous(), *(x.contiguous() for x in tree[1:]))
    out, lse = _Merged.apply(*flat_heads(q, k, v), (out, lse), tree, scale, min(near, Ck), run)
    return out.view(B, Hq, N, -1)[..., :size], lse.view(B, Hq, N)


class _Merged(KernelFunction):
    operation = "muse_merged"

    @staticmethod
    def forward(ctx, q, k, v, leaves, tree, scale, near, run):
        out, lse = leaves
        n, precision = tree.q_order.shape[-1], fp32_precision(q)
        (Hq, _, D), Dv = q.shape, v.shape[-1]
        blocks, _, Cq, _ = tree.centroids.shape
        Ck = tree.k_offsets.shape[-1] - 1
        shape = tree.levels, blocks // 2 * Hq * Cq, Ck
        mass = torch.empty(shape, dtype=torch.float32, device=q.device)
        mean_k, mean_v = (torch.empty(*shape, width, dtype=q.dtype, device=q.device) for width in (D, Dv))

        def level_summaries(level: int) -> tuple:
            pairs = blocks >> (level + 1)
            to = tuple(x[level].view(pairs, Hq, Cq << level, *x.shape[2:]) for x in (mass, mean_k, mean_v))
            ks, vs = sides(n << level, "ll", k, v)
            return summarise(
                tree.points(level), ks, vs, *tree.keys(level), scale, precision=precision, into=to
            )

        in_branches([partial(level_summaries, level) for level in range(tree.levels)])
        chosen, far = (x[0] for x in near_and_far(mass[None], near))
        evaluate_levels(
            q, k, v, tree.centroids, tree[1:3], tree[3:], chosen, far, mean_k, mean_v, scale, (out, lse)
        )
        ctx.save_for_backward(q, k, v, out, lse, *tree)
        ctx.scale, ctx.near, ctx.precision, ctx.run = scale, near, precision, run
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx, dout, dlse):
        dout = torch.zeros_like(ctx.saved_tensors[3]) if dout is None else dout
        dlse = () if dlse is None else (dlse,)
        settings = ctx.scale, ctx.near, ctx.precision
        name = "muse_merged backward", len(dlse), *settings
        grads = ctx.run(name, partial(_gradients, settings, len(dlse)), *ctx.saved_tensors, dout, *dlse)
        return *grads, *(None,) * 5


def _gradients(settings: tuple, with_lse: int, *tensors: Tensor) -> tuple[Tensor, ...]:
    """dq, dk and dv of the saved tensors of `_Merged`, the gradient of out, and that of lse if there is one."""
    q, k, v, out, lse, *tree = tensors[: -1 - with_lse]
    tree = Tree(*tree)
    levels = [x for level in range(tree.levels) for x in tree.clusters(level)]
    settings = tree.q_order.shape[-1], *settings
    return causal_gradients(settings, with_lse, q, k, v, out, lse, *levels, *tensors[-1 - with_lse :])

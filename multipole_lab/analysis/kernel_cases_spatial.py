"""MuSe over runs of consecutive positions, full and causal with gradients, against the method in torch in float64."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from multipole_lab.analysis.kernel_cases import Case, Setting, exact_gradients
from multipole_lab.analysis.kernel_oracle import error


def spatial_cases(s: Setting) -> Iterator[Case]:
    """spatial_full and spatial_causal, where the kernels take the heads."""
    from multipole_lab.kernels.spatial import Tree
    from multipole_lab.kernels.spatial_muse import causal_tree, fits, spatial_muse

    p = s.problem
    if not fits(s.q, s.v):
        return
    trees = {"spatial_full": Tree.full(p.queries, p.keys, p.clusters, p.clusters)}
    if p.queries == p.keys:
        trees["spatial_causal"] = causal_tree(p)
    inputs = tuple(x.detach().requires_grad_() for x in (s.q, s.k, s.v))
    upstream = torch.randn(s.q.shape, generator=torch.Generator().manual_seed(0)).to(s.q)
    for name, tree in trees.items():

        def call(q: Tensor, k: Tensor, v: Tensor, tree=tree):
            out, _ = spatial_muse(q, k, v, tree, s.scale)
            return out, *torch.autograd.grad(out, (q, k, v), upstream)

        def plain(q: Tensor, k: Tensor, v: Tensor, tree=tree):
            return exact_gradients(q, k, v, upstream, tree.causal)

        yield Case(name, inputs, call, lambda r, tree=tree: _head_error(s, tree, upstream, r), plain)


def _head_error(s: Setting, tree, upstream: Tensor, r: tuple[Tensor, ...]) -> float:
    """The larger of the errors of out and of dq in the first head."""
    from multipole_lab.attention import MuSe

    method = MuSe(clusters=tree.key_clusters, leaf=tree.block, partition="spatial", backend="torch")
    q, k, v = (x[:1, :1].detach().double() for x in (s.q, s.k, s.v))
    with torch.enable_grad():
        q.requires_grad_()
        out = method(q, k, v, causal=tree.causal, scale=s.scale)
        (dq,) = torch.autograd.grad(out, q, upstream[:1, :1].double())
    return max(error(r[0][:1, :1], out), error(r[1][:1, :1], dq))

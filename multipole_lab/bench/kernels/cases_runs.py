"""MuSe over runs of consecutive positions, full and causal with gradients, against the method in torch in float64."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from multipole_lab.bench.kernels.cases import Case, Setting, exact_gradients, head_error
from multipole_lab.bench.kernels.oracle import Head


def runs_cases(s: Setting) -> Iterator[Case]:
    """runs_full and runs_causal, where the kernels take the heads."""
    from multipole_lab.attention import MuSe
    from multipole_lab.kernels.report.cases_runs import causal_tree
    from multipole_lab.kernels.runs.muse import fits, runs_muse
    from multipole_lab.kernels.runs.tree import Tree

    p, head = s.problem, s.head()
    if not fits(s.q, s.v):
        return
    trees = {"runs_full": Tree.full(p.queries, p.keys, p.clusters, p.clusters)}
    if p.queries == p.keys:
        trees["runs_causal"] = causal_tree(p)
    inputs = tuple(x.detach().requires_grad_() for x in (s.q, s.k, s.v))
    upstream = torch.randn(s.q.shape, generator=torch.Generator().manual_seed(0)).to(s.q)
    for name, tree in trees.items():

        def call(q: Tensor, k: Tensor, v: Tensor, tree=tree):
            out, _ = runs_muse(q, k, v, tree, s.scale)
            return out, *torch.autograd.grad(out, (q, k, v), upstream)

        def plain(q: Tensor, k: Tensor, v: Tensor, tree=tree):
            return exact_gradients(q, k, v, upstream, tree.causal)

        method = MuSe(clusters=tree.key_clusters, leaf=tree.block, partition="runs", backend="torch")

        def attend(h: Head, method=method, tree=tree) -> Tensor:
            return method(*(x[None, None] for x in (h.q, h.k, h.v)), causal=tree.causal, scale=h.scale)[0, 0]

        yield Case(name, inputs, call, lambda r, attend=attend: head_error(head, r, upstream, attend), plain)

"""Examples of MuSe over runs of consecutive positions for the compile report, and what their launchers cost."""

from __future__ import annotations

import torch

from ..runs.muse import fits, runs_muse
from ..runs.tree import Tree
from .problem import Problem


def runs_muse_example(p: Problem, tree: Tree, near: int) -> None:
    q = p.empty(p.batch, p.query_heads, tree.queries, p.head).requires_grad_(not near)
    k, v = (p.empty(p.batch, p.kv_heads, tree.keys, p.head).requires_grad_(not near) for _ in "kv")
    if not fits(q, v):
        return
    out, lse = runs_muse(q, k, v, tree, 0.125, near)
    if not near:
        torch.autograd.backward((out, lse), (p.empty(*out.shape), p.empty(*lse.shape, dtype=torch.float32)))


def runs_muse_cost(p: Problem, tree: Tree) -> tuple[float, float]:
    """Forward and backward, with a monopole: the blocks as flash attention, of every level summaries in and out."""
    heads, size, Ck = p.batch * p.query_heads, p.head, tree.key_clusters
    summaries = heads * tree.nodes * tree.query_clusters * Ck * (2 * size * p.width + 4)
    moved = heads * tree.queries * size * p.width * 8 + 8 * summaries
    shown = heads * tree.queries * Ck * size * tree.levels / (2 if tree.causal else 1)
    exact = heads * tree.queries * tree.block * size * 7 if tree.causal else 0
    return moved, 36 * shown + exact


def runs_full_example(p: Problem) -> None:
    """The near field has a forward only."""
    tree = Tree.full(p.queries, p.keys, p.clusters, p.clusters)
    runs_muse_example(p, tree, 0)
    runs_muse_example(p, tree, p.near)


def runs_causal_example(p: Problem) -> None:
    runs_muse_example(p, causal_tree(p), 0)


def runs_full_cost(p: Problem) -> tuple[float, float]:
    return runs_muse_cost(p, Tree.full(p.queries, p.keys, p.clusters, p.clusters))


def runs_causal_cost(p: Problem) -> tuple[float, float]:
    return runs_muse_cost(p, causal_tree(p))


def causal_tree(p: Problem) -> Tree:
    levels = max(1, (p.queries // 1024).bit_length() - 1)
    return Tree.causal_of(p.queries >> levels, levels, p.clusters, p.clusters)

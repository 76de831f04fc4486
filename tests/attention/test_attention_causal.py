"""The causal recursion: blocks, levels, padding and sinks, on sequences many leaves long.

What is exact by construction is compared with exact attention, the others with the recursion as the oracle has it.
"""

from dataclasses import replace

import pytest
import torch
from every_method import METHODS

import multipole_lab as ml
from multipole_lab import testing
from multipole_lab.attention.causal import block_sizes
from multipole_lab.testing import oracle

ALL = 64  # at least as many as the longest sequence here has positions
EXACT_BY_CONSTRUCTION = {
    "near all": ml.MuSe(clusters=3, near=3),
    "near all, dipole": ml.MuSe(clusters=3, near=3, order="dipole", dipole_rank=2),
    "near all, runs": ml.MuSe(clusters=3, near=3, partition="runs"),
    "near all, balanced": ml.MuSe(clusters=3, near=3, partition="balanced"),
    "one key a cluster": ml.MuSe(clusters=ALL, cap=1.0),
    "one key a cluster, dipole": ml.MuSe(clusters=ALL, cap=1.0, order="dipole", dipole_rank=None),
    "Centroid, one key a cluster": ml.Centroid(clusters=ALL, cap=1.0),
    "Centroid, budget all": ml.Centroid(clusters=3, budget=ALL),
    "Centroid, budget all, recent": ml.Centroid(clusters=3, budget=ALL, recent=3, partition="runs"),
}
every_exact = pytest.mark.parametrize("method", EXACT_BY_CONSTRUCTION.values(), ids=EXACT_BY_CONSTRUCTION)
every_leaf = pytest.mark.parametrize("leaf", [4, 5], ids=["leaf4", "leaf5"])


def qkv(Nq, Nk, heads=(4, 2)):
    return testing.qkv(2, heads, Nq, Nk, 4, 6)


def check(result, expected):
    for name, ours, wanted in zip(("out", "lse"), result, expected, strict=True):
        testing.assert_close(name, ours, wanted)


def check_exact(method, q, k, v, mask=None):
    result = method(q, k, v, causal=True, mask=mask, return_lse=True)
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    seen = oracle.visible(q.shape[2], k.shape[2], True, None if mask is None else mask[:, None])
    check(result, oracle.exact(q, k, v, q.shape[-1] ** -0.5, seen))


@pytest.mark.parametrize("lengths", [(1, 1), (5, 5), (29, 29), (64, 64), (1, 29), (5, 29), (20, 29)], ids=str)
@every_leaf
@every_exact
def test_identities_survive_the_recursion(method, leaf, lengths):
    check_exact(replace(method, leaf=leaf), *qkv(*lengths))


@pytest.mark.parametrize("heads", [(1, 1), (3, 1), (4, 4)], ids=["H1", "G3", "H4"])
@every_exact
def test_identities_with_any_heads(method, heads):
    check_exact(replace(method, leaf=4), *qkv(23, 29, heads))


@pytest.mark.parametrize("sinks", [2, 9])
@pytest.mark.parametrize("queries", [5, 27, 29])  # 27 of 29: with 9 sinks, some queries are sinks themselves
@every_exact
def test_sinks_join_exactly(method, queries, sinks):
    check_exact(replace(method, leaf=4, sinks=sinks), *qkv(queries, 29))


@pytest.mark.parametrize("side", ["left", "right", "holes"])
@pytest.mark.parametrize("queries", [20, 29])
@pytest.mark.parametrize("sinks", [0, 2])
@every_exact
def test_padding_on_either_side(method, sinks, queries, side):
    """Seven keys of the first entry do not count: whole leaves are without keys, and left-padded queries too."""
    mask = torch.ones(2, 29, dtype=torch.bool)
    mask[0, {"left": slice(0, 7), "right": slice(22, 29), "holes": slice(1, 15, 2)}[side]] = False
    check_exact(replace(method, leaf=4, sinks=sinks), *qkv(queries, 29), mask)


@every_leaf
@every_exact
def test_the_future_does_not_reach_back(method, leaf):
    q, k, v = qkv(29, 29)
    method = replace(method, leaf=leaf)
    before = method(q, k, v, causal=True, return_lse=True)
    for t in (6, 17, 28):
        changed = [x.clone() for x in (k, v)]
        for x in changed:
            x[:, :, t:] = 3 * x[:, :, t:].flip(2) + 1
        after = method(q, *changed, causal=True, return_lse=True)
        for x, y in zip(before, after, strict=True):
            torch.testing.assert_close(x[:, :, :t], y[:, :, :t])
            assert not torch.allclose(x[:, :, t:], y[:, :, t:])


@pytest.mark.parametrize("name", METHODS)
def test_no_later_key_reaches_back_in_any_method(name):
    """Not through a choice of keys or clusters either: a loud later key would be chosen first."""
    q, k, v = qkv(29, 29)
    before = METHODS[name](q, k, v, causal=True)
    for t in (1, 13, 28):
        later = (torch.arange(29) >= t)[:, None]
        after = METHODS[name](q, torch.where(later, 100 * k, k), torch.where(later, -v, v), causal=True)
        torch.testing.assert_close(before[:, :, :t], after[:, :, :t])


@every_exact
def test_a_nan_key_reaches_only_those_who_see_it(method):
    q, k, v = qkv(29, 29)
    k[0, 0, 13] = float("nan")
    out = replace(method, leaf=4)(q, k, v, causal=True)
    poisoned = torch.zeros(2, 4, 29, dtype=torch.bool)
    poisoned[0, :2, 13:] = True
    assert torch.equal(out.isnan().all(-1), poisoned)
    assert torch.equal(out.isnan().any(-1), poisoned)


@pytest.mark.parametrize("queries", [1, 5, 20])
@every_exact
def test_fewer_queries_are_the_last_rows(method, queries):
    q, k, v = qkv(29, 29)
    method = replace(method, leaf=4)
    square = method(q, k, v, causal=True, return_lse=True)
    last = method(q[:, :, -queries:], k, v, causal=True, return_lse=True)
    for rows, whole in zip(last, square, strict=True):
        torch.testing.assert_close(rows, whole[:, :, -queries:])


@pytest.mark.parametrize(
    "method",
    [
        ml.MuSe(clusters=3, partition="runs", leaf=4),
        ml.MuSe(clusters=3, partition="balanced", leaf=4, near=1, order="dipole", dipole_rank=2),
        ml.MuSe(clusters=3, iterations=2, leaf=4, near=1),
        ml.Centroid(clusters=3, partition="balanced", leaf=4, budget=3),
    ],
    ids=["MuSe runs", "MuSe balanced dipole", "MuSe k-means near", "Centroid budget"],
)
@pytest.mark.parametrize("past", [0, 13])
def test_levels_are_the_recursion_written_out(method, past):
    """An approximation too: causal(N) = causal(N/2), causal(N/2), full(right -> left), one block at a time."""

    def full(q, k, v):
        return method(q, k[:, ::2], v[:, ::2], return_lse=True)

    q, k, v = qkv(32, 32 + past)
    repeated = (x.repeat_interleave(2, 1) for x in (k, v))
    result = method(q, k, v, causal=True, return_lse=True)
    check(result, oracle.causal(full, q, *repeated, s=0.5, leaf=method.leaf))
    exact = ml.Exact()(q, k, v, causal=True)
    assert 1e-6 < ml.relative_squared_error(result[0], exact) < 1


def test_block_sizes_cover_the_sequence_with_few_positions_over():
    for leaf in (1, 4, 5, 1024):
        for positions in (1, 2, leaf - 1, leaf, leaf + 1, 29, 2 * leaf, 2 * leaf + 1, 64, 5000):
            if positions == 0:
                continue
            block, levels = block_sizes(positions, leaf)
            assert 1 <= block <= leaf
            assert 0 <= (block << levels) - positions < 1 << levels
            assert levels == 0 or positions > leaf << (levels - 1)  # no level more than needed


def test_exact_up_to_the_leaf_with_any_clusters():
    q, k, v = qkv(29, 29)
    check_exact(ml.MuSe(clusters=1, leaf=29), q, k, v)
    check_exact(ml.Centroid(clusters=1, leaf=29), q, k, v)
    check_exact(
        ml.MuSe(clusters=1, leaf=29), q[:, :, 15:], k, v
    )  # keys before the first query: no more than leaf

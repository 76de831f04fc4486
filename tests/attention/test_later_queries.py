"""What later queries do to earlier results: much around points of their own, nothing around earlier ones."""

from dataclasses import replace

import pytest
import torch

import multipole_lab as ml
from multipole_lab.lessons.lens import Lens
from multipole_lab.measure.operation_counts import operations
from multipole_lab.testing import expected

EARLIER = {
    "near": ml.MuSe(clusters=3, near=1, leaf=8, points="earlier"),
    "near for queries, sinks": ml.MuSe(
        clusters=3, near=1, leaf=8, points="earlier", near_for="query", sinks=2
    ),
    "dipole": ml.MuSe(clusters=3, leaf=8, points="earlier", order="dipole", dipole_rank=None),
    "runs, no cap": ml.MuSe(
        clusters=3, leaf=8, points="earlier", partition="runs", cap=None, query_clusters=2
    ),
    "balanced": ml.MuSe(clusters=3, leaf=8, points="earlier", partition="balanced"),
}


def qkv(Nq=75, Nk=75, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(2, H, N, 8, generator=g, dtype=torch.float64) for H, N in ((4, Nq), (2, Nk), (2, Nk))]


@pytest.mark.parametrize("method", EARLIER.values(), ids=EARLIER)
def test_no_later_query_changes_an_earlier_output(method):
    """Nor does a later key or value: a text filled up to its length gets what the whole gets."""
    whole, other = qkv(), qkv(seed=1)
    out, lse = method(*whole, causal=True, return_lse=True)
    moved = 0.0
    for t in (9, 38, 40, 61, 74):
        filled = [torch.cat([x[:, :, :t], y[:, :, t:]], 2) for x, y in zip(whole, other, strict=True)]
        got = method(*filled, causal=True, return_lse=True)
        torch.testing.assert_close((got[0][:, :, :t], got[1][:, :, :t]), (out[:, :, :t], lse[:, :, :t]))
        own = replace(method, points="own")
        moved += (own(*filled, causal=True) - own(*whole, causal=True))[:, :, :t].abs().max()
    assert moved > 1e-3


@pytest.mark.parametrize("method", EARLIER.values(), ids=EARLIER)
def test_earlier_points_are_those_of_the_formula(method):
    q, k, v = qkv(Nq=37, Nk=41)
    out, lse = method(q, k, v, causal=True, return_lse=True)
    torch.testing.assert_close((out, lse), expected(method, q, k, v, causal=True))


def test_no_gradient_of_an_earlier_output_reaches_a_later_query():
    q, k, v = (x.requires_grad_() for x in qkv())
    out = EARLIER["near"](q, k, v, causal=True)
    (grad,) = torch.autograd.grad(out[:, :, :61].sum(), q)
    assert not grad[:, :, 61:].any()
    assert grad[:, :, :61].any()


def test_keys_before_the_first_query_are_exact():
    q, k, v = qkv(Nq=8, Nk=75)
    torch.testing.assert_close(EARLIER["near"](q, k, v, causal=True), ml.Exact()(q, k, v, causal=True))


def test_on_real_tokens_both_effects_are_as_large_as_muse_says():
    """A quarter to all of the own squared error, none by runs; and two to five times the error."""
    layer = ml.load_sample("smollm2").crop(1024)[15]
    q, k, v = layer.q, layer.k, layer.v
    exact, t = ml.Exact()(q, k, v, causal=True), 900
    other = torch.cat([q[:, :, :t], q.flip(2)[:, :, t:]], 2)
    own = ml.MuSe(near=4, leaf=256)
    error, moved = {}, {}
    for method in (own, replace(own, partition="runs"), replace(own, points="earlier")):
        out = method(q, k, v, causal=True)
        wrong, change = (
            (out - x)[:, :, 512:t].square().sum() for x in (exact, method(other, k, v, causal=True))
        )
        error[method], moved[method] = (out - exact).square().sum(), (change / wrong).item()
    by_own, by_runs, by_earlier = moved.values()
    assert 0.25 < by_own < 1.1
    assert by_runs < 0.005
    assert by_earlier < 1e-9
    assert 2 < error[replace(own, points="earlier")] / error[own] < 5


def test_directions_that_follow_later_queries_are_refused():
    with pytest.raises(ValueError, match="points is 'earlier' with a dipole and dipole_rank 8"):
        ml.MuSe(points="earlier", order="dipole")


@pytest.mark.parametrize("wrong", [{"levels": "merged"}, {"order": "dipole", "backend": "triton"}], ids=str)
def test_merged_levels_and_a_dipole_by_the_kernels_are_refused_by_name(wrong):
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=f"points is 'earlier' with {name} '{value}'"):
        ml.MuSe(points="earlier", dipole_rank=None, **wrong)


def test_what_shows_clusters_of_causal_blocks_says_that_it_shows_own_points():
    q, k, _ = (x[:1, :1] for x in qkv())
    with pytest.raises(ValueError, match=r"points is 'earlier'.*needs points='own'"):
        Lens(ml.MuSe(clusters=3, leaf=16, points="earlier"), q, k, True, 0.3)
    Lens(ml.MuSe(clusters=3, points="earlier"), q, k, False, 0.3)


def test_joining_the_nearest_is_counted_and_so_are_the_keys_before():
    method = ml.MuSe(clusters=16, leaf=64)
    joined = replace(method, points="earlier")
    # 256 positions: two blocks of 64 queries join one of 16 at the first level, one of 128 at the second.
    more = (2 * 64 + 128) * 16 * 8
    size = {"causal": True, "head_size": 8}
    assert operations(joined, 256, **size) == operations(method, 256, **size) + more
    assert operations(joined, 64, 256, **size) == operations(ml.Exact(), 64, 256, **size)

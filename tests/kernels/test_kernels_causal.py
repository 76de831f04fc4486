"""Causal MuSe in one pass against the recursion in torch, results and gradients."""

from dataclasses import replace

import pytest
import torch
from torch.autograd import forward_ad

import multipole_lab as ml
from multipole_lab.clustering.clusters import Clusters
from multipole_lab.kernels.muse import causal

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def inputs(B, Hq, Hk, N, D, seed=0):
    g = torch.Generator().manual_seed(seed)
    shapes = (B, Hq, N, D), (B, Hk, N, D), (B, Hk, N, D + 8)
    return [torch.randn(s, generator=g).to(DEVICE).requires_grad_() for s in shapes]


def results(method, tensors, backend):
    out, lse = replace(method, backend=backend)(*tensors, causal=True, return_lse=True)
    loss = out.square().sum() + lse.sin().sum()
    return {
        "out": out,
        "lse": lse,
        **dict(zip(("dq", "dk", "dv"), torch.autograd.grad(loss, tensors), strict=True)),
    }


@pytest.mark.parametrize(("near", "cap"), [(0, None), (2, 1.5)])
@pytest.mark.parametrize("size", [(1, 2, 1, 110, 16), (2, 3, 3, 63, 24)], ids=str)
def test_one_pass_equals_the_recursion(size, near, cap, poisoned):
    tensors = inputs(*size)
    method = ml.MuSe(clusters=4, near=near, leaf=32, cap=cap)
    expected = results(method, tensors, "torch")
    for name, got in results(method, tensors, "triton").items():
        error = (got - expected[name]).norm() / expected[name].norm()
        assert error < 1e-5, f"{name}: {error:.1e}"


def test_one_block_is_exact():
    tensors = inputs(1, 2, 2, 50, 16)
    got = ml.MuSe(clusters=4, leaf=64, backend="triton")(*tensors, causal=True)
    torch.testing.assert_close(got, ml.Exact()(*tensors, causal=True), rtol=1e-5, atol=1e-5)


def test_transposed_inputs_are_read_as_they_are():
    tensors = inputs(1, 2, 2, 35, 16)
    method = ml.MuSe(clusters=2, leaf=16, backend="triton")
    turned = [x.detach().transpose(1, 2).contiguous().transpose(1, 2) for x in tensors]
    torch.testing.assert_close(method(*turned, causal=True), method(*tensors, causal=True).detach())


def test_positions_must_fill_the_blocks():
    from multipole_lab.kernels.muse.causal import muse_causal

    with pytest.raises(ValueError, match=r"q has 50 positions and k 50; block \* 2\^levels, 64"):
        muse_causal(*inputs(1, 1, 1, 50, 16), [(None,) * 5], 32, 0.25)


def test_clusters_must_be_those_of_the_level():
    from multipole_lab.kernels.common.layout import level_blocks
    from multipole_lab.kernels.muse.causal import muse_causal

    q, k, v = inputs(1, 2, 1, 64, 16)
    qs, ks = level_blocks(q, k, 16)  # of a smaller level than the one they are given for
    a, b = (
        Clusters.from_labels(x.detach(), torch.zeros_like(x[..., 0], dtype=torch.int64), 1) for x in (qs, ks)
    )
    level = a.centroids, a.order, a.offsets, b.order, b.offsets
    with pytest.raises(
        ValueError, match=r"muse_causal, level 0: q_order has shape \(2, 2, 16\); \(1, 2, 32\) is"
    ):
        muse_causal(q, k, v, [level], 32, 0.25)


def test_queries_may_have_clusters_of_their_own():
    tensors = inputs(1, 2, 1, 110, 16)
    method = ml.MuSe(clusters=9, query_clusters=3, leaf=32)
    expected = results(method, tensors, "torch")
    for name, got in results(method, tensors, "triton").items():
        error = (got - expected[name]).norm() / expected[name].norm()
        assert error < 1e-5, f"{name}: {error:.1e}"


@pytest.mark.parametrize("apart", [0, 2])
@pytest.mark.parametrize(("near", "cap"), [(0, 1.5), (2, None)])
@pytest.mark.parametrize("size", [(1, 2, 1, 110, 16), (2, 3, 3, 63, 24)], ids=str)
def test_without_a_gradient_the_result_is_the_same(size, near, cap, apart, monkeypatch, poisoned):
    monkeypatch.setattr(causal, "APART", apart)
    tensors = inputs(*size)
    method = ml.MuSe(clusters=4, near=near, leaf=32, cap=cap, backend="triton")
    expected = method(*tensors, causal=True, return_lse=True)
    with torch.no_grad():
        got = method(*tensors, causal=True, return_lse=True)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_without_a_gradient_a_dual_number_is_refused():
    tensors = [x.detach() for x in inputs(1, 1, 1, 40, 16)]
    method = ml.MuSe(clusters=2, leaf=16, backend="triton")
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="no derivative in forward mode"):
        method(*(forward_ad.make_dual(x, torch.ones_like(x)) for x in tensors), causal=True)

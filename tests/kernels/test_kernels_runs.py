"""MuSe over runs of consecutive positions in the kernels against torch: results and gradients, full and causal."""

from dataclasses import replace

import pytest
import torch

import multipole_lab as ml
from multipole_lab.kernels.runs.muse import runs_muse
from multipole_lab.kernels.runs.tree import Tree

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES = "out", "lse", "dq", "dk", "dv"


def inputs(B, Hq, Hk, Nq, Nk, D, Dv, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    shapes = (B, Hq, Nq, D), (B, Hk, Nk, D), (B, Hk, Nk, Dv)
    return [torch.randn(s, generator=g).to(DEVICE, dtype).requires_grad_() for s in shapes]


def results(method, tensors, backend, causal):
    out, lse = replace(method, backend=backend)(*tensors, causal=causal, return_lse=True)
    loss = out.float().square().sum() + lse.float().sin().sum()
    return dict(zip(NAMES, (out, lse, *torch.autograd.grad(loss, tensors)), strict=True))


def check(got, expected, limits):
    for name in got:
        error = (got[name].double() - expected[name].double()).norm() / expected[name].double().norm()
        assert error < limits[name], f"{name}: {error:.1e}, allowed is {limits[name]:.1e}"


@pytest.fixture
def runs_only(monkeypatch):
    """The general kernels would give the same results: these tests are of the others."""
    import multipole_lab.kernels.muse.causal as causal
    import multipole_lab.kernels.muse.forward as full

    def refused(*_, **__):
        raise AssertionError("the general kernels ran")

    monkeypatch.setattr(full, "muse", refused)
    monkeypatch.setattr(causal, "muse_causal", refused)


CAUSAL = {
    "two levels": ((1, 2, 1, 128, 128, 16, 16), 4, 32),
    "ragged, three levels": ((2, 1, 1, 125, 125, 24, 40), 5, 16),
    "groups, one level": ((1, 4, 2, 90, 90, 16, 16), 7, 48),
    "fewer clusters of queries": ((1, 2, 1, 77, 77, 16, 24), (3, 10), 20),
}


@pytest.mark.parametrize("case", CAUSAL)
def test_causal_equals_torch(case, runs_only, poisoned):
    size, clusters, leaf = CAUSAL[case]
    tensors = inputs(*size)
    of_queries, of_keys = clusters if isinstance(clusters, tuple) else (None, clusters)
    method = ml.MuSe(clusters=of_keys, query_clusters=of_queries, leaf=leaf, partition="runs")
    expected = results(method, tensors, "torch", True)
    check(results(method, tensors, "triton", True), expected, dict.fromkeys(NAMES, 1e-5))


FULL = {
    "even": (1, 2, 2, 64, 64, 16, 16),
    "ragged": (2, 2, 1, 75, 131, 24, 40),
    "a last cluster of one": (1, 1, 1, 33, 49, 16, 16),
    "more queries than keys": (1, 2, 1, 101, 40, 16, 16),
}


@pytest.mark.parametrize("case", FULL)
def test_full_equals_torch(case, runs_only, poisoned):
    tensors = inputs(*FULL[case])
    for of_queries in (None, 5):
        method = ml.MuSe(clusters=8, query_clusters=of_queries, partition="runs")
        expected = results(method, tensors, "torch", False)
        check(results(method, tensors, "triton", False), expected, dict.fromkeys(NAMES, 1e-5))


@pytest.mark.parametrize("causal", [False, True])
def test_near_clusters_are_exact_without_gradients(causal, runs_only, poisoned):
    tensors = [x.detach() for x in inputs(2, 2, 1, 77, 77, 16, 24)]
    for near in (2, 8):
        method = ml.MuSe(clusters=8, near=near, leaf=40, partition="runs")
        expected = replace(method, backend="torch")(*tensors, causal=causal)
        got = replace(method, backend="triton")(*tensors, causal=causal)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        if near == 8:
            torch.testing.assert_close(got, ml.Exact()(*tensors, causal=causal), rtol=1e-4, atol=1e-5)


# The interpreter's products of bfloat16 are wrong.
HALF = [torch.float16] if DEVICE == "cpu" else [torch.float16, torch.bfloat16]


def test_half_precision_is_as_good_as_torch():
    """Against the same in float64: at most twice the error of torch, or half a step of the dtype."""
    for dtype in HALF:
        tensors = inputs(1, 2, 1, 256, 256, 32, 32, dtype)
        method = ml.MuSe(clusters=8, leaf=64, partition="runs")
        exact = [x.detach().double().requires_grad_() for x in tensors]
        expected = results(method, exact, "torch", True)
        reference = results(method, tensors, "torch", True)
        limits = {
            n: max(
                2 * ((reference[n] - expected[n]).norm() / expected[n].norm()).item(),
                torch.finfo(dtype).eps / 2,
            )
            for n in NAMES
        }
        check(results(method, tensors, "triton", True), expected, limits)


def half_precision(N):
    """Tensors of that many positions, in the dtypes that are tried here."""
    return [inputs(1, 2, 1, N, N, 16, 16, dtype) for dtype in HALF]


def test_ragged_blocks_in_half_precision_equal_torch(poisoned):
    for tensors in half_precision(132):
        q, k, v = (x.detach().requires_grad_() for x in tensors)
        out, lse = runs_muse(q, k, v, Tree.causal_of(33, 2, 4, 4), 0.25)
        loss = out.float().square().sum() + lse.float().sin().sum()
        got = dict(zip(NAMES, (out, lse, *torch.autograd.grad(loss, (q, k, v))), strict=True))
        method = ml.MuSe(clusters=4, leaf=40, partition="runs")
        check(got, results(method, tensors, "torch", True), dict.fromkeys(NAMES, 4e-3))


def test_near_with_gradients_takes_the_general_kernels():
    tensors = inputs(1, 2, 1, 130, 130, 16, 16)
    method = ml.MuSe(clusters=4, near=1, leaf=40, partition="runs")
    for causal in (False, True):
        expected = results(method, tensors, "torch", causal)
        check(results(method, tensors, "triton", causal), expected, dict.fromkeys(NAMES, 1e-5))
    with pytest.raises(ValueError, match="near is 1; with gradients only 0"):
        runs_muse(*tensors, Tree.full(130, 130, 4, 4), 0.25, near=1)


def test_large_heads_take_the_general_kernels():
    tensors = inputs(1, 1, 1, 70, 70, 16, 80)
    method = ml.MuSe(clusters=4, leaf=40, partition="runs")
    check(
        results(method, tensors, "triton", True),
        results(method, tensors, "torch", True),
        dict.fromkeys(NAMES, 1e-5),
    )
    with pytest.raises(ValueError, match=r"q and v have head sizes 16 and 80 in torch\.float32; up to 128"):
        runs_muse(*tensors, Tree.causal_of(35, 1, 4, 4), 0.25)


def test_positions_must_be_the_tree_s():
    with pytest.raises(ValueError, match="q and k have 50 and 50 positions; the tree has 64 and 64"):
        runs_muse(*inputs(1, 1, 1, 50, 50, 16, 16), Tree.causal_of(32, 1, 4, 4), 0.25)


def test_transposed_inputs_are_read_as_they_are():
    tensors = [x.detach() for x in inputs(2, 2, 2, 70, 70, 16, 16)]
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in tensors]
    method = ml.MuSe(clusters=4, leaf=32, partition="runs", backend="triton")
    torch.testing.assert_close(method(*turned, causal=True), method(*tensors, causal=True))


def test_huge_logits_and_equal_keys_stay_finite():
    q, k, v = (x.detach() for x in inputs(1, 1, 1, 96, 96, 16, 16))
    method = ml.MuSe(clusters=4, leaf=32, partition="runs", backend="triton")
    for tensors in ((1e4 * q, k, v), (q, torch.ones_like(k), v)):
        tensors = [x.clone().requires_grad_() for x in tensors]
        out = method(*tensors, causal=True)
        for x in (out, *torch.autograd.grad(out.sum(), tensors)):
            assert x.isfinite().all()

"""Leaves by cuDNN where it takes them (a GPU of 9.0 and up), and the sum of what all levels give to a gradient."""

from functools import partial

import pytest
import torch
from equal_bits import equal_bits

import multipole_lab as ml
from multipole_lab.attention.calls.leaf import BY_CUDNN, IN_RUNS, SHORT, leaf_length, settled
from multipole_lab.kernels.common.launch import target_of
from multipole_lab.kernels.common.tiles import choose
from multipole_lab.kernels.exact import by_cudnn
from multipole_lab.kernels.exact.leaf import leaf
from multipole_lab.kernels.muse.levels import level_sum
from multipole_lab.testing import assert_close

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CUDNN = torch.cuda.is_available() and by_cudnn.takes(torch.bfloat16, 64, torch.device("cuda"))
needs_cudnn = pytest.mark.skipif(not CUDNN, reason="a GPU of compute capability 9.0 and up is needed")
NAMES = ("out", "lse", "dq", "dk", "dv")


def drawn(*sizes, dtype=torch.float32):
    g = torch.Generator().manual_seed(sum(sizes[0]))
    return [torch.randn(size, generator=g).to(DEVICE, dtype) for size in sizes]


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("D", [16, 20])
def test_the_sum_of_levels_is_that_of_torch(right, D, poisoned):
    blocks, H, n = 8, 3, 11
    leaves, *levels = drawn((blocks, H, n, D), *((blocks >> (i + 1), H, n << i, D) for i in range(3)))
    turned = leaves.transpose(0, 1).contiguous().transpose(0, 1)
    expected = leaves.transpose(0, 1).flatten(1, 2).double()
    for i, part in enumerate(levels):
        half = expected.unflatten(1, (-1, 2, n << i))[:, :, int(right)]
        half += part.transpose(0, 1)
    for given in (leaves, turned):
        assert_close("sum", level_sum(given, *levels, right=right), expected, error=1e-6)
    assert torch.equal(level_sum(leaves, right=right), leaves.transpose(0, 1).flatten(1, 2))


def test_the_sum_of_levels_is_added_in_fp32_and_rounded_once():
    leaves, one, two = drawn((4, 1, 4, 16), (2, 1, 4, 16), (1, 1, 8, 16), dtype=torch.float16)
    wide = level_sum(*(x.float() for x in (leaves, one, two)), right=True)
    assert torch.equal(level_sum(leaves, one, two, right=True), wide.half())


def test_a_leaf_is_1024_positions_but_where_cudnn_attends(monkeypatch):
    methods = ml.MuSe(), ml.MuSe(partition="runs"), ml.MuSe(backend="torch"), ml.MuSe(leaf=77), ml.Exact()
    lengths = [getattr(settled(m, "cpu", torch.float32, 64), "leaf", None) for m in methods]
    assert lengths == [SHORT, SHORT, SHORT, 77, None]
    monkeypatch.setattr(
        by_cudnn, "takes", lambda dtype, head, device: dtype == torch.bfloat16 and head <= 128
    )
    on_gpu = [getattr(settled(m, "cuda", torch.bfloat16, 64), "leaf", None) for m in methods]
    assert on_gpu == [BY_CUDNN, IN_RUNS, SHORT, 77, None]
    assert settled(ml.MuSe(), "cuda", torch.float32, 64).leaf == SHORT
    assert settled(ml.MuSe(), "cuda", torch.bfloat16, 256).leaf == SHORT
    assert (leaf_length("auto"), leaf_length(5)) == (SHORT, 5)


def test_what_is_no_leaf_is_refused_in_words():
    for wrong in ("long", "1024"):
        with pytest.raises(
            ValueError, match=f"leaf is '{wrong}'; allowed are 'auto' or a number of positions"
        ):
            ml.MuSe(leaf=wrong)
    with pytest.raises(ValueError, match="leaf"):
        ml.MuSe(leaf=0)
    assert ml.MuSe() == ml.MuSe(leaf="auto")


def test_cudnn_takes_nothing_on_a_cpu():
    x = torch.randn(1, 2, 256, 64, dtype=torch.bfloat16)
    assert not by_cudnn.fits(x, x, x)


@needs_cudnn
def test_gradients_that_must_be_equal_are_not_cudnn_s():
    x = torch.randn(1, 2, 256, 64, dtype=torch.bfloat16, device="cuda")
    assert by_cudnn.fits_backward(x, x, x)
    with equal_bits():
        assert by_cudnn.fits(x, x, x)
        assert not by_cudnn.fits_backward(x, x, x)


@needs_cudnn
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [(2, 3, 333, 64), (1, 2, 1000, 128), (3, 2, 129, 16)])
def test_exact_attention_by_cudnn_is_that_of_the_kernel(size, dtype):
    q, k, v, up = drawn(*(size,) * 4, dtype=dtype)
    own = choose("leaf", target_of(q), size[-1], 2)
    found = []
    for attend in (leaf, partial(leaf, tile=own)):
        x = [y.clone().requires_grad_() for y in (q, k, v)]
        out, lse = attend(*x, 0.2)
        found.append((out, lse, *torch.autograd.grad(out, x, up)))
    for name, got, want in zip(NAMES, *found, strict=True):
        assert_close(name, got, want, error=1e-2 if dtype == torch.bfloat16 else 2e-3)


@needs_cudnn
@pytest.mark.parametrize("levels", ["separate", "merged"])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
def test_causal_muse_with_leaves_by_cudnn_is_that_of_the_kernels(heads, levels, monkeypatch):
    """Results and gradients of ragged blocks, with a gradient of the log-sum-exp and without."""
    Hq, Hk = heads
    q, k, v, up, dlse = drawn(
        *((2, h, 1111, 64) for h in (Hq, Hk, Hk, Hq)), (2, Hq, 1111), dtype=torch.bfloat16
    )
    method = ml.MuSe(clusters=8, leaf=300, levels=levels)
    for upstream in ((up,), (up, dlse.float())):
        found = []
        for by in (by_cudnn.fits, lambda *_: False):
            monkeypatch.setattr(by_cudnn, "fits", by)
            monkeypatch.setattr(by_cudnn, "fits_backward", by)
            x = [y.clone().requires_grad_() for y in (q, k, v)]
            results = method(*x, causal=True, return_lse=True)
            found.append((*results, *torch.autograd.grad(results[: len(upstream)], x, upstream)))
        for name, got, want in zip(NAMES, *found, strict=True):
            assert_close(name, got, want, error=1e-2)

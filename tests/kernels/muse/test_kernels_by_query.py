"""Near clusters of every query's own, by the kernels against torch; what is torch's alone is refused by name."""

from dataclasses import replace

import pytest
import torch
from torch.autograd import forward_ad

import multipole_lab as ml
from multipole_lab.kernels.by_query import evaluate
from multipole_lab.kernels.by_query.choose import fits
from multipole_lab.kernels.by_query.evaluate import evaluate_by_query
from multipole_lab.kernels.common import launch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
METHOD = ml.MuSe(clusters=3, near=1, leaf=15, near_for="query", query_clusters=2)


def inputs(B, Hq, Hk, Nq, Nk, D, Dv, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    shapes = (B, Hq, Nq, D), (B, Hk, Nk, D), (B, Hk, Nk, Dv)
    return [torch.randn(shape, generator=g).to(DEVICE, dtype) for shape in shapes]


def both(method, tensors, **call):
    """Result and log-sum-exp by torch and by the kernels."""
    return (
        replace(method, backend=backend)(*tensors, return_lse=True, **call) for backend in ("torch", "triton")
    )


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"clusters": 35, "near": 3, "cap": None, "query_clusters": 1},  # more than the 32 of one word of bits
        {"clusters": 5, "near": 9},  # more than there are: exact
        {"partition": "runs", "near": 2, "sinks": 1},
    ],
    ids=str,
)
def test_full_attention_is_torchs(choice, poisoned):
    tensors = inputs(1, 2, 1, 19, 37, 16, 24)
    torch.testing.assert_close(*both(replace(METHOD, **choice), tensors), rtol=1e-5, atol=1e-5)


def test_choices_that_memory_does_not_hold_at_once_come_in_portions(monkeypatch, poisoned):
    """Three of five choices at once, then the two that are left beside one that is none."""
    monkeypatch.setattr(evaluate, "PARTS", 3 * 2 * 19 * 24 * 4)
    tensors = inputs(1, 2, 1, 19, 37, 16, 24)
    method = replace(METHOD, clusters=7, near=5)
    torch.testing.assert_close(*both(method, tensors), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokens", [30, 44])  # one level, and two with a part of a block
def test_causal_attention_is_torchs(tokens, poisoned):
    tensors = inputs(1, 2, 1, tokens, tokens, 16, 16)
    torch.testing.assert_close(*both(METHOD, tensors, causal=True), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_padding_is_torchs(causal):
    tensors = inputs(2, 1, 1, 21, 21, 16, 16)
    mask = torch.ones(2, 21, dtype=torch.bool, device=DEVICE)
    mask[0, 18:], mask[1, :3] = False, False
    torch.testing.assert_close(*both(METHOD, tensors, causal=causal, mask=mask), rtol=1e-5, atol=1e-5)


def test_half_precision_chooses_as_torch_where_nothing_is_nearly_equal():
    tensors = inputs(1, 1, 1, 64, 48, 32, 32, torch.float16)
    (expected, _), (got, _) = both(METHOD, tensors)
    rows = (got.float() - expected.float()).square().sum(-1) / expected.float().square().sum(-1)
    assert rows.median() < 1e-5
    assert (rows > 1e-3).float().mean() < 0.05  # two clusters of one mass, to three digits


def test_derivatives_merged_levels_and_too_many_clusters_are_torchs():
    tensors = inputs(1, 1, 1, 20, 20, 16, 16)
    kernels = replace(METHOD, backend="triton")
    graded = [x.clone().requires_grad_() for x in tensors]
    refused = {
        "a gradient": lambda: kernels(*graded),
        "merged levels": lambda: replace(kernels, levels="merged")(*tensors, causal=True),
        "clusters": lambda: replace(kernels, clusters=2048, cap=None)(*inputs(1, 1, 1, 2048, 2048, 16, 16)),
    }
    for what, call in refused.items():
        with pytest.raises(ValueError, match=r"near_for is 'query' with backend 'triton'.*backend 'auto'"):
            print(what, call())
    with torch.no_grad():
        assert kernels(*graded).requires_grad is False
    out = METHOD(*graded)  # "auto" takes torch, and has them
    assert all(x.abs().sum() > 0 for x in torch.autograd.grad(out.sum(), graded))
    with (
        forward_ad.dual_level(),
        pytest.raises(NotImplementedError, match="muse_by_query has no derivative in forward"),
    ):
        kernels(*(forward_ad.make_dual(x, torch.ones_like(x)) for x in tensors))
    with pytest.raises(NotImplementedError, match=r"torch\.func"):
        torch.func.vmap(lambda q: kernels(q, *tensors[1:]))(torch.stack([tensors[0]] * 2))


@pytest.mark.parametrize(
    ("target", "head", "dtype", "most"),
    [
        ((75, 64), 64, torch.float16, 64),
        ((75, 64), 128, torch.float16, 0),
        ((80, 163), 64, torch.bfloat16, 256),
        ((89, 99), 64, torch.float16, 128),
        ((90, 227), 64, torch.bfloat16, 256),
        ((90, 227), 128, torch.bfloat16, 128),
        ((90, 227), 64, torch.float32, 128),
    ],
    ids=str,
)
def test_the_clusters_that_a_program_has_place_for(target, head, dtype, most):
    x = torch.empty(1, 1, 1, head, dtype=dtype, device="meta")
    with launch.recording(launch.Target(*target)):
        assert [fits(x, x, n) for n in (2, most or 2, most + 1)] == [most > 0, most > 0, False]


def test_the_launcher_names_clusters_that_have_no_place():
    q, k, v = inputs(1, 1, 1, 4, 4, 16, 16)
    assert fits(q, v, 128)
    assert not fits(q, v, 4096)
    n = torch.zeros(1, 1, 4, dtype=torch.int64, device=DEVICE)
    mass = torch.zeros(1, 1, 1, 4096, device=DEVICE)
    means = torch.zeros(1, 1, 1, 4096, 16, device=DEVICE)
    with pytest.raises(ValueError, match=r"4096 clusters of keys.*backend=\"auto\""):
        evaluate_by_query(q, k, v, q[:, :, :1], n, n[..., :2], n, n, mass, means, means, 0.25, 1)

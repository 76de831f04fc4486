"""One list of semantics for both backends: the Triton kernels (interpreted on a CPU) against torch, in float32."""

import os
from dataclasses import replace

import pytest
import torch

import multipole_lab as ml
from multipole_lab import testing
from multipole_lab.testing import assert_close, expected

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.skipif(
    DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1", reason="no GPU and no interpreter"
)
BACKENDS = ["torch", "triton"]

# name: method, queries, keys, causal, kept keys of the first batch entry
SEMANTICS = {
    "full": (ml.MuSe(clusters=4), 30, 50, False, None),
    "full, near": (ml.MuSe(clusters=4, near=2), 40, 50, False, None),
    "full, padded": (ml.MuSe(clusters=4, near=1, sinks=2), 40, 50, False, slice(0, 33)),
    "full, left-padded": (ml.MuSe(clusters=4, iterations=2), 20, 50, False, slice(21, 50)),
    "full, near all": (ml.MuSe(clusters=4, near=4), 20, 30, False, None),
    "full, dipole": (ml.MuSe(clusters=4, near=1, order="dipole", dipole_rank=None), 30, 40, False, None),
    "full, dipole rank 3": (ml.MuSe(clusters=4, order="dipole", dipole_rank=3), 40, 50, False, None),
    "full, runs": (ml.MuSe(clusters=4, partition="runs"), 20, 30, False, None),
    "causal": (ml.MuSe(clusters=4, leaf=10), 40, 40, True, None),
    "causal, near, sinks": (ml.MuSe(clusters=3, near=2, sinks=3, leaf=16), 25, 44, True, None),
    "causal, near all": (ml.MuSe(clusters=3, near=3, leaf=10), 15, 30, True, None),
    "causal, dipole": (ml.MuSe(clusters=3, order="dipole", dipole_rank=None, leaf=20), 40, 40, True, None),
    "causal, padded": (ml.MuSe(clusters=3, leaf=16, near=1), 20, 40, True, slice(0, 37)),
    "causal, left-padded": (ml.MuSe(clusters=3, leaf=10), 30, 30, True, slice(18, 30)),
    "causal, balanced": (ml.MuSe(clusters=4, partition="balanced", leaf=16), 30, 30, True, None),
    "centroid": (ml.Centroid(clusters=5), 30, 50, False, None),
    "centroid, budget": (ml.Centroid(clusters=8, budget=20, sinks=2, recent=5), 30, 50, False, None),
    "centroid, padded": (ml.Centroid(clusters=4, budget=9, cap=None), 20, 40, False, slice(0, 33)),
    "centroid, left-padded": (ml.Centroid(clusters=4), 20, 40, False, slice(21, 40)),
    "centroid, causal": (ml.Centroid(clusters=4, leaf=10, sinks=1), 30, 40, True, None),
    "centroid, causal budget": (
        ml.Centroid(clusters=4, budget=9, leaf=16, partition="runs"),
        30,
        30,
        True,
        None,
    ),
}


def qkv(Nq, Nk, heads=(2, 1), B=1):
    return testing.qkv(B, heads, Nq, Nk, 16, 24, dtype=torch.float32, device=DEVICE)


def run(method, q, k, v, causal, mask, grads=True):
    """out, lse and, for fixed random gradients of both, the three gradients; the lse of blind queries as 0."""
    inputs = [x.detach().clone().requires_grad_(grads) for x in (q, k, v)]
    out, lse = method(*inputs, causal=causal, mask=mask, return_lse=True)
    lse = lse.masked_fill(lse == -torch.inf, 0)
    result = {"out": out.detach(), "lse": lse.detach()}
    if grads:
        g = torch.Generator().manual_seed(1)
        upstream = [torch.randn(x.shape, generator=g).to(x) for x in (out, lse)]
        found = torch.autograd.grad((out, lse), inputs, upstream)
        result |= dict(zip(("dq", "dk", "dv"), found, strict=True))
    return result


@pytest.mark.parametrize(("method", "queries", "keys", "causal", "kept"), SEMANTICS.values(), ids=SEMANTICS)
def test_triton_equals_torch(method, queries, keys, causal, kept):
    q, k, v = qkv(queries, keys)
    mask = None
    if kept is not None:
        mask = torch.zeros(1, keys, dtype=torch.bool, device=DEVICE)
        mask[0, kept] = True
    # A dipole of reduced rank: the kernels' backward takes the directions as constants, torch's does not.
    grads = not isinstance(method, ml.MuSe) or method.order == "monopole" or method.dipole_rank is None
    by_torch, got = (
        run(replace(method, backend=backend), q, k, v, causal, mask, grads) for backend in BACKENDS
    )
    for name, want in by_torch.items():
        assert_close(name, got[name], want, error=1e-5)


EXACT = {
    "muse": ml.MuSe(clusters=3, near=3, leaf=16),
    "centroid": ml.Centroid(clusters=3, budget=40, leaf=16),
}


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("method", EXACT.values(), ids=EXACT)
@pytest.mark.parametrize("backend", BACKENDS)
def test_near_all_is_exact(backend, method, causal):
    q, k, v = qkv(29, 40, heads=(4, 2))
    method = replace(method, backend=backend)
    got = method(q, k, v, causal=causal, return_lse=True)
    exact = expected(ml.Exact(), q, k, v, causal=causal)
    for name, ours, wanted in zip(("out", "lse"), got, exact, strict=True):
        assert_close(name, ours, wanted, rtol=1e-5, atol=1e-5)


PADDED = {
    "monopole": ml.MuSe(clusters=3, near=1, leaf=12),
    "dipole": ml.MuSe(clusters=3, near=1, order="dipole", dipole_rank=None, leaf=12),
    "centroid": ml.Centroid(clusters=3, leaf=12),
    "centroid, budget": ml.Centroid(clusters=3, budget=9, leaf=12),
}


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("method", PADDED.values(), ids=PADDED)
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_entry_of_padding_alone_gives_zeros(backend, method, causal):
    q, k, v = qkv(24, 24, heads=(1, 1), B=2)
    mask = torch.ones(2, 24, dtype=torch.bool, device=DEVICE)
    mask[1] = False
    method = replace(method, backend=backend)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    out, lse = method(*inputs, causal=causal, mask=mask, return_lse=True)
    assert (out[1] == 0).all()
    assert (lse[1] == -torch.inf).all()
    assert out.isfinite().all()
    assert lse[0].isfinite().all()
    for name, grad in zip("qkv", torch.autograd.grad(out.square().sum(), inputs), strict=True):
        assert grad.isfinite().all(), f"d{name}"
        assert (grad[1] == 0).all(), f"d{name}"


@pytest.mark.parametrize(
    "method", [ml.MuSe(clusters=4, near=1), ml.Centroid(clusters=4, budget=9)], ids=["muse", "centroid"]
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_stays_near_single(backend, method):
    q, k, v = (x.half() for x in qkv(40, 50))
    method = replace(method, backend=backend)
    out, lse = method(q, k, v, return_lse=True)
    assert out.dtype == torch.float16
    assert lse.dtype == torch.float32
    single = replace(method, backend="torch")(*(x.float() for x in (q, k, v)))
    assert ml.relative_squared_error(out, single) < 1e-6


@pytest.mark.parametrize("method", [ml.Centroid(clusters=4, budget=b) for b in (0, 9)], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_in_a_key_reaches_the_result(backend, method):
    q, k, v = qkv(20, 40)
    k[0, 0, 7, 3] = torch.nan
    out = replace(method, backend=backend)(q, k, v)
    assert out.isnan().all()

"""Gradients that recompute: against finite differences, under checkpointing, autocast and torch.compile."""

import contextlib
from dataclasses import replace

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import multipole_lab as ml
from multipole_lab.attention.exact import plain_attention, plain_backward

METHODS = {
    "Exact": ml.Exact(),
    "MuSe": ml.MuSe(clusters=3),
    "MuSe near": ml.MuSe(clusters=3, near=1),
    "MuSe dipole rank 2": ml.MuSe(clusters=3, order="dipole", dipole_rank=2),
    "MuSe dipole full": ml.MuSe(clusters=3, order="dipole", dipole_rank=None, near=1),
    "MuSe sinks": ml.MuSe(clusters=3, sinks=2, near=1),
    "MuSe runs": ml.MuSe(clusters=3, partition="runs"),
    "Centroid": ml.Centroid(clusters=3),
    "Centroid budget": ml.Centroid(clusters=3, budget=4, sinks=1),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
CLUSTERED = {name: METHODS[name] for name in ("MuSe", "MuSe near", "Centroid", "Centroid budget")}
clustered = pytest.mark.parametrize("method", CLUSTERED.values(), ids=CLUSTERED)
full_and_causal = pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])


def short_leaf(method):
    """The same with causal blocks of four, so that short sequences have levels."""
    return method if isinstance(method, ml.Exact) else replace(method, leaf=4)


def qkv(B, Hq, Hk, Nq, Nk, D, Dv, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    shapes = (B, Hq, Nq, D), (B, Hk, Nk, D), (B, Hk, Nk, Dv)
    return [torch.randn(s, generator=g, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


def gradients(call, q, k, v, context=contextlib.nullcontext):
    """Results and gradients of ``call(q, k, v) -> (out, lse)`` for fixed random gradients of both."""
    inputs = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    out, lse = call(*inputs)
    g = torch.Generator().manual_seed(1)
    upstream = [torch.randn(x.shape, generator=g).to(x.dtype) for x in (out, lse)]
    with context():
        grads = torch.autograd.grad((out, lse), inputs, upstream)
    return dict(zip(("out", "lse", "dq", "dk", "dv"), (out.detach(), lse.detach(), *grads), strict=True))


def check_equal(got, expected, **tolerance):
    for name, want in expected.items():
        torch.testing.assert_close(
            got[name], want, **tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@full_and_causal
@every_method
def test_finite_differences(method, causal, padded):
    q, k, v = qkv(1, 2, 1, 9, 11, 3, 2)
    mask = torch.arange(11)[None] < 8 if padded else None

    def attend(q, k, v):
        return short_leaf(method)(q, k, v, causal=causal, mask=mask, return_lse=True)

    # Every entry of the Jacobian, or under padding one random projection of it.
    assert torch.autograd.gradcheck(attend, (q, k, v), fast_mode=padded)


@full_and_causal
@clustered
def test_left_padding_and_an_empty_entry_give_finite_gradients(method, causal):
    """A query without keys has an output of 0 whatever it is, and keys that do not count have no gradient."""
    q, k, v = qkv(2, 2, 1, 11, 11, 3, 2)
    mask = torch.ones(2, 11, dtype=torch.bool)
    mask[0, :6], mask[1] = False, False
    out = short_leaf(method)(q, k, v, causal=causal, mask=mask)
    grads = torch.autograd.grad(out.square().sum(), (q, k, v))
    for name, grad in zip("qkv", grads, strict=True):
        assert grad.isfinite().all(), f"d{name}"
        assert (grad[1] == 0).all(), f"d{name} of the empty entry"
    assert all((grad[0, :, :6] == 0).all() for grad in grads[1:])
    assert all((grad[0, :, 6:] != 0).any() for grad in grads)


@full_and_causal
@every_method
def test_activation_checkpointing_changes_nothing(method, causal):
    q, k, v = qkv(1, 2, 1, 13, 16, 4, 5, torch.float32)

    def attend(*x):
        return short_leaf(method)(*x, causal=causal, return_lse=True)

    expected = gradients(attend, q, k, v)
    got = gradients(lambda *x: checkpoint(attend, *x, use_reentrant=False), q, k, v)
    check_equal(got, expected, rtol=0, atol=0)


@full_and_causal
@every_method
def test_autocast_attends_in_bfloat16_with_statistics_in_float32(method, causal):
    q, k, v = qkv(1, 2, 1, 29, 32, 8, 8, torch.float32)
    method = short_leaf(method)

    def attend(*x):
        return method(*x, causal=causal, return_lse=True)

    def autocast(*x):
        with torch.autocast("cpu", torch.bfloat16):
            return attend(*x)

    half = gradients(lambda *x: attend(*(y.bfloat16() for y in x)), q, k, v)
    got = gradients(autocast, q, k, v)
    assert got["out"].dtype == torch.bfloat16
    assert got["lse"].dtype == torch.float32
    assert all(got[name].dtype == torch.float32 for name in ("dq", "dk", "dv"))
    check_equal(got, half, rtol=0, atol=0)
    # A backward called inside the region recomputes as the forward computed: not under autocast.
    inside = gradients(autocast, q, k, v, lambda: torch.autocast("cpu", torch.bfloat16))
    check_equal(inside, half, rtol=0, atol=0)
    single = gradients(attend, *(x.detach().bfloat16().float() for x in (q, k, v)))
    for name, want in single.items():
        error = ((got[name].float() - want).norm() / want.norm()).item()
        assert error < 0.02, f"{name}: relative error {error:.3f}"


COMPILED = {
    "MuSe full": (ml.MuSe(clusters=3, near=1), False),
    "MuSe causal": (ml.MuSe(clusters=3, leaf=4), True),
    "MuSe causal near sinks": (ml.MuSe(clusters=3, near=1, leaf=4, sinks=1), True),
    "MuSe dipole": (ml.MuSe(clusters=3, order="dipole", dipole_rank=2), False),
    "Centroid full": (ml.Centroid(clusters=3, budget=4), False),
    "Centroid causal": (ml.Centroid(clusters=3, leaf=4, sinks=1), True),
}


@pytest.mark.parametrize(("method", "causal"), COMPILED.values(), ids=COMPILED)
def test_compiles_into_one_graph(method, causal):
    """fullgraph=True allows no graph break; aot_eager traces the backward too and needs no compiler."""
    q, k, v = qkv(1, 2, 1, 13, 16, 4, 5, torch.float32)

    def attend(q, k, v):
        return method(q, k, v, causal=causal, return_lse=True)

    torch.compiler.reset()
    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    check_equal(gradients(compiled, q, k, v), gradients(attend, q, k, v))


@full_and_causal
@every_method
def test_little_is_kept_for_the_backward(method, causal):
    """Nothing as large as the Nq C masses of one head, and no more than linear in the sequence in total."""
    kept = {}
    for N in (128, 256):
        q, k, v = qkv(1, 1, 1, N, N, 2, 2, torch.float32)
        many = method if isinstance(method, ml.Exact) else replace(method, clusters=16, leaf=16)
        seen = {}

        def pack(x, seen=seen):
            seen[x.untyped_storage().data_ptr()] = x
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            many(q, k, v, causal=causal)
        assert seen
        largest = max(seen.values(), key=torch.Tensor.numel)
        assert largest.numel() < N * 16, tuple(largest.shape)
        kept[N] = sum(x.numel() for x in seen.values())
    assert kept[256] < 3 * kept[128]  # twice, and one more level of a causal block


@pytest.mark.parametrize("causal", [False, True])
def test_the_formula_for_other_devices_has_the_gradients_of_its_differentiation(causal):
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 17, 8, dtype=torch.float64, generator=g, requires_grad=True) for _ in "qkv")
    bias = torch.zeros(2, 1, 1, 17, dtype=torch.float64)
    bias[1, ..., 9:] = -torch.inf
    out, lse = plain_attention(q, k, v, bias, causal, 0.3)
    dout, dlse = torch.randn_like(out), torch.randn_like(lse)
    expected = torch.autograd.grad((out, lse), (q, k, v), (dout, dlse))
    given = plain_backward(dout, dlse, q.detach(), k.detach(), v.detach(), out, lse, bias, causal, 0.3)
    for name, a, b in zip("qkv", given, expected, strict=True):
        torch.testing.assert_close(a, b, msg=lambda m, name=name: f"d{name}: {m}")

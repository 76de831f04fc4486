"""Derivatives other than the first in reverse mode, and every transform of torch.func: right, for every method."""

import pytest
import torch
from every_method import METHODS

import multipole_lab as ml

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
full_and_causal = pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])


def qkv(N=11, grad=False):
    g = torch.Generator().manual_seed(0)
    shapes = (1, 2, N, 4), (1, 1, N, 4), (1, 1, N, 3)
    return [torch.randn(s, generator=g, dtype=torch.float64, requires_grad=grad) for s in shapes]


@full_and_causal
@every_method
def test_forward_mode_gives_the_slope(method, causal):
    q, k, v = qkv()
    tangents = [torch.randn_like(x) for x in (q, k, v)]

    def attend(*x):
        return method(*x, causal=causal, return_lse=True)

    _, got = torch.func.jvp(attend, (q, k, v), tuple(tangents))
    step = 1e-6
    above, below = (
        attend(*(x + t * y for x, y in zip((q, k, v), tangents, strict=True))) for t in (step, -step)
    )
    for name, slope, a, b in zip(("out", "lse"), got, above, below, strict=True):
        assert slope.abs().max() > 0.01, name
        torch.testing.assert_close(
            slope, (a - b) / (2 * step), rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


@full_and_causal
@every_method
def test_dual_numbers_give_the_same(method, causal):
    q, k, v = qkv()
    tangent = torch.randn_like(q)
    _, wanted = torch.func.jvp(lambda q: method(q, k, v, causal=causal), (q,), (tangent,))
    with torch.autograd.forward_ad.dual_level():
        out = method(torch.autograd.forward_ad.make_dual(q, tangent), k, v, causal=causal)
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(out).tangent, wanted)


@full_and_causal
@every_method
def test_second_derivatives_agree_with_finite_differences(method, causal):
    q, k, v = qkv(grad=True)

    def attend(*x):
        return method(*x, causal=causal, return_lse=True)

    assert torch.autograd.gradgradcheck(attend, (q, k, v), fast_mode=True, atol=1e-4)


@full_and_causal
@every_method
def test_a_gradient_penalty_reaches_the_gradient(method, causal):
    q, k, v = qkv(grad=True)
    out = method(q, k, v, causal=causal)
    (slope,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    plain, *_ = torch.autograd.grad(out.sum(), (q, k, v), retain_graph=True)
    with_penalty, *_ = torch.autograd.grad(out.sum() + slope.square().sum(), (q, k, v))
    assert (with_penalty - plain).norm() > 0.01


@full_and_causal
@every_method
def test_padding_and_second_derivatives_of_queries_that_see_no_key(method, causal):
    q, k, v = qkv(grad=True)
    mask = torch.arange(11)[None] > 4
    out = method(q, k, v, causal=causal, mask=mask)
    (slope,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    assert all(x.isfinite().all() for x in torch.autograd.grad(slope.square().sum(), (q, k, v)))


@full_and_causal
@every_method
def test_func_grad_is_the_gradient(method, causal):
    q, k, v = qkv(grad=True)
    wanted = torch.autograd.grad(method(q, k, v, causal=causal).square().sum(), (q, k, v))
    got = torch.func.grad(lambda *x: method(*x, causal=causal).square().sum(), (0, 1, 2))(
        *(x.detach() for x in (q, k, v))
    )
    for name, a, b in zip("qkv", got, wanted, strict=True):
        torch.testing.assert_close(a, b, msg=lambda m, name=name: f"d{name}: {m}")


@full_and_causal
@every_method
def test_vmap_is_one_call_after_the_other(method, causal):
    many = [torch.stack([x, 2 * x, -x]) for x in qkv()]
    wanted = torch.stack([method(*x, causal=causal) for x in zip(*many, strict=True)])
    got = torch.func.vmap(lambda *x: method(*x, causal=causal))(*many)
    torch.testing.assert_close(got, wanted)


def test_gradients_of_single_samples():
    """The use of vmap around grad that privacy and influence functions make of it."""
    q, k, v = (torch.stack([x, 2 * x]) for x in qkv())
    method = ml.MuSe(clusters=3, near=1)
    got = torch.func.vmap(torch.func.grad(lambda *x: method(*x).square().sum()))(q, k, v)
    for i in range(2):
        wanted = torch.func.grad(lambda *x: method(*x).square().sum())(q[i], k[i], v[i])
        torch.testing.assert_close(got[i], wanted)


@full_and_causal
def test_a_compiled_function_keeps_its_tangents(causal):
    q, k, v = qkv()
    method = ml.MuSe(clusters=3, leaf=8)

    def slope(q):
        return torch.func.jvp(lambda q: method(q, k, v, causal=causal), (q,), (q,))[1]

    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(slope, backend="eager")(q), slope(q))


def test_a_compiled_method_keeps_its_second_derivative():
    q, k, v = qkv(grad=True)
    method = ml.MuSe(clusters=3, leaf=8)
    seconds = []
    torch.compiler.reset()
    for attend in (method, torch.compile(lambda *x: method(*x), backend="eager")):
        (slope,) = torch.autograd.grad(attend(q, k, v).square().sum(), q, create_graph=True)
        seconds.append(torch.autograd.grad(slope.square().sum(), (q, k, v)))
    torch.testing.assert_close(*seconds)

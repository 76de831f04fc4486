"""Every method without numbers (meta tensors), and the transforms of torch.func on top of each other and compiled."""

import pytest
import torch
from every_method import METHODS

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
full_and_causal = pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])


def qkv(N=11):
    g = torch.Generator().manual_seed(0)
    shapes = (2, 2, N, 4), (2, 1, N, 4), (2, 1, N, 3)
    return [torch.randn(s, generator=g, dtype=torch.float64) for s in shapes]


@full_and_causal
@every_method
def test_meta_tensors_give_the_shapes_of_results_and_gradients(method, causal):
    q, k, v = (x.to("meta").requires_grad_() for x in qkv())
    mask = torch.ones(2, 11, dtype=torch.bool, device="meta")
    for padding in ({}, {"mask": mask}, {"lengths": torch.tensor([9, 11])}):
        out, lse = method(q, k, v, causal=causal, return_lse=True, **padding)
        assert (out.is_meta, out.dtype, out.shape) == (True, q.dtype, (2, 2, 11, 3))
        assert (lse.is_meta, lse.shape) == (True, (2, 2, 11))
    slopes = torch.autograd.grad(out.square().sum(), (q, k, v), create_graph=True)
    assert [x.shape for x in slopes] == [x.shape for x in (q, k, v)]
    assert torch.autograd.grad(slopes[0].square().sum(), k)[0].shape == k.shape


@full_and_causal
@every_method
def test_a_product_with_the_hessian_is_autograds(method, causal):
    q, k, v = qkv()
    along = torch.randn(q.shape, generator=torch.Generator().manual_seed(1), dtype=q.dtype)

    def loss(q):
        return method(q, k, v, causal=causal).square().sum()

    _, got = torch.func.jvp(torch.func.grad(loss), (q,), (along,))
    q = q.requires_grad_()
    (slope,) = torch.autograd.grad(loss(q), q, create_graph=True)
    torch.testing.assert_close(got, torch.autograd.grad((slope * along).sum(), q)[0])


@pytest.mark.parametrize(("name", "causal"), [("Centroid budget", False), ("MuSe", True)])
def test_gradients_and_maps_of_torch_func_compile_into_one_graph(name, causal):
    method, (q, k, v) = METHODS[name], qkv()
    torch.compiler.reset()
    for function, given in (
        (torch.func.grad(lambda q: method(q, k, v, causal=causal).square().sum()), q),
        (torch.func.vmap(lambda q: method(q, k, v, causal=causal)), torch.stack([q, 2 * q])),
    ):
        compiled = torch.compile(function, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(given), function(given))
    torch.compiler.reset()

"""The operators over the kernels: torch's own check of each, and attention made of them beside the methods."""

import pytest
import torch

import multipole_lab as ml
from multipole_lab.kernels import operators
from multipole_lab.kernels.common.layout import level_blocks

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def tensors(N=12, Dv=16):
    g = torch.Generator().manual_seed(0)
    shapes = (1, 2, N, 16), (1, 1, N, 16), (1, 1, N, Dv)
    return [torch.randn(*shape, generator=g).to(DEVICE).requires_grad_() for shape in shapes]


def arguments():
    """Of every operator, small ones."""
    q, k, v = tensors()
    left, right = (operators.clusters(x.detach(), 3, 1, 1.5, 0) for x in (q, k))
    of_level = [operators.clusters(x, 3, 1, 1.5, 0) for x in level_blocks(q.detach(), k.detach(), 6)]
    return {
        "exact": (q, k, v, 0.25, True),
        "clusters": (q.detach(), 3, 1, None, 0),
        "muse": (q, k, v, *left, *right[1:], 0.25, 1),
        "muse_causal": (q, k, v, [*of_level[0], *of_level[1][1:]], 6, 0.25, 1),
    }


@pytest.mark.parametrize("name", ["exact", "clusters", "muse", "muse_causal"])
def test_torch_finds_nothing_wrong_with_an_operator(name):
    torch.library.opcheck(getattr(operators, name), arguments()[name])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("Dv", [16, 17])
def test_attention_of_operators_is_that_of_the_methods(causal, Dv):
    inputs = tensors(N=11, Dv=Dv)
    pairs = (
        (operators.attention(*inputs, causal), ml.Exact()(*inputs, causal=causal)),
        (
            operators.muse_attention(*inputs, causal, clusters=3, near=1, leaf=6),
            ml.MuSe(clusters=3, near=1, leaf=6, backend="torch")(*inputs, causal=causal),
        ),
    )
    for got, expected in pairs:
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        upstream = torch.ones_like(expected)
        for mine, theirs in zip(
            *(torch.autograd.grad(x, inputs, upstream) for x in (got, expected)), strict=True
        ):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_causal_attention_of_more_keys_is_refused():
    q, k, v = tensors()
    with pytest.raises(ValueError, match="q has 5 positions and k 12; causal attention needs one number"):
        operators.muse_attention(q[:, :, :5], k, v, causal=True)

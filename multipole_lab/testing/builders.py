"""Inputs for tests of attention: shapes that are no multiples of anything, clusters of ragged sizes, padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multipole_lab.suggesting import suggesting


@suggesting
def qkv(
    B: int,
    heads: tuple[int, int],
    Nq: int,
    Nk: int,
    D: int,
    Dv: int,
    *,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    grad: bool = False,
    seed: int = 0,
) -> list[Tensor]:
    """Normal q [B, Hq, Nq, D], k [B, Hk, Nk, D] and v [B, Hk, Nk, Dv] for heads (Hq, Hk).

    The numbers are drawn in float64 and rounded, so that they are nearly the same in every dtype.
    """
    g = torch.Generator().manual_seed(seed)
    shapes = (B, heads[0], Nq, D), (B, heads[1], Nk, D), (B, heads[1], Nk, Dv)
    drawn = (torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes)
    return [x.to(device, dtype).requires_grad_(grad) for x in drawn]


@suggesting
def ragged_labels(
    shape: Sequence[int], clusters: int, *, empty: Sequence[int] = (), padding: int = 0, seed: int = 0
) -> Int[Tensor, "*batch N"]:
    """Labels of N = shape[-1] vectors, clusters of very different sizes: cluster j is about twice as large as j + 1.

    Parameters
    ----------
    empty : clusters that get no member; not all of them.
    padding : how many vectors at the end have label -1.
    """
    g = torch.Generator().manual_seed(seed)
    weight = 0.5 ** torch.arange(clusters, dtype=torch.float64)
    weight[list(empty)] = 0.0
    count = int(torch.tensor(shape[:-1]).prod())
    labels = torch.multinomial(weight.expand(count, clusters), shape[-1], replacement=True, generator=g)
    labels = labels.view(*shape)
    labels[..., shape[-1] - padding :] = -1
    return labels


@suggesting
def padding_mask(Nk: int, *kept: slice | Sequence[int], device: str = "cpu") -> Bool[Tensor, "B Nk"]:
    """One row for each of ``kept``: the keys that count."""
    mask = torch.zeros(len(kept), Nk, dtype=torch.bool, device=device)
    for row, keys in zip(mask, kept, strict=True):
        row[keys] = True
    return mask


@suggesting
def orthonormal(
    shape: Sequence[int], rank: int, *, dtype: torch.dtype = torch.float64, seed: int = 1
) -> Float[Tensor, "*batch D r"]:
    """Random directions: orthonormal columns of D = shape[-1] numbers."""
    g = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(*shape, rank, generator=g, dtype=torch.float64))[0].to(dtype)


@suggesting
def with_gradients(
    call, inputs: Sequence[Tensor], upstream: Sequence[Tensor] | None = None, seed: int = 1
) -> dict:
    """out, lse and the gradients of q, k and v of ``call(q, k, v) -> (out, lse)``, by name.

    ``upstream`` are the gradients of out and lse, normal ones by default; a lse of -inf gets none and reads 0.
    """
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    out, lse = call(*inputs)
    lse = lse.masked_fill(lse == -torch.inf, 0.0)
    if upstream is None:
        g = torch.Generator().manual_seed(seed)
        upstream = [torch.randn(x.shape, generator=g, dtype=torch.float64) for x in (out, lse)]
    grads = torch.autograd.grad(
        (out, lse), inputs, [g.to(x) for g, x in zip(upstream, (out, lse), strict=True)]
    )
    return dict(zip(("out", "lse", "dq", "dk", "dv"), (out.detach(), lse.detach(), *grads), strict=True))

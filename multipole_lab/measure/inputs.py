"""Queries, keys and values to time: real heads where there are enough, resampled and so labelled where not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def heads_of(
    sample: str, layer: int | None, heads: int, tokens: int, dim: int | None = None, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, str]:
    """q, k and v, each [1, heads, tokens, D] float32, and where they are from.

    Parameters
    ----------
    sample : the name or path of a captured sample, or "random" for normal numbers.
    layer : the sample's layer; its middle one by default.
    heads : how many; a sample's heads are taken one after the other, each with its group's keys and values.
    tokens : how many. Beyond the sample's length, tokens are drawn again from it with noise of a tenth of their
        spread, so that repeated keys do not coincide; the label then says "resampled".
    dim : the head size: by default 64 of random numbers and a sample's own. A multiple of that puts heads side by side,
        and the label says so.
    seed : of random inputs and of the resampling.
    """
    generator = torch.Generator().manual_seed(seed)
    if sample == "random":
        q, k, v = (torch.randn(1, heads, tokens, dim or 64, generator=generator) for _ in range(3))
        return q, k, v, "random normal"
    from multipole_lab.models import load_sample

    captured = load_sample(sample)
    layer = captured.layers[len(captured.layers) // 2] if layer is None else layer
    data = captured[layer]
    group = data.q.shape[1] // data.k.shape[1]
    # A head of twice the size is two heads side by side: its logits are the sums of theirs.
    side_by_side, rest = divmod(dim or data.q.shape[-1], data.q.shape[-1])
    if rest or side_by_side < 1:
        raise ValueError(
            f"dim is {dim}; {sample} has heads of {data.q.shape[-1]}, and multiples of that are allowed"
        )
    index = torch.arange(heads * side_by_side) % data.q.shape[1]
    q, k, v = (
        x[:, at].unflatten(1, (heads, side_by_side)).transpose(2, 3).flatten(-2)
        for x, at in ((data.q, index), (data.k, index // group), (data.v, index // group))
    )
    label = f"{sample} layer {layer}" + (f", {side_by_side} heads side by side" if side_by_side > 1 else "")
    if tokens > q.shape[2]:
        q, k, v = resampled((q, k, v), tokens, generator)
        label += f", resampled from {len(captured)} tokens"
    return *(x[:, :, :tokens].contiguous() for x in (q, k, v)), label


def resampled(tensors: Sequence[Tensor], tokens: int, generator: torch.Generator) -> list[Tensor]:
    """Tensors [1, H, N, D] with more tokens than they have: tokens drawn again, in order, each with its own noise.

    The noise is a tenth of the tensor's spread, so that repeated keys do not coincide.
    """
    position = torch.randint(tensors[0].shape[2], (tokens,), generator=generator).sort().values
    return [
        x[:, :, position]
        + 0.1 * x.std() * torch.randn(*x.shape[:2], tokens, x.shape[-1], generator=generator)
        for x in tensors
    ]

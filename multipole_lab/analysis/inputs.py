"""Queries, keys and values to time: real heads where there are enough, resampled and so labelled where not."""

from __future__ import annotations

import torch
from torch import Tensor


def heads_of(
    sample: str, layer: int | None, heads: int, tokens: int, dim: int = 64, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, str]:
    """q, k and v, each [1, heads, tokens, D] float32, and where they are from.

    Parameters
    ----------
    sample : the name or path of a captured sample, or "random" for normal numbers of head size ``dim``.
    layer : the sample's layer; its middle one by default.
    heads : how many; a sample's heads are taken in turn, each with its group's keys and values.
    tokens : how many. Beyond the sample's length, tokens are drawn again from it with noise of a tenth of their
        spread, so that repeated keys do not coincide; the label then says "resampled".
    dim, seed : of random inputs and of the resampling.
    """
    generator = torch.Generator().manual_seed(seed)
    if sample == "random":
        q, k, v = (torch.randn(1, heads, tokens, dim, generator=generator) for _ in range(3))
        return q, k, v, "random normal"
    from multipole_lab.models import load_sample

    captured = load_sample(sample)
    layer = captured.layers[len(captured.layers) // 2] if layer is None else layer
    data = captured[layer]
    group = data.q.shape[1] // data.k.shape[1]
    index = torch.arange(heads) % data.q.shape[1]
    q, k, v = data.q[:, index], data.k[:, index // group], data.v[:, index // group]
    label = f"{sample} layer {layer}"
    if tokens > q.shape[2]:
        position = torch.randint(q.shape[2], (tokens,), generator=generator).sort().values
        q, k, v = (
            x[:, :, position]
            + 0.1 * x.std() * torch.randn(1, heads, tokens, x.shape[-1], generator=generator)
            for x in (q, k, v)
        )
        label += f", resampled from {len(captured)} tokens"
    return *(x[:, :, :tokens].contiguous() for x in (q, k, v)), label

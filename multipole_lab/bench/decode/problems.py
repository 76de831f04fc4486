"""Queries, keys and values to decode with: captured from a model, or made up."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from multipole_lab.decoding.store.rope import Rotation

Problem = tuple[Tensor, Tensor, Tensor, float, Rotation | None]


def problems(args: argparse.Namespace) -> list[Problem]:
    """q, k, v, scale and rotation of every layer of ``--sample``, or one synthetic layer.

    Raises
    ------
    ValueError, OSError : no such sample, fewer keys than steps, or --windowed for synthetic keys.
    """
    dtype, device = getattr(torch, args.dtype), torch.device(args.device)
    if args.sample is None:
        if args.windowed:
            raise ValueError("--windowed needs --sample: synthetic keys have no rotation to undo")
        return [synthetic(args.batch, *args.heads, args.keys + args.steps, args.head_size, dtype, device)]
    from multipole_lab.models.samples.sample import Sample

    sample = Sample.load(args.sample)
    rotation = None
    if args.windowed:
        head = sample[sample.layers[0]].k.shape[-1]
        power = torch.arange(0, head, 2, dtype=torch.float64) / head
        rotation = Rotation(sample.rope["rope_theta"] ** -power)
    layers = [sample[i] for i in sample.layers]
    return [(*(x.to(device, dtype) for x in (one.q, one.k, one.v)), sample.scale, rotation) for one in layers]


def synthetic(
    batch: int, query_heads: int, heads: int, length: int, size: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, float, None]:
    """Keys around topics that change slowly along the text, queries near some of them, values with the topics."""
    g = torch.Generator().manual_seed(0)
    topics = max(1, length // 64)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g)

    which = torch.randint(topics, (batch, heads, length // 16 + 1), generator=g).repeat_interleave(16, -1)
    index = which[..., :length, None].expand(-1, -1, -1, size)
    k = normal(batch, heads, topics, size).gather(2, index) + normal(batch, heads, length, size)
    v = normal(batch, heads, topics, size).gather(2, index) + normal(batch, heads, length, size)
    near = k.repeat_interleave(query_heads // heads, 1).roll(7919, 2)
    # Scaled so that the mass is neither on one key nor on all.
    q = 0.5 * (near + normal(batch, query_heads, length, size))
    return (*(x.to(device, dtype) for x in (q, k, v)), size**-0.5, None)

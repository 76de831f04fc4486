"""A sample of random queries, keys and values, as small as a search over settings can be tried on."""

import torch

from multipole_lab.models.samples.sample import Sample


def random_sample(tokens=160, seed=0, layers=(1, 4)):
    """Four query heads and two key heads of size 8 in every layer, kept in half precision as captures are."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        f"layer.{layer}.{part}": torch.randn(1, heads, tokens, 8, generator=generator).half()
        for layer in layers
        for part, heads in (("q", 4), ("k", 2), ("v", 2))
    }
    return Sample(
        list(layers),
        torch.arange(tokens),
        ["x"] * tokens,
        scale=0.35,
        rope={},
        provenance={},
        tensors=tensors,
    )

"""Queries, keys and values to time: real heads where there are enough, resampled and so labelled where not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from multipole_lab.measure.heads import first_tokens
from multipole_lab.measure.precision import default_dtype


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
        label += f", resampled from {len(captured)} tokens"
    return *(x.contiguous() for x in at_length((q, k, v), tokens, seed)), label


def at_length(tensors: Sequence[Tensor], tokens: int, seed: int = 0) -> Sequence[Tensor]:
    """The first tokens of tensors [1, H, N, D], or, where they have fewer, tokens drawn again by ``resampled``."""
    if tokens > tensors[0].shape[2]:
        return resampled(tensors, tokens, torch.Generator().manual_seed(seed))
    return [x[:, :, :tokens] for x in tensors]


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


@dataclass(frozen=True)
class Load:
    """How much one call has to do.

    Attributes
    ----------
    heads : query heads, the layer's taken one after the other, each with keys of its own as they are in the layer; None
        for the layer's own, which share keys as the model's do.
    batch : texts at once, all the same one: clusters are found in each.
    causal : causal attention instead of full.
    """

    heads: int | None = None
    batch: int = 1
    causal: bool = False

    def of(self, layer, length: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v of this load at one length, on the device in its ``default_dtype``.

        Beyond the layer's end tokens are drawn again, which changes no time and flatters errors: those are to be taken
        where ``is_real`` says so.
        """
        if self.is_real(layer, length):
            q, k, v = first_tokens(layer, length)
        else:
            q, k, v = at_length((layer.q, layer.k, layer.v), length)
        if self.heads is not None:
            group = q.shape[1] // k.shape[1]
            query = torch.arange(self.heads) % q.shape[1]
            q, k, v = q[:, query], k[:, query // group], v[:, query // group]
        dtype = default_dtype(device)
        q, k, v = (x.to(device, dtype).expand(self.batch, -1, -1, -1).contiguous() for x in (q, k, v))
        return q, k, v

    def words(self, own_heads: int) -> str:
        """What one call has to do, of a layer with that many heads."""
        texts = f" of {self.batch} texts" if self.batch > 1 else ""
        heads = self.batch * (self.heads or own_heads)
        return f"{'Causal, ' if self.causal else ''}{heads} heads{texts}"

    @staticmethod
    def is_real(layer, length: int) -> bool:
        """Whether the layer has that many tokens of its own."""
        return length <= layer.q.shape[2]

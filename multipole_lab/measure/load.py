"""What is timed: a layer's heads as many times, in as many texts and at as many tokens as asked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from multipole_lab.measure.heads import first_tokens
from multipole_lab.measure.inputs import resampled
from multipole_lab.measure.precision import default_dtype


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
            q, k, v = resampled((layer.q, layer.k, layer.v), length, torch.Generator().manual_seed(0))
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

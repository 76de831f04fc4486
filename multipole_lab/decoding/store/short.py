"""Texts too short to gain from clusters are attended densely, and nothing of them is clustered.

A dense step reads every key and value once, as fast as the memory gives them. A clustered one reads few of them, after
some twenty small operations, whose time hardly depends on the text. So both take the same time at a number of bytes,
whatever they are made of: heads and their size, numbers in half or full precision, texts of a batch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:
    from multipole_lab.decoding.store.hierarchy import Hierarchy

# Bytes of the keys and values of one layer from which on a clustered step is the faster one, by the kind of device.
# On a CPU both meet at 11 to 20 MB, by the number of heads, measured in turns; a GPU has not been measured.
LEAST_BYTES = {"cpu": 20_000_000, "cuda": 0}


def dense_until(h: Hierarchy) -> int:
    """Keys below which a layer without clusters attends densely: as the settings say, or as many as pay."""
    if h.settings.dense_until is not None:
        return h.settings.dense_until
    B, Hk, _, D = h.keys.buffer.shape
    token = B * Hk * (D + h.values.buffer.shape[-1]) * h.keys.buffer.element_size()
    return math.ceil(LEAST_BYTES.get(h.keys.buffer.device.type, 0) / token)


def attend_densely(
    h: Hierarchy, q: Float[Tensor, "B Hq 1 D"], mask: Tensor | None, scale: float
) -> Float[Tensor, "B Hq 1 Dv"] | None:
    """The attention of one new token over all keys of a layer without clusters; None for a mask of every head.

    The queries of a group are rows of one head, so that its keys are read once.
    """
    if mask is not None and mask.shape[1] != 1:
        return None
    B, Hq, _, D = q.shape
    rows = q.view(B, h.keys.buffer.shape[1], -1, D)
    out = scaled_dot_product_attention(rows, h.keys.view(), h.values.view(), mask, scale=scale)
    return out.view(B, Hq, 1, -1)

"""What a mask tells a clustered layer about padding."""

from __future__ import annotations

import torch
from torch import Tensor

from multipole_lab.decoding.store.hierarchy import Hierarchy


def learn_padding(h: Hierarchy, mask: Tensor) -> bool:
    """Note which keys a mask for one new token hides; False for a mask other than padding that stays as it was.

    Parameters
    ----------
    h : the storage, whose ``valid`` is written.
    mask : [B or 1, 1, 1, N], boolean (False hides) or added to the logits (0 or very negative).
    """
    if mask.shape[-1] != h.length or mask.shape[-2] != 1 or mask.shape[1] != 1:
        return False
    row = mask[:, 0, 0].expand(h.keys.buffer.shape[0], -1)
    if row.dtype != torch.bool:
        hidden = row <= torch.finfo(row.dtype).min / 2
        if not bool(((row == 0) | hidden).all()):
            return False  # a bias and not a mask
        row = ~hidden
    if h.valid is None:
        if bool(row.all()):
            return True
        if h.blocks:
            return False
        h.valid = row.clone()
        return True
    known = h.clustered
    if not row[:, :known].equal(h.valid[:, :known]):
        return False
    h.valid[:, known:] = row[:, known:]
    return True

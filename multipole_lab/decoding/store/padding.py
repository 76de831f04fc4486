"""What a mask tells clustered layers about padding, read once for all layers that get the same mask."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from multipole_lab.decoding.store.hierarchy import Hierarchy


class Masks:
    """The mask of the last step, as all layers of a cache get it.

    A look at a mask makes the host wait for the device. One look a step tells whether its mask is that of the step
    before with one key more; then a layer that knew the one before needs none of its own.

    Attributes
    ----------
    row : [B, N] which keys the last mask shows; None where it was no mask of padding.
    """

    def __init__(self) -> None:
        self.row: Bool[Tensor, "B N"] | None = None
        self._mask: Tensor | None = None
        self._version = 0
        self._before: Bool[Tensor, "B N"] | None = None
        self._whole: bool | None = None

    def learn(self, h: Hierarchy, mask: Tensor) -> bool:
        """Note which keys a mask for one new token hides; False for a mask other than padding that stays as it was.

        Parameters
        ----------
        h : the storage of a layer, whose ``valid`` is written.
        mask : [B or 1, 1, 1, N], boolean (False hides) or added to the logits (0 or very negative).
        """
        if mask.shape[-1] != h.length or mask.shape[-2] != 1 or mask.shape[1] != 1:
            return False
        self._read(mask, h.keys.buffer.shape[0])
        row = self.row
        if row is None:
            return False
        if h.valid is None:
            if self._whole is None:
                self._whole = bool(row.all())
            if self._whole:
                return True
            if h.blocks:
                return False
            h.valid = row.clone()
        else:
            known = h.clustered
            follows = h.learnt is not None and h.learnt is self._before
            if not follows and not row[:, :known].equal(h.valid[:, :known]):
                return False
            h.valid[:, known:] = row[:, known:]
        h.learnt = row
        return True

    def _read(self, mask: Tensor, batch: int) -> None:
        """Make ``row`` what this mask says, unless it is the mask that was read last."""
        version = -1 if mask.is_inference() else mask._version  # that of inference mode counts no changes
        last = self._mask
        if last is not None and version >= 0 and version == self._version:
            same = last.data_ptr() == mask.data_ptr() and last.dtype == mask.dtype
            if same and last.shape == mask.shape and last.stride() == mask.stride():
                return
        before, self._mask, self._version, self._whole = self.row, mask, version, None
        self.row, self._before = self._shown(mask, batch), None
        if self.row is not None and before is not None and before.shape == (batch, mask.shape[-1] - 1):
            self._before = before if self.row[:, :-1].equal(before) else None

    @staticmethod
    def _shown(mask: Tensor, batch: int) -> Bool[Tensor, "B N"] | None:
        row = mask[:, 0, 0].expand(batch, -1)
        if row.dtype == torch.bool:
            return row.clone()  # the mask may be written to
        hidden = row <= torch.finfo(row.dtype).min / 2
        if not bool(((row == 0) | hidden).all()):
            return None  # a bias and not a mask
        return ~hidden

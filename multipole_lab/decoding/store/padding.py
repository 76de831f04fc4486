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
        # Of the last mask, what tells it from others, and whom it was read for. The mask itself is not kept: one that a
        # compiled model makes lies in memory of its graph, which must not be asked for in the next step.
        self._signs: tuple | None = None
        self._served: set[Hierarchy] = set()
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
        self._read(mask, h)
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

    def _read(self, mask: Tensor, h: Hierarchy) -> None:
        """Make ``row`` what this mask says, unless it is the mask that was read last, for other layers."""
        signs = None  # in inference mode changes are not counted
        if not mask.is_inference():
            signs = mask.data_ptr(), mask._version, mask.dtype, mask.shape, mask.stride()
        if signs is not None and signs == self._signs and h not in self._served:  # a layer comes once a step
            self._served.add(h)
            return
        batch, before = h.keys.buffer.shape[0], self.row
        self._signs, self._served, self._whole = signs, {h}, None
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

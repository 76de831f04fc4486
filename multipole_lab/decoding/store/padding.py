"""What a mask tells clustered layers about padding, read once for all layers that get the same mask.

The mask of a prompt is read without waiting for the device, so that its padding is known before a step has come. The
mask of the first step has to go on with it, which the host waits for as in all steps; if it does not, the layer stays
dense until two masks in a row agree. Clusters of a prompt are made in the first step, with padding or without: before
it nobody knows whether the prompt has ended.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool
from torch import Tensor

from multipole_lab.decoding.store.hierarchy import Hierarchy

if TYPE_CHECKING:
    from multipole_lab.decoding.layer import ClusteredLayer


class Masks:
    """The mask of the last call, as all layers of a cache get it.

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
        self._first: int | None = None  # key that the last mask hides in any text, once it was asked for

    def learn_prompt(self, h: Hierarchy, mask: Tensor | None) -> None:
        """Note which keys the mask of several new tokens hides, of a layer without clusters; nothing is waited for.

        Parameters
        ----------
        h : the storage of a layer, whose ``valid`` is written.
        mask : [B or 1, 1, n, N], boolean (False hides) or added to the logits; None hides nothing.
        """
        if h.blocks:  # the next step says whether what is clustered is still what counts
            return
        h.valid = h.learnt = None
        if mask is None or mask.ndim != 4 or mask.shape[1] != 1 or mask.shape[-1] != h.length:
            return
        if mask.shape[-2] == 1:  # one for all queries, or for the first key
            return
        if not self._is_known(mask, h):
            self.row, self._before = self._shown_at_last(mask, h.keys.buffer.shape[0]), None
        h.valid, h.learnt = self.row.clone(), self.row

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
        goes_on = h.valid is None or (h.learnt is not None and h.learnt is self._before) or self._goes_on(h)
        if not h.blocks or h.valid is None:
            if self._first is None:
                self._first = int(_first_hidden(row))
            if self._first < h.clustered:
                return False
            h.valid, h.learnt = (None, None) if self._first == h.length else (row.clone(), row)
        elif goes_on:
            h.valid[:, h.clustered :] = row[:, h.clustered :]
            h.learnt = row
        return goes_on

    def _goes_on(self, h: Hierarchy) -> bool:
        """Whether the last mask shows of a layer what was known: of what is clustered, or of all but the new key."""
        if h.blocks:
            return self.row[:, : h.clustered].equal(h.valid[:, : h.clustered])
        same, self._first = _compared(self.row, h.valid[:, :-1])
        return same

    def _is_known(self, mask: Tensor, h: Hierarchy) -> bool:
        """Whether ``row`` is what this mask says, which was read last, for other layers."""
        signs = None  # in inference mode changes are not counted
        if not mask.is_inference():
            signs = mask.data_ptr(), mask._version, mask.dtype, mask.shape, mask.stride()
        if signs is not None and signs == self._signs and h not in self._served:  # a layer comes once a step
            self._served.add(h)
            return True
        self._signs, self._served, self._first = signs, {h}, None
        return False

    def _read(self, mask: Tensor, h: Hierarchy) -> None:
        """Make ``row`` what this mask of a step says."""
        if self._is_known(mask, h):
            return
        batch, before = h.keys.buffer.shape[0], self.row
        self.row, self._before = self._shown(mask, batch), None
        if self.row is None or before is None or before.shape != (batch, mask.shape[-1] - 1):
            return
        if h.blocks:
            same = self.row[:, :-1].equal(before)
        else:
            same, self._first = _compared(self.row, before)
        self._before = before if same else None

    @staticmethod
    def _shown(mask: Tensor, batch: int) -> Bool[Tensor, "B N"] | None:
        row = mask[:, 0, 0].expand(batch, -1)
        if row.dtype == torch.bool:
            return row.clone()  # the mask may be written to
        hidden = row <= torch.finfo(row.dtype).min / 2
        if not bool(((row == 0) | hidden).all()):
            return None  # a bias and not a mask
        return ~hidden

    @staticmethod
    def _shown_at_last(mask: Tensor, batch: int) -> Bool[Tensor, "B N"]:
        """What the last query sees of a prompt, if it is padding that hides the rest; else nothing.

        With nothing no mask of a step goes on. A bias hides otherwise, and so does a window: it has moved since the
        query before, unless that is padding itself and may see anything.
        """
        last, before = (mask[:, 0, i].expand(batch, -1) for i in (-1, -2))
        if mask.dtype == torch.bool:
            plain = torch.ones((), dtype=torch.bool, device=mask.device)
        else:
            hidden = torch.finfo(mask.dtype).min / 2
            plain = ((last == 0) | (last <= hidden)).all()
            last, before = last > hidden, before > hidden
        stays = (last == before)[:, :-1] | ~last[:, -2:-1]
        return last & (plain & stays.all())


def _compared(row: Bool[Tensor, "B N"], before: Bool[Tensor, "B N-1"]) -> tuple[bool, int]:
    """Whether a mask is the one before and one key more, and the first key that it hides; waited for once."""
    same, first = torch.stack([(row[:, :-1] == before).all(), _first_hidden(row)]).tolist()
    return bool(same), first


def _first_hidden(row: Bool[Tensor, "B N"]) -> Tensor:
    """The first key that is hidden in any text; N where none is."""
    place = torch.arange(row.shape[1], device=row.device)
    return torch.where(row.all(0), row.shape[1], place).min()


def of_prompt(key: Tensor, layer: ClusteredLayer) -> Tensor:
    """Plain keys that tell the attention function which layer they are of."""
    key = key.view_as(key)
    key.multipole_layer = weakref.ref(layer)
    return key


def learn_prompt(key: object, mask: Tensor | None) -> None:
    """Tell the layer of these keys, if they are ``of_prompt``, what the mask of several new tokens hides; once."""
    layer = getattr(key, "multipole_layer", lambda: None)()
    if layer is not None:
        del key.multipole_layer  # one attention function may call the other
        layer.learn_prompt(mask)

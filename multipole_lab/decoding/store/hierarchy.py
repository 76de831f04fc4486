"""The keys and values of one layer, clustered block by block as they come."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multipole_lab.attention.calls.backend import use_triton
from multipole_lab.decoding.settings import Settings
from multipole_lab.decoding.store.blocks import take
from multipole_lab.decoding.store.joining import join_blocks
from multipole_lab.decoding.store.levels import Block, LevelStore, numbers_like, sinks_first
from multipole_lab.decoding.store.metric import QueryMetric
from multipole_lab.decoding.store.rope import Rotation
from multipole_lab.decoding.store.short import dense_until
from multipole_lab.decoding.store.sketch import PACKED, Sketch
from multipole_lab.decoding.store.state import Level, State
from multipole_lab.decoding.store.storage import Growing


class Hierarchy:
    """Storage in the layout of ``step.State``: sinks, blocks sorted by cluster, and a tail in the text's
    order.

    ``append`` puts new keys into the tail. ``join`` moves what is older than the recent window from the tail
    into clusters: it fills the last block up to ``settings.block`` keys and clusters it again, starting from
    the centroids that it has and from seeds among the new keys, then opens new blocks. Earlier blocks stay as
    they are, so a join costs no more than one block however long the text is.

    Parameters
    ----------
    settings : see there.
    rotation : the model's RoPE, for ``settings.rope == "windowed"``.

    Attributes
    ----------
    changes : counts what moves clusters or takes keys away; new keys in the tail do not.
    """

    def __init__(self, settings: Settings, rotation: Rotation | None = None) -> None:
        self.settings = settings
        self.rotation = rotation
        self.changes = 0
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.changes += 1
        self.keys: Growing | None = None
        self.values: Growing | None = None
        self.levels: tuple[LevelStore, ...] = ()
        self.sketch: Sketch | None = None  # of two growing buffers, [B, Hk, clustered end, ...]
        self.position: Growing | None = None  # [B, Hk, clustered end]: place in the text of every stored key
        self.valid: Bool[Tensor, "B N"] | None = None  # in the text's order; None while nothing is padding
        self.learnt: Bool[Tensor, "B N"] | None = None  # what a mask said, of which ``valid`` was made last
        self.blocks: list[Block] = []
        self.metric = QueryMetric()
        self.sinks = 0
        # From here on, what is stored before a block's end is what stands before it in the text. A tensor behind
        # padding: the few who ask wait for the device, and not every clustering.
        self.settled: int | Int[Tensor, ""] = 0

    @property
    def length(self) -> int:
        """Keys stored."""
        return 0 if self.keys is None else self.keys.length

    @property
    def clustered(self) -> int:
        """Where the tail starts."""
        return self.blocks[-1].end if self.blocks else 0

    @property
    def by_kernels(self) -> bool:
        """Whether the Triton kernels work on what is stored here."""
        return use_triton(self.settings.backend, self.keys.buffer, self.values.buffer)

    def append(self, k: Float[Tensor, "B Hk n D"], v: Float[Tensor, "B Hk n Dv"]) -> None:
        """New keys and values at the end of the text."""
        if self.keys is None:
            self.keys = Growing(k.shape, k.dtype, k.device)
            self.values = Growing(v.shape, v.dtype, v.device)
        self.keys.append(k)
        self.values.append(v)
        if self.valid is not None:  # counts until a mask says otherwise
            self.valid = torch.nn.functional.pad(self.valid, (0, k.shape[2]), value=True)

    def waiting(self) -> int:
        """Keys that have left the recent window and are in no cluster yet."""
        sinks = self.sinks if self.blocks else self.settings.sinks
        return self.length - max(self.clustered, sinks) - self.settings.recent

    def due(self) -> bool:
        """Whether enough keys have left the recent window to join, of a text that is not too short for clusters."""
        return self.waiting() >= self.settings.interval and (
            bool(self.blocks) or self.length >= dense_until(self)
        )

    def watch(self, q: Float[Tensor, "B Hq 1 D"]) -> None:
        """Take note of a query, in the frame of the centroids, if it is one of the last before a join."""
        s = self.settings
        early = not self.blocks and self.length + s.watch < dense_until(self)
        if s.watch and not early and self.waiting() > s.interval - s.watch:
            self.metric.watch(q, self.keys.buffer.shape[1])

    def join(self) -> None:
        """Cluster the keys between the sinks and the recent window: all of a prompt, later whole intervals of them.

        Whole ones: a block then has the same size in every layer, whichever step a layer joins in, and kernels are
        compiled once for it.
        """
        s = self.settings
        whole = self.waiting()
        if self.blocks:
            whole -= whole % s.interval
        if whole <= 0:
            return
        self.changes += 1
        end = (self.clustered or s.sinks) + whole
        if not self.blocks:
            self._set_up(end)
        join_blocks(self, end)

    def state(self) -> State:
        """What ``decode_step`` reads; views and buffers, nothing is copied."""
        levels = tuple(Level(*(p.buffer for p in one.parts()[:5]), one.keys.length) for one in self.levels)
        spreads = tuple(one.spread.buffer for one in self.levels) if self.settings.spread else ()
        sinks, clustered = (self.sinks, self.clustered) if self.blocks else (0, 0)
        valid = None if self.valid is None else self.exact_valid()
        sketch = Sketch(*(part.buffer for part in self.sketch)) if self.blocks and self.sketch else None
        stored = self.keys.buffer, self.values.buffer
        return State(*stored, levels, sinks, clustered, self.length, valid, spreads, sketch)

    def exact_valid(self) -> Bool[Tensor, "B exact"]:
        """Which of the sinks and of the tail are no padding, where there is any."""
        if not self.blocks or not self.sinks:
            return self.valid[:, self.clustered :]
        sinks = self.valid.gather(1, self.position.view()[:, 0, : self.sinks].long())
        return torch.cat([sinks, self.valid[:, self.clustered :]], -1)

    def dense(self) -> tuple[Float[Tensor, "B Hk N D"], Float[Tensor, "B Hk N Dv"]]:
        """Keys and values in the text's order; a copy once anything is clustered."""
        if not self.blocks:
            return self.keys.view(), self.values.view()
        return tuple(self._in_text_order(x.view(), 0) for x in (self.keys, self.values))

    def truncate(self, length: int) -> None:
        """Forget the text from ``length`` on. A block that is cut goes back to the tail and joins again."""
        if length >= self.length:
            return
        self.changes += 1
        kept = [b for b in self.blocks if b.end <= length]
        if len(kept) < len(self.blocks):
            if kept and kept[-1].end < self.settled:
                kept = []
            start = kept[-1].end if kept else 0
            for store in (self.keys, self.values):
                store.view()[:, :, start:] = self._in_text_order(store.view()[:, :, start:], start)
            firsts = self.blocks[len(kept)].clusters
            for level, first in zip(self.levels, firsts, strict=True):
                for part in level.parts():
                    part.truncate(first)
            for part in (self.position, *(self.sketch or ())):
                part.truncate(start)
            self.blocks = kept
        self.keys.truncate(length)
        self.values.truncate(length)
        self.learnt = None
        if self.valid is not None:
            self.valid = self.valid[:, :length]

    def select(self, index: Int[Tensor, " B2"]) -> None:
        """Take batch entries, repeated or in another order (beam search)."""
        if self.keys is None:
            return
        self.changes += 1
        for part in self.buffers().values():
            part.select(index)
        self.metric.select(index)
        self.learnt = None
        if self.valid is not None:
            self.valid = self.valid.index_select(0, index.to(self.valid.device))

    def buffers(self) -> dict[str, Growing]:
        """Every growing buffer by name."""
        if self.keys is None:
            return {}
        found = {"keys": self.keys, "values": self.values}
        if self.position is not None:
            found["position"] = self.position
        if self.sketch is not None:
            found |= self.sketch._asdict()
        for i, level in enumerate(self.levels):
            found |= {f"level.{i}.{name}": part for name, part in vars(level).items()}
        return found

    def make_levels(self, sketched: bool) -> None:
        """Empty buffers for the levels, for the place of every key in the text and, where wanted, for sketches."""
        self.levels = tuple(LevelStore.like(self.keys, self.values) for _ in range(self.settings.levels))
        self.position = numbers_like(self.keys, torch.int32)
        self.sketch = None
        if sketched:
            B, Hk, _, D = self.keys.buffer.shape
            codes = Growing((B, Hk, 0, -(-D // PACKED)), torch.uint8, self.keys.buffer.device)
            self.sketch = Sketch(codes, numbers_like(self.keys, self.keys.buffer.dtype))

    def _in_text_order(self, x: Tensor, start: int) -> Tensor:
        """Storage from ``start`` on, put back into the text's order."""
        place = self.position.view()[:, :, start:].long() - start
        out = x.clone(memory_format=torch.contiguous_format)
        return out.scatter_(
            2, place.unsqueeze(-1).expand(*place.shape, x.shape[-1]), x[:, :, : place.shape[2]]
        )

    def _set_up(self, end: int) -> None:
        """Level buffers, and the sinks to the front of the first ``end`` keys: every text's first ones that count."""
        s, k, v = self.settings, self.keys, self.values
        self.make_levels(self.by_kernels if s.sketch is None else s.sketch)
        self.sinks = s.sinks
        B, Hk = k.buffer.shape[:2]
        place = torch.arange(end, device=k.buffer.device)
        place = place.expand(B, -1)
        if self.valid is not None:
            place = sinks_first(self.valid[:, : place.shape[1]], s.sinks)
            self.settled = place[:, : s.sinks].max() + 1 if s.sinks else 0
            rows = place[:, None].expand(B, Hk, -1).flatten(0, 1)
            for store in (k, v):
                part = store.view()[:, :, : place.shape[1]]
                part.copy_(take(part.flatten(0, 1), rows).view_as(part))
        self.position.append(place[:, None].expand(B, Hk, -1))
        self.blocks = [Block(s.sinks, s.sinks, (0,) * s.levels)]

"""A decoding step whose arguments stay where they are from one join to the next, so that it is recorded once.

Between two joins nothing about a layer's clusters changes. What does change from token to token lies in tensors of one
place: the query, the room of every row, and which places of the tail hold a key. The tail has room for the keys that
come until the next join; places without a key count as padding. So a CUDA graph of the step's launches is good for all
of these tokens, and a token costs the host one launch instead of six with their checks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multipole_lab.attention.calls.replay import replayed
from multipole_lab.attention.partials import Partial
from multipole_lab.decoding.step.balance import step_and_error
from multipole_lab.decoding.step.trace import Seen

if TYPE_CHECKING:
    from multipole_lab.decoding.store.hierarchy import Hierarchy
    from multipole_lab.kernels.decode.work import Work

# Places of the tail come in such numbers.
PLACES = 64
# A room is made larger than is needed by this, and smaller once it is twice what is needed: shares move a little.
SPARE, LOOSE = 1.125, 2.0


class Recorded(NamedTuple):
    """A graph, what it writes, and the buffers whose addresses it knows."""

    graph: torch.cuda.CUDAGraph
    out: Tensor
    error: Tensor | None
    buffers: tuple[Tensor, ...]


class FixedStep:
    """One layer's step, from one change of its clusters to the next.

    Parameters
    ----------
    step : the launcher in ``kernels``.
    h : the layer's storage, with clusters.
    q, probe : the query, and the one for centroids where that differs; for their shapes.
    room : the most keys of opened clusters that a row sums.
    tail : places for keys behind the clusters.
    options : of the step, the same for every token.

    Attributes
    ----------
    graphs : the recorded launches, of steps that are weighed (True) and of others.
    """

    def __init__(
        self,
        step: Callable[..., Partial],
        h: Hierarchy,
        q: Float[Tensor, "B Hq 1 D"],
        probe: Float[Tensor, "B Hq 1 D"] | None,
        room: int,
        tail: int,
        **options: Any,
    ) -> None:
        end = h.clustered + tail
        for store in (h.keys, h.values):
            store.hold(end)
        h.values.buffer[:, :, h.length : end] = 0  # what counts nothing must be a number all the same
        B, Hk = h.keys.buffer.shape[:2]
        self.room, self.end, self.step, self.options = room, end, step, options
        self.changes, self.places = h.changes, places(h)
        self.q, self.probe = torch.empty_like(q), None if probe is None else torch.empty_like(probe)
        self.rooms = torch.empty(B * Hk, dtype=torch.int32, device=q.device)
        self.valid = torch.zeros(B, h.sinks + tail, dtype=torch.bool, device=q.device)
        self.place = torch.arange(h.sinks + tail, device=q.device).expand(B, -1)
        self.count = torch.zeros((), dtype=torch.int64, device=q.device)  # exact keys, where none is padding
        self.padded = h.valid is not None
        self.state = h.state()._replace(length=end, valid=self.valid)
        self.filled, self.given, self.tokens = 0, None, 0  # what ``count`` and ``rooms`` hold now
        self.graphs: dict[bool, Recorded] = {}
        self.weighed = self.refused = False

    def fits(self, h: Hierarchy, q: Tensor, needed: int, **options: Any) -> bool:
        """Whether this is the step of the storage as it is now, with a room of ``needed`` keys at least."""
        return (
            self.changes == h.changes
            and self.places == places(h)
            and self.padded == (h.valid is not None)
            and h.length <= self.end
            and needed <= self.room <= max(LOOSE * needed, needed + PLACES)
            and self.q.shape == q.shape
            and all(self.options[name] == value for name, value in options.items())
        )

    def __call__(
        self,
        h: Hierarchy,
        q: Float[Tensor, "B Hq 1 D"],
        probe: Float[Tensor, "B Hq 1 D"] | None,
        rooms: Int[Tensor, " R"] | int,
        work: Work,
        weighs: bool = False,
        seen: Seen | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The step of one token, as ``balance.step_and_error`` returns it.

        ``rooms`` is the budget of all rows, or of each.
        """
        self.q.copy_(q)
        if probe is not None:
            self.probe.copy_(probe)
        if isinstance(rooms, Tensor):
            if rooms is not self.given:
                self.rooms.copy_(rooms)
        elif isinstance(self.given, Tensor) or rooms != self.given:
            self.rooms.fill_(rooms)
        self.given = rooms
        self.tokens, count = self.tokens + 1, h.sinks + h.length - h.clustered
        if self.padded:
            self.valid[:, :count] = h.exact_valid()
        elif self.filled != count - 1:  # not the next key
            self.count.fill_(count - 1)
        self.filled = count
        again, self.weighed = self.tokens > 1 and (self.weighed or not weighs), self.weighed or weighs
        if seen is not None or not again or self.refused or not records(q):
            return self._run(work, weighs, seen)
        if weighs not in self.graphs:
            try:
                with torch.cuda.device(self.q.device):
                    self.graphs[weighs] = self._record(work, weighs)
            except RuntimeError:  # this layer stays with launches one by one
                self.refused = True
                return self._run(work, weighs)
        graph, out, error, _ = self.graphs[weighs]
        graph.replay()  # on its own device
        return out.clone(), None if error is None else error.clone()

    def __deepcopy__(self, _: dict) -> None:
        return None  # a copy of the layer makes its own, for its own storage

    def _run(self, work: Work, weighs: bool, seen: Seen | None = None) -> tuple[Tensor, Tensor | None]:
        self._count_one_more()
        return self._launch(work, weighs, seen)

    def _count_one_more(self) -> None:
        """The new key is valid; on the device, so that a graph of it goes on by itself."""
        if not self.padded:
            torch.lt(self.place, self.count.add_(1), out=self.valid)

    def _launch(self, work: Work, weighs: bool, seen: Seen | None = None) -> tuple[Tensor, Tensor | None]:
        return step_and_error(
            self.step, self.q, self.state, weighs, seen, budget=self.room, rooms=self.rooms, lookup_q=self.probe,
            work=work, **self.options,
        )  # fmt: skip

    def _record(self, work: Work, weighs: bool) -> Recorded:
        """Record the launches, on a stream for that; an earlier token has compiled the kernels and made buffers."""
        graph, (out, error) = work.captured(lambda: self._run(work, weighs))
        return Recorded(graph, out, error, work.buffers())


def places(h: Hierarchy) -> tuple[int, int]:
    """Where the keys and values lie, which move when their buffers grow."""
    return h.keys.buffer.data_ptr(), h.values.buffer.data_ptr()


def records(q: Tensor) -> bool:
    """Whether launches may be recorded: as for any other call of the library that repeats."""
    return replayed.may_replay((q,))


def tail_places(length: int, clustered: int, until_join: int) -> int:
    """Places of a tail that holds ``length - clustered`` keys now and ``until_join`` at the next join."""
    return PLACES * math.ceil(max(length - clustered, until_join) / PLACES)

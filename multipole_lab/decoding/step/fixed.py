"""A decoding step whose arguments stay where they are from one join to the next, so that it is recorded once.

Between two joins nothing about a layer's clusters changes. What does change from token to token lies in tensors of one
place: the query, the room of every row, and which places of the tail hold a key. The tail has room for the keys that
come until the next join; places without a key count as padding. So a CUDA graph of the step's launches is good for all
of these tokens, and a token costs the host one launch instead of six with their checks.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multipole_lab.attention.calls.replay import replayed
from multipole_lab.attention.partials import Partial
from multipole_lab.decoding.step.trace import Seen
from multipole_lab.kernels.decode.work import Work

if TYPE_CHECKING:
    from multipole_lab.decoding.store.hierarchy import Hierarchy

# Places of the tail come in such numbers.
PLACES = 64
# A room is made larger than is needed by this, and smaller once it is twice what is needed: shares move a little.
SPARE, LOOSE = 1.125, 2.0


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
    graph : the recorded launches; None before the second token, and where they could not be recorded.
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
        self.state = h.state()._replace(length=end, valid=self.valid)
        self.filled, self.given, self.tokens = 0, None, 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.held: tuple = ()
        self.refused = False

    def fits(self, h: Hierarchy, q: Tensor, needed: int, **options: Any) -> bool:
        """Whether this is the step of the storage as it is now, with a room of ``needed`` keys at least."""
        return (
            self.changes == h.changes
            and self.places == places(h)
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
        seen: Seen | None = None,
    ) -> Partial:
        """The step of one token; ``rooms`` is the budget of all rows, or of each. See ``decode_step``."""
        self.q.copy_(q)
        if probe is not None:
            self.probe.copy_(probe)
        if rooms is not self.given:
            self.rooms.fill_(rooms) if isinstance(rooms, int) else self.rooms.copy_(rooms)
            self.given = rooms
        count = h.sinks + h.length - h.clustered
        if h.valid is None:
            self.valid[:, self.filled : count] = True
        else:
            self.valid[:, :count] = h.exact_valid()
        self.filled, self.tokens = count, self.tokens + 1
        if seen is not None or self.tokens == 1 or self.refused or not records(q):
            return self._launch(work, seen)
        if self.graph is None:
            try:
                self._record(work)
            except RuntimeError:  # this layer stays with launches one by one
                self.graph, self.refused = None, True
                return self._launch(work, seen)
        with torch.cuda.device(self.q.device):
            self.graph.replay()
        return tuple(x.clone() for x in self.held[:2])

    def __deepcopy__(self, _: dict) -> None:
        return None  # a copy of the layer makes its own, for its own storage

    def _launch(self, work: Work, seen: Seen | None) -> Partial:
        return self.step(
            self.q, self.state, budget=self.room, rooms=self.rooms, lookup_q=self.probe, work=work, seen=seen,
            **self.options,
        )  # fmt: skip

    def _record(self, work: Work) -> None:
        """Record the launches, on a stream of their own; the first token has compiled the kernels and made buffers."""
        self.graph, now = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.q.device)
        aside = torch.cuda.Stream(self.q.device)
        aside.wait_stream(now)
        collecting = gc.isenabled()
        gc.disable()  # a graph that is given back during a capture ends it
        try:
            with torch.cuda.stream(aside):
                self.graph.capture_begin(pool=work.pool(), capture_error_mode="thread_local")
                try:
                    out, lse = self._launch(work, None)
                finally:
                    self.graph.capture_end()
        finally:
            if collecting:
                gc.enable()
        now.wait_stream(aside)
        self.held = out, lse, *work.buffers()  # at addresses that the graph knows


def places(h: Hierarchy) -> tuple[int, int]:
    """Where the keys and values lie, which move when their buffers grow."""
    return h.keys.buffer.data_ptr(), h.values.buffer.data_ptr()


def records(q: Tensor) -> bool:
    """Whether launches may be recorded: as for any other call of the library that repeats."""
    return replayed.may_replay((q,))


def tail_places(length: int, clustered: int, until_join: int) -> int:
    """Places of a tail that holds ``length - clustered`` keys now and ``until_join`` at the next join."""
    return PLACES * math.ceil(max(length - clustered, until_join) / PLACES)

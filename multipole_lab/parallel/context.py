"""MuSe over a sequence that lies in parts on several processes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from multipole_lab.attention.clusters.assignments import Assignments
from multipole_lab.attention.clusters.partition import Partition
from multipole_lab.attention.clusters.slots import Slots
from multipole_lab.attention.method import Method
from multipole_lab.attention.muse import MuSe
from multipole_lab.attention.partials import Partial, merge
from multipole_lab.parallel.agreement import agree
from multipole_lab.parallel.channel import Channel, Traffic
from multipole_lab.parallel.exchange import Exchange
from multipole_lab.parallel.talk import Talk


@dataclass(frozen=True)
class ContextParallel(Method):
    """MuSe on a process group: called like ``MuSe``, on this rank's contiguous part of the sequence.

    Every rank clusters its own queries and its own keys, C clusters each, so that no cluster crosses from one rank to
    another. With P ranks, query cluster i of rank r with centroid p_i, and key cluster j of rank t:

        r -> t   p_i                                              [Hq C, D]        the centroids go out
        t -> r   a_j(p_i), k~_j(p_i), v~_j(p_i)                   [Hq C, C, 1 + D + Dv]  the summaries come back
        at r     o(q) = sum_j softmax_j(a_j(p_i) + s (q - p_i).k~_j(p_i)) v~_j(p_i)

    over the clusters j of all ranks. Of these, each query cluster has the ``near`` of largest mass replaced by exact
    attention over their keys, which are fetched, every cluster once a key/value head. In causal attention the part of
    a rank attends to itself by causal MuSe and to all earlier parts by the above; both merge by their log-sum-exp.
    ``parallel_reference`` computes the same in one process.

    With near = 0 a rank sends to others, in bytes of w each (4; 8 for float64), whatever the length of the sequence:

        forward   w B Hq C (P - 1) (D + C (1 + D + Dv))    and as much again in the backward

    in full attention; in causal attention rank r asks its r predecessors and answers its P - 1 - r successors:
    ``w B Hq C (r D + (P - 1 - r) C (1 + D + Dv))`` forward, and what comes back there, ``w B Hq C ((P - 1 - r) D +
    r C (1 + D + Dv))``, backward. Ninety-six bytes to each other rank, by which they agree on shapes, come on top.

    A dipole of rank D' adds its directions, ``Hq C D D'`` numbers, on the way out and the moments along them,
    ``Hq C D' Dv``, on the way back.

    The ranks must call it together, and call backward together, each on a result of its own.

    Parameters
    ----------
    method : a ``MuSe``. Its ``clusters`` are those of each rank; its ``sinks``, the first keys of the
        first rank, are sent to all; its ``seed`` is every rank's.
    group : process group; None for the default one.
    traffic : a ``Traffic`` in which bytes are counted.

    Raises
    ------
    TypeError : ``method`` is no ``MuSe``, on creation; dtypes that differ between ranks, on a call.
    ValueError : a method with ``query_clusters``, on creation; on a call, on all ranks alike:
        ranks that differ in batch size, heads, head sizes, scale, method,
        ``causal`` or in whether gradients are wanted; more clusters than a rank has keys, or as many sinks.
    RuntimeError : there is no process group; or another rank has ended or has not answered within the time limit
        that the group was made with.

    References
    ----------
    MuSe, arXiv 2509.10406, section 3 for the expansion; the exchange is this project's.
    """

    method: MuSe
    group: dist.ProcessGroup | None = None
    traffic: Traffic | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.method, MuSe):
            raise TypeError(
                f"method is {self.method!r}; a MuSe is needed, for summaries are what is exchanged. "
                "ring_attention is exact attention over the same parts"
            )
        if self.method.query_clusters is not None:
            raise ValueError(
                f"method has query_clusters {self.method.query_clusters}; only None is allowed across processes"
            )

    def _full(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        return self._exchanged(q, k, v, scale, mask, causal=False)

    def _causal(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        past = self._exchanged(q, k, v, scale, mask, causal=True)
        # The first rank holds the sinks among its own keys.
        sinks = self.method.sinks if Channel(self.group).rank == 0 else 0
        return merge([replace(self.method, sinks=sinks)._causal(q, k, v, scale, mask), past])

    def _exchanged(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None, causal: bool
    ) -> Partial:
        channel, method = Channel(self.group, self.traffic), self.method
        parts = agree(channel, q, k, v, causal, scale, repr(method))
        partition = method._partition
        if method.sinks >= parts.keys[0]:
            raise ValueError(
                f"sinks is {method.sinks}; fewer than the {parts.keys[0]} keys of the first rank are needed"
            )
        clustered = [n - method.sinks * (rank == 0) for rank, n in enumerate(parts.keys)]
        if not causal:
            partition.check_fits(min(clustered))
        group = q.shape[1] // k.shape[1]
        talk = Talk(
            channel,
            parts,
            assign(partition, q, k, mask, method.sinks if channel.rank == 0 else 0),
            points=tuple(group * partition.number(n) for n in parts.queries),
            clusters=tuple(partition.number(n) for n in clustered),
            scale=scale,
            near=method.near,
            rank=method._rank(q.shape[-1]),
            sinks=method.sinks,
            sinks_kept=None if mask is None else mask[:, : method.sinks],
            listeners=tuple(range(int(causal), channel.ranks)),
        )
        return Exchange.apply(q, k, v, talk)


def assign(partition: Partition, q: Tensor, k: Tensor, mask: Tensor | None, sinks: int) -> Assignments:
    """This part's clusters; its first ``sinks`` keys belong to none."""
    rest = k[:, :, sinks:].contiguous()
    labels = partition.labels(rest, None if mask is None else mask[:, sinks:].contiguous())
    labels = pad(labels, (sinks, 0), value=-1)
    slots = Slots.of(labels, partition.number(rest.shape[2]), partition.size(rest.shape[2]))
    return Assignments(partition.slots(q), slots, labels >= 0)


def context_parallel(
    method: MuSe,
    q: Float[Tensor, "B Hq n D"],
    k: Float[Tensor, "B Hk n D"],
    v: Float[Tensor, "B Hk n Dv"],
    *,
    causal: bool = False,
    group: dist.ProcessGroup | None = None,
    traffic: Traffic | None = None,
    **options: object,
) -> Float[Tensor, "B Hq n Dv"]:
    """``ContextParallel(method, group, traffic)(q, k, v, causal=causal, **options)`` for this rank's part."""
    return ContextParallel(method, group, traffic)(q, k, v, causal=causal, **options)

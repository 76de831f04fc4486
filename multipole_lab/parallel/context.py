"""MuSe over a sequence that lies in parts on several processes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from multipole_lab.attention.calls.backend import use_triton
from multipole_lab.attention.exact import exact_partial
from multipole_lab.attention.method import Method
from multipole_lab.attention.muse import MuSe
from multipole_lab.attention.partials import Partial, merge
from multipole_lab.parallel.agreement import agree
from multipole_lab.parallel.channel import Channel, Traffic
from multipole_lab.parallel.exchange import Begin, Exchange, Finish
from multipole_lab.parallel.stages.by_kernels import KernelStages
from multipole_lab.parallel.stages.by_torch import TorchStages
from multipole_lab.parallel.talk import Talk

# What one process has and several have not: the questions that travel are those of whole clusters, of any position.
ALONE = {"near_for": "cluster", "points": "own"}


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

    All travels in the dtype of the tensors, w bytes a number, and masses in w' bytes, those of float32 at least. With
    near = 0 a rank sends to others, whatever the length of the sequence:

        forward   B Hq C (P - 1) (w D + C (w' + w (D + Dv)))    and as much again in the backward

    in full attention; in causal attention rank r asks its r predecessors and answers its P - 1 - r successors:
    ``B Hq C (r w D + (P - 1 - r) C (w' + w (D + Dv)))`` forward, and what comes back there, ``B Hq C ((P - 1 - r) w D
    + r C (w' + w (D + Dv)))``, backward. With ``query_clusters`` the first C is theirs. Ninety-six bytes to each
    other rank, by which they agree on shapes, come on top.

    A dipole of rank D' adds its directions, ``Hq C D D'`` numbers, on the way out and the moments along them,
    ``Hq C D' Dv``, on the way back, in float32 at least.

    On a GPU the Triton kernels compute what lies between the messages, for a monopole and where they run at all
    (``MuSe.backend``); otherwise torch. The centroids travel while the keys are clustered, the summaries while the part
    attends to itself, and so do their gradients. Memory is linear in the sequence, with any ``cap``.

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
    ValueError : ``near_for="query"`` or ``points="earlier"``, on creation; on a call, on all ranks alike: ranks that
        differ in batch size, heads, head sizes, scale, method, ``causal`` or in whether gradients are wanted; more
        clusters than a rank has keys, or as many sinks.
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
        for name, allowed in ALONE.items():
            if getattr(self.method, name) != allowed:
                raise ValueError(
                    f"method has {name} {getattr(self.method, name)!r}; only {allowed!r} is allowed across processes"
                )

    def _full(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        return self._attend(q, k, v, scale, mask, causal=False)

    def _causal(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        return self._attend(q, k, v, scale, mask, causal=True)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None, causal: bool
    ) -> Partial:
        size = v.shape[-1]
        if self._by_kernels(q, v):
            from multipole_lab.kernels.muse.forward import one_head_size

            q, k, v = one_head_size(q, k, v)
        exchange = self._exchange(q, k, v, scale, mask, causal)
        token, sinks = Begin.apply(q, k, v, exchange)
        own = None, None
        if causal:  # while the summaries are on their way
            own = replace(self.method, sinks=exchange.own_sinks)._causal(q, k, v, scale, mask)
        partials = [Finish.apply(q, k, v, token, *own, exchange)]
        if sinks.numel():
            keys, values, kept = sinks.split([q.shape[-1], v.shape[-1], 1], -1)
            kept = kept[:, 0, :, 0] > 0.5
            partials.append(exact_partial(q, keys, values, scale, mask=kept, backend=self.method.backend))
        out, lse = merge(partials)
        return out[..., :size], lse

    def _by_kernels(self, q: Tensor, v: Tensor) -> bool:
        """Whether the stages are those of the kernels, which have no dipole."""
        return self.method.order == "monopole" and use_triton(self.method.backend, q, v)

    def _exchange(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None, causal: bool
    ) -> Exchange:
        channel, method = Channel(self.group, self.traffic), self.method
        of_queries, of_keys = method._query_partition, method._partition
        given = of_queries, of_keys, scale, method.near
        rank = method._rank(q.shape[-1])
        stages = KernelStages(*given) if self._by_kernels(q, v) else TorchStages(*given, rank)
        parts = agree(channel, q, k, v, causal, scale, f"{method!r} by {stages.name}")
        if method.sinks >= parts.keys[0]:
            raise ValueError(
                f"sinks is {method.sinks}; fewer than the {parts.keys[0]} keys of the first rank are needed"
            )
        clustered = [n - method.sinks * (rank == 0) for rank, n in enumerate(parts.keys)]
        if not causal:
            of_keys.check_fits(min(clustered))
        talk = Talk(
            channel,
            parts,
            (*q.shape[:2], k.shape[1], k.shape[3], v.shape[3]),
            points=tuple(of_queries.number(n) for n in parts.queries),
            clusters=tuple(of_keys.number(n) for n in clustered),
            sinks=method.sinks,
            listeners=tuple(range(int(causal), channel.ranks)),
        )
        return Exchange(talk, stages, mask)


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

"""What each rank computes between the messages, by the Triton kernels. Monopoles; half precision or fp32."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from multipole_lab.attention.calls.replay import replayed
from multipole_lab.attention.clusters.partition import Partition
from multipole_lab.attention.partials import Partial

if TYPE_CHECKING:
    from multipole_lab.parallel.fetching import Fetched


class KernelStages:
    """The stages of one call on one rank; ``by_torch.TorchStages`` has the same methods and says what they do.

    Memory is linear in the sequence whatever the sizes of the clusters, as no cluster is laid out in slots.
    """

    name = "triton"

    def __init__(self, of_queries: Partition, of_keys: Partition, scale: float, near: int) -> None:
        self.of_queries, self.of_keys, self.scale, self.near = of_queries, of_keys, scale, near

    def cluster_queries(self, q: Tensor) -> Tensor:
        find = partial(_queries, self.of_queries)
        found = replayed(("queries of a rank", self.of_queries), find, q.detach())
        self.q_sorted = found[1], found[2]
        return found[0].to(q.dtype)

    def cluster_keys(self, k: Tensor, mask: Tensor | None) -> None:
        if mask is None:
            name = "keys of a rank", self.of_keys
            self.k_sorted = replayed(name, self.of_keys.sort_on_device, k.detach())
        else:
            self.k_sorted = self.of_keys.sort_on_device(k, mask)

    def summaries(self, points: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
        from multipole_lab.kernels.muse.summarise import summarise

        return list(summarise(points, k, v, *self.k_sorted, self.scale))

    def nearest(self, mass: Tensor) -> tuple[Tensor, Tensor]:
        from multipole_lab.kernels.muse.select import select_near

        return select_near(mass, self.near)[:2]

    def evaluate(
        self,
        q: Tensor,
        points: Tensor,
        summary: list[Tensor],
        near: Fetched | None,
        before: Partial | None = None,
    ) -> Partial:
        from multipole_lab.kernels.muse.evaluate import evaluate

        keys = self._keys(q, summary, near)
        given = points, *self.q_sorted, *keys[2], *_near_far(summary, near)
        return evaluate(q, *keys[:2], *given, self.scale, padded=False, into=before)[:2]

    def evaluate_backward(
        self,
        q: Tensor,
        points: Tensor,
        summary: list[Tensor],
        near: Fetched | None,
        result: Partial,
        upstream: Partial,
        before: Partial | None = None,
    ) -> tuple[list[Tensor], Tensor | None]:
        from multipole_lab.kernels.apart.gradients import near_gradients, summary_gradients
        from multipole_lab.kernels.common.delta import output_delta
        from multipole_lab.kernels.common.launch import fp32_precision

        (out, lse), (dout, dlse) = result, upstream
        dout, precision = dout.to(q.dtype), fp32_precision(q)
        measured = lse.contiguous(), dout, output_delta(out, dout, dlse)
        seen = _near_far(summary, near)
        d_summary = summary_gradients(q, points, self.q_sorted, *seen[1:], *measured, self.scale, precision)
        d_members = None
        keys = self._keys(q, summary, near)
        if near is not None:
            parts = near_gradients(q, self.q_sorted, *keys, seen[1], *measured, self.scale, precision)
            d_members = torch.cat(parts, -1)
        self.for_queries = q, *keys[:2], points, self.q_sorted, keys[2], seen, *measured
        return list(d_summary), d_members

    def queries_backward(self, d_points: Tensor | None) -> Tensor:
        from multipole_lab.kernels.apart.gradients import query_gradients
        from multipole_lab.kernels.common.launch import fp32_precision

        given, self.for_queries = self.for_queries, ()
        q, points = given[0], given[3]
        d_points = torch.zeros_like(points) if d_points is None else d_points
        return query_gradients(*given, d_points.float(), self.scale, fp32_precision(q))

    def summaries_backward(
        self, points: Tensor, k: Tensor, v: Tensor, d_summary: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        from multipole_lab.kernels.apart.gradients import key_gradients
        from multipole_lab.kernels.common.launch import fp32_precision

        seen = tuple(self.summaries(points, k, v))
        given = k, v, points, self.k_sorted, seen, tuple(d_summary)
        return key_gradients(*given, self.scale, fp32_precision(k))

    def _keys(self, q: Tensor, summary: list[Tensor], near: Fetched | None) -> tuple[Tensor, Tensor, tuple]:
        """The keys and values fetched, and their clusters; none of them is read where nothing is near."""
        if near is not None:
            return *near.members.split([q.shape[-1], summary[2].shape[-1]], -1), (near.order, near.offsets)
        heads = summary[0].shape[1]
        k, v = (q.new_empty(len(q), heads, 1, x.shape[-1]) for x in (q, summary[2]))
        places = torch.empty(len(q), heads, 1, dtype=torch.int64, device=q.device)
        return k, v, (places, places)


def _near_far(summary: list[Tensor], near: Fetched | None) -> tuple[Tensor, ...]:
    """What `evaluate` takes: the near clusters, the far masses, the tilted means."""
    from multipole_lab.kernels.muse.select import near_and_far

    mass, *means = summary
    if near is None:
        return *near_and_far(mass, 0), *means
    return near.nearest, near.far, *means


def _queries(partition: Partition, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    found = partition.on_device(q)
    return found.centroids, found.order, found.offsets

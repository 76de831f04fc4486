"""Context-parallel MuSe as two differentiable steps, between which this rank attends to its own part.

`Begin` sends the questions and answers those of others; `Finish` evaluates what was heard. In the backward `Finish`
sends the gradients of what was heard, and `Begin` receives and returns them: each message travels while the local part
is computed. The two are joined by a token, so that on every rank both run, in one order, also where a result did not
depend on a message that a neighbour waits for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from multipole_lab.attention.partials import Partial
from multipole_lab.clustering.clusters import statistics_dtype
from multipole_lab.parallel.channel import Message
from multipole_lab.parallel.fetching import Fetched, returned
from multipole_lab.parallel.moments import Moments
from multipole_lab.parallel.stages.by_kernels import KernelStages
from multipole_lab.parallel.stages.by_torch import TorchStages
from multipole_lab.parallel.talk import Talk, broadcast_sinks, fetch, return_sinks


class Exchange:
    """What a call says, hears and keeps on this rank: q, k, v, and what was heard; all else is computed again.

    Parameters
    ----------
    talk : who says what to whom.
    stages : what is computed between the messages.
    mask : [B, n] of this rank's keys, or None.
    """

    def __init__(self, talk: Talk, stages: TorchStages | KernelStages, mask: Tensor | None) -> None:
        self.talk, self.stages, self.mask = talk, stages, mask
        self.own_sinks = talk.sinks if talk.channel.rank == 0 else 0
        self.near: Fetched | None = None
        self.moments = Moments(talk, stages) if isinstance(stages, TorchStages) and stages.rank else None
        self.messages: dict[str, Message] = {}

    def begin(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Send the centroids, cluster the keys meanwhile; send the summaries. The sinks, where there are any."""
        talk, stages = self.talk, self.stages
        sinks = q.new_empty(0)
        if talk.sinks:
            sinks = broadcast_sinks(talk, k, v, None if self.mask is None else self.mask[:, : talk.sinks])
        self.points = stages.cluster_queries(q)
        asked = {t: [self.points] for t in talk.parts.sources}
        message = talk.to_keys("centroids", asked, [q.shape[3:]], [q])
        keys, values = self._clustered(k, v)
        stages.cluster_keys(keys, None if self.mask is None else self.mask[:, self.own_sinks :].contiguous())
        self.asked = {s: tensors[0] for s, tensors in message.wait().items()}
        # The own summaries last: those of others are on their way then.
        answers = {
            s: stages.summaries(point, keys, values)
            for s, point in self.asked.items()
            if s != talk.channel.rank
        }
        own = self.asked.get(talk.channel.rank)
        if own is not None:
            answers[talk.channel.rank] = []
        self.message = talk.to_queries("summaries", answers, *self._summary_format(q, v))
        self.own = None if own is None else stages.summaries(own, keys, values)
        return sinks

    def finish(self, q: Tensor, k: Tensor, v: Tensor, before: Partial | None) -> Partial:
        """This rank's queries over the keys of all its sources, merged with a partial that was before (which is spent);
        a rank that hears nothing adds nothing."""
        talk, stages = self.talk, self.stages
        self.heard, rest = {}, talk.own_first(talk.parts.sources)
        if self.own is not None:
            self.heard[talk.channel.rank] = self.own
            if not stages.near and self.moments is None:  # no choice among all clusters is waited for
                before, rest = stages.evaluate(q, self.points, self.own, None), rest[1:]
        self.heard |= {t: x for t, x in self.message.wait().items() if t != talk.channel.rank}
        del self.message, self.own
        if stages.near:
            chosen = stages.nearest(self._joined(0)) if talk.parts.sources else None
            self.near, self.sent = fetch(talk, chosen, stages.k_sorted, *self._clustered(k, v))
        if self.moments is not None:
            self.moments.ask(q, self.near, self.asked, *self._clustered(k, v))
        if not rest:
            return before
        summary = self._summary(talk.parts.sources if len(rest) == len(talk.parts.sources) else rest)
        return stages.evaluate(q, self.points, summary, self.near, before)

    def finish_backward(
        self, q: Tensor, k: Tensor, v: Tensor, result: Partial, upstream: Partial, before: Partial | None
    ) -> None:
        """Send the gradients of all that was heard to where it came from."""
        talk, stages, sources = self.talk, self.stages, self.talk.parts.sources
        d_members, gone, parts = None, {}, {}
        if sources:
            summary = self._summary(sources)
            found = stages.evaluate_backward(q, self.points, summary, self.near, result, upstream, before)
            d_summary, d_members = found
            split = [talk.clusters[t] for t in sources]
            parts = dict(zip(sources, zip(*(x.split(split, 3) for x in d_summary), strict=True), strict=True))
        B, Hq, _, D, Dv = talk.shape
        J = talk.clusters[talk.channel.rank]
        tails, likes = self._summary_format(q, v)
        self.message = talk.to_keys("summaries gradient", parts, [(J, *tail) for tail in tails], likes)
        self.near_message = None
        if stages.near:
            if self.near is not None:
                gone = {t: [x] for t, x in returned(self.near, d_members, sources).items()}
            shapes = {s: [(len(rows), D + Dv)] for s, rows in self.sent.items()}
            self.near_message = talk.channel.start("near keys gradient", gone, shapes, [q])
        if self.moments is not None:
            self.moments.send_gradient(q)

    def begin_backward(
        self, q: Tensor, k: Tensor, v: Tensor, dsinks: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """At the keys: the gradients of keys, values and centroids, which go home; there, those of the queries."""
        talk, stages = self.talk, self.stages
        keys, values = self._clustered(k, v)
        wide = statistics_dtype(q.dtype)
        sums = [torch.zeros(x.shape, dtype=wide, device=x.device) for x in (keys, values)]

        def add(dk: Tensor, dv: Tensor) -> None:
            for total, part in zip(sums, (dk, dv), strict=True):
                total += part

        d_summaries, d_points = self.message.wait(), {}
        for s, point in self.asked.items():
            d_points[s], *parts = stages.summaries_backward(point, keys, values, list(d_summaries[s]))
            add(*parts)
        if self.moments is not None:
            for s, (more, *parts) in self.moments.at_the_keys(self.asked, keys, values).items():
                d_points[s] = d_points[s] + more
                add(*parts)
        shapes = {t: [self.points.shape] for t in talk.parts.sources}
        parts = {s: [x] for s, x in d_points.items()}
        message = talk.channel.start("centroids gradient", parts, shapes, [q])
        if self.near_message is not None:
            for s, (part,) in self.near_message.wait().items():
                for total, more in zip(sums, part.split([q.shape[3], v.shape[3]], -1), strict=True):
                    total.view(-1, total.shape[-1]).index_add_(0, self.sent[s], more.to(wide))
        returned_points = [x[0].to(wide) for x in message.wait().values()]
        more = () if self.moments is None else (self.moments.come_home(q),)
        dq = torch.zeros_like(q)
        if returned_points:
            dq = stages.queries_backward(sum(returned_points[1:], returned_points[0]), *more)
        dk, dv = (
            (torch.zeros(x.shape, dtype=wide, device=x.device) for x in (k, v)) if self.own_sinks else sums
        )
        if self.own_sinks:
            for whole, part in zip((dk, dv), sums, strict=True):
                whole[:, :, self.own_sinks :] = part
        if talk.sinks:
            return_sinks(talk, dsinks, dk, dv)
        del self.message, self.near_message
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)

    def _clustered(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """This rank's keys behind the sinks, and their values."""
        if not self.own_sinks:
            return k, v
        return k[:, :, self.own_sinks :].contiguous(), v[:, :, self.own_sinks :].contiguous()

    def _summary_format(self, q: Tensor, v: Tensor) -> tuple[list[tuple[int, ...]], list[Tensor]]:
        """What a summary consists of: a mass, in the dtype of statistics, and means, in that of the tensors."""
        mass = q.new_empty(0, dtype=statistics_dtype(q.dtype))
        return [(), q.shape[3:], v.shape[3:]], [mass, q, v]

    def _joined(self, which: int, sources: list[int] | None = None) -> Tensor:
        """Masses (0) or tilted means (1, 2) of all sources, or of those named, side by side."""
        parts = [self.heard[t][which] for t in (self.talk.parts.sources if sources is None else sources)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 3)

    def _summary(self, sources: list[int]) -> list[Tensor]:
        return [self._joined(which, sources) for which in range(3)]


class Begin(torch.autograd.Function):
    """``Begin.apply(q, k, v, exchange) -> (token, sinks)``."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, exchange: Exchange) -> tuple[Tensor, Tensor]:
        ctx.exchange = exchange
        ctx.save_for_backward(q, k, v)
        return q.new_zeros(1), exchange.begin(q, k, v)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dtoken: Tensor, dsinks: Tensor):
        with torch.autocast(dsinks.device.type, enabled=False):
            return *ctx.exchange.begin_backward(*ctx.saved_tensors, dsinks), None


class Finish(torch.autograd.Function):
    """``Finish.apply(q, k, v, token, own_out, own_lse, exchange) -> (out, lse)``, merged with the own part where there
    is one (None without). The gradients of q, k and v are returned by `Begin`."""

    @staticmethod
    def forward(
        ctx, q: Tensor, k: Tensor, v: Tensor, token: Tensor, own_out: Tensor | None, own_lse: Tensor | None,
        exchange: Exchange,
    ) -> Partial:  # fmt: skip
        ctx.exchange = exchange
        before = None
        if own_out is not None:  # the caller's stay as they are, for its backward needs them
            before = own_out.clone(memory_format=torch.contiguous_format), own_lse.contiguous().clone()
        out, lse = exchange.finish(q, k, v, before)
        ctx.save_for_backward(q, k, v, own_out, own_lse, out, lse)
        return out, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout: Tensor, dlse: Tensor):
        q, k, v, own_out, own_lse, out, lse = ctx.saved_tensors
        before = None if own_out is None else (own_out, own_lse)
        with torch.autocast(q.device.type, enabled=False):
            ctx.exchange.finish_backward(q, k, v, (out, lse), (dout, dlse), before)
            own = (None, None) if before is None else _of_merged(before, (out, lse), (dout, dlse))
        return None, None, None, q.new_zeros(1), *own, None


def _of_merged(part: Partial, whole: Partial, upstream: Partial) -> Partial:
    """The gradients of one of the partials that were merged: out = sum_i exp(lse_i - lse) out_i."""
    (out, lse), (dout, dlse) = whole, upstream
    share = torch.where(part[1] == -torch.inf, 0.0, (part[1] - lse).exp())
    along = (dout.to(share.dtype) * (part[0].to(share.dtype) - out)).sum(-1)
    return (share.unsqueeze(-1) * dout).to(part[0].dtype), share * (dlse + along)

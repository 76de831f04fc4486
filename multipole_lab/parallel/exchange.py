"""Context-parallel MuSe as one differentiable step: questions out, summaries back, near clusters fetched.

It is one node of the autograd graph, not one a message, because its backward sends as well: every rank must then send
in the same order, also a rank whose own result did not depend on a message that its neighbour waits for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from multipole_lab.attention.exact import exact_partial
from multipole_lab.attention.partials import Partial, merge
from multipole_lab.clustering.clusters import statistics_dtype
from multipole_lab.parallel.stages import Near, evaluate, moments, summaries
from multipole_lab.parallel.talk import Talk, ask_moments, broadcast_sinks, fetch, return_sinks


class Exchange(torch.autograd.Function):
    """``Exchange.apply(q, k, v, talk) -> (out, lse)``: this rank's queries over the keys of all its sources.

    Kept for the backward: q, k, v, and what was heard. Everything between is computed again.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, talk: Talk) -> Partial:
        mine, sources = talk.assignments, talk.parts.sources
        qs, p = mine.queries_and_points(q)
        kv = torch.cat(mine.keys_and_values(k, v), -1)
        points = talk.to_keys("centroids", dict.fromkeys(sources, p), p.shape[-1], like=p)
        answers = {s: summaries(point, kv, mine.filled, talk.scale) for s, point in points.items()}
        heard = talk.to_queries("summaries", answers, 1 + kv.shape[-1], like=p)
        summary = torch.cat([heard[t] for t in sources], 2) if sources else None  # [R, I, J, 1 + F]
        near, members, asked = fetch(talk, summary, kv) if talk.near else (None, {}, {})
        sinks = broadcast_sinks(talk, k, v, like=p) if talk.sinks else None
        basis, moment, bases, ctx.near_to = None, None, {}, {}
        if talk.rank:
            basis = mine.directions(qs - p.unsqueeze(2), talk.rank)
            moment, bases, ctx.near_to = ask_moments(talk, points, basis, near, kv)

        ctx.talk, ctx.near, ctx.asked, ctx.askers = talk, near, asked, list(points)
        ctx.lengths = [part.shape[0] for part in members.values()]
        members = torch.cat(list(members.values())) if members else None
        ctx.save_for_backward(q, k, v, summary, members, sinks, moment, *points.values(), *bases.values())
        out, lse = answer(talk, q, qs, p, summary, members, near, sinks, basis, moment, v.shape[-1])
        return out.to(q.dtype), lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout: Tensor, dlse: Tensor):
        talk, near = ctx.talk, ctx.near
        mine, sources, channel = talk.assignments, talk.parts.sources, talk.channel
        q, k, v, summary, members, sinks, moment, *asked = ctx.saved_tensors
        points, bases = asked[: len(ctx.askers)], asked[len(ctx.askers) :]
        like = q.new_empty(0, dtype=statistics_dtype(q.dtype))
        with torch.enable_grad(), torch.autocast(q.device.type, enabled=False):
            q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
            qs, p = mine.queries_and_points(q)
            kv = torch.cat(mine.keys_and_values(k, v), -1)

            # At the queries: the gradients of all that was heard.
            basis = mine.directions(qs - p.unsqueeze(2), talk.rank) if talk.rank else None
            leaves = leaves_of(
                q=q, qs=qs, p=p, summary=summary, members=members, sinks=sinks, basis=basis, moment=moment
            )
            dq, dqs, dp, dsummary, dmembers, dsinks, dbasis, dmoment = gradients(
                answer(talk, near=near, width=v.shape[-1], **leaves), leaves, (dout, dlse)
            )
            # It goes back where it came from. At the keys: those of the centroids, keys and values.
            dkv = torch.zeros_like(kv)
            if talk.near:
                parts = {} if near is None else dict(zip(sources, dmembers.split(ctx.lengths), strict=True))
                shapes = {s: (int(mask.sum()), kv.shape[-1]) for s, mask in ctx.asked.items()}
                for s, part in channel.swap("near keys gradient", parts, shapes, like).items():
                    dkv[ctx.asked[s]] += part
            split = [talk.clusters[t] for t in sources]
            parts = dict(zip(sources, dsummary.split(split, 2), strict=True)) if sources else {}
            tail = talk.clusters[channel.rank], 1 + kv.shape[-1]
            dsummaries = talk.to_keys("summaries gradient", parts, *tail, like=like)
            dpoints = {}
            for s, point in zip(ctx.askers, points, strict=True):
                leaves = leaves_of(p=point, kv=kv)
                heard = summaries(leaves["p"], leaves["kv"], mine.filled, talk.scale)
                dpoints[s], part = gradients((heard,), leaves, (dsummaries[s],))
                dkv += part
            dbases = {}
            if talk.rank:
                parts = {} if moment is None else dict(zip(sources, dmoment, strict=True))
                tail = talk.rank, v.shape[-1]
                dmoments = talk.to_keys("moments gradient", parts, *tail, like=like)
                for s, point, there in zip(ctx.askers, points, bases, strict=True):
                    leaves = leaves_of(p=point, basis=there, kv=kv)
                    heard = moments(**leaves, filled=mine.filled, near=ctx.near_to[s], s=talk.scale)
                    more, dbases[s], part = gradients((heard,), leaves, (dmoments[s],))
                    dpoints[s] = dpoints[s] + more
                    dkv += part
            # And home again, to the queries.
            returned = channel.swap("centroids gradient", dpoints, dict.fromkeys(sources, p.shape), like)
            dp = sum(returned.values(), dp)
            results, upstream = [qs, p], [dqs, dp]
            if talk.rank:
                shapes = dict.fromkeys(sources, basis.shape)
                returned = channel.swap("directions gradient", dbases, shapes, like)
                results, upstream = [*results, basis], [*upstream, sum(returned.values(), dbasis)]
            dq = dq + gradients(results, {"q": q}, upstream)[0]
            dk, dv = torch.autograd.grad(kv, (k, v), dkv)
            if talk.sinks:
                return_sinks(talk, dsinks, dk, dv, like)
        return dq, dk, dv, None


def answer(
    talk: Talk, q: Tensor, qs: Tensor, p: Tensor, summary: Tensor | None, members: Tensor | None,
    near: Near | None, sinks: Tensor | None, basis: Tensor | None, moment: Tensor | None, width: int,
) -> Partial:  # fmt: skip
    """What this rank's queries make of what they heard; a rank that heard nothing sees no key."""
    if summary is None:
        blind = torch.full(q.shape[:-1], -torch.inf, dtype=qs.dtype, device=q.device)
        partials = [(qs.new_zeros(*q.shape[:-1], width), blind)]
    else:
        clusters = tuple(talk.clusters[t] for t in talk.parts.sources)
        seen = evaluate(qs, p, summary, members, near, basis, moment, clusters, talk.scale)
        partials = [talk.assignments.back(*seen)]
    if sinks is not None:
        keys, values, kept = sinks.split([q.shape[-1], width, 1], -1)
        mask = kept[:, 0, :, 0] > 0.5
        partials.append(exact_partial(q.to(keys.dtype), keys, values, talk.scale, mask=mask))
    return merge(partials)


def leaves_of(**tensors: Tensor | None) -> dict[str, Tensor | None]:
    """Tensors cut off from the graph that made them; None stays None."""
    return {name: None if x is None else x.detach().requires_grad_() for name, x in tensors.items()}


def gradients(
    results: Sequence[Tensor], leaves: dict[str, Tensor | None], upstream: Sequence[Tensor]
) -> list[Tensor | None]:
    """The gradients of the leaves in their order: zeros where a result does not depend on one, None for None."""
    there = [x for x in leaves.values() if x is not None]
    pairs = [(x, dx.to(x.dtype)) for x, dx in zip(results, upstream, strict=True) if x.requires_grad]
    if pairs:
        outputs, grads = zip(*pairs, strict=True)
        found = torch.autograd.grad(outputs, there, grads, allow_unused=True, materialize_grads=True)
    else:
        found = [torch.zeros_like(x) for x in there]
    found = iter(found)
    return [None if x is None else next(found) for x in leaves.values()]

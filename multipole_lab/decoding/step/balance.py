"""How the heads of all layers share one budget: more for those whose replaced clusters are expected to err more.

A cluster that is not opened counts through its centroid. To first order its n keys differ from it by logits of
variance ``t = s^2 |q|^2 sigma^2``, so that its share m of the softmax mass puts

    ``e_j = m_j^2 t_j / n_j |v_j - out|^2``

into the squared error of the output, times a factor that heads have in common: a cluster's values differ too. It
costs no look at any key. Over SmolLM2's layers, whose errors span two decades, the logarithms of the sum over
clusters and of the measured error have a correlation of 0.9 and a slope of 1; heads that look for single keys
(induction) have most of it. An error falls about like 1 / budget, so the sum of all errors is least where every
head's budget goes with the square root of its error at equal budgets.

What a step chose is noted by whatever ran it, kernels or torch; the rest is a few small products on the device, and
shares that were found in one weighing are used from the next on, so that nothing is waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multipole_lab.attention.partials import Partial
from multipole_lab.clustering.clusters import statistics_dtype
from multipole_lab.decoding.step.backend import knows_spread
from multipole_lab.decoding.step.reference import masses
from multipole_lab.decoding.step.trace import Seen
from multipole_lab.decoding.store.state import State

# What a head's budget may be at least and at most, as a factor of the mean one.
LEAST, MOST = 0.25, 8.0
# Steps whose expected error is taken: the FIRST ones, then one in EVERY. The mean is over about MEMORY of them.
FIRST, EVERY, MEMORY = 16, 32, 64
# Layers begin one step after the other, so that no step weighs them all; so many at most.
TURNS = 8
# Keeps heads without any error apart from those with none at all from rounding.
FLOOR = 1e-9


def expected_error(
    q: Float[Tensor, "B Hq 1 D"],
    state: State,
    opened: Bool[Tensor, "R C"],
    out: Float[Tensor, "B Hq 1 Dv"],
    lse: Float[Tensor, "B Hq 1"],
    scale: float,
) -> Float[Tensor, "B Hk"]:
    """The expected squared error of every key/value head, over the mean squared output of the layer's heads.

    Good for comparing heads; as a number by itself it is too small by one factor (see the module).

    Parameters
    ----------
    q : the query, in the frame of the centroids.
    state : with ``spreads``; their shrinkage is part of the result.
    opened : the fine clusters summed exactly, R = B * Hk.
    out, lse : what the step returned. scale : factor s of the logits.
    """
    B, Hq, _, D = q.shape
    Hk, level = state.keys.shape[1], state.levels[0].rows()
    C, rows = level.size, q.reshape(B * Hk, Hq // Hk, D).to(statistics_dtype(q.dtype))
    spread, tokens = state.spreads[0].flatten(0, 1)[:, :C], level.tokens[:, :C]
    o, v = out.view(B * Hk, Hq // Hk, -1).to(rows.dtype), level.values[:, :C].to(rows.dtype)
    a = masses(rows, level.keys[:, :C], tokens, scale, spread=spread)
    m = (a - lse.view(B * Hk, -1, 1)).exp().masked_fill(opened.unsqueeze(1), 0.0)
    size = o.square().sum(-1, keepdim=True)
    apart = (v.square().sum(-1).unsqueeze(1) - 2 * o @ v.mT + size).clamp(min=0)
    t = 2 * (scale * rows).square().sum(-1, keepdim=True) * spread.unsqueeze(1)
    error = (m.square() * t * apart / tokens.clamp(min=1).unsqueeze(1)).sum((1, 2)).view(B, Hk)
    return error / size.view(B, -1).mean(-1, keepdim=True).clamp(min=torch.finfo(size.dtype).tiny)


def step_and_error(
    step: Callable[..., Partial], q: Tensor, state: State, weighs: bool, seen: Seen | None, **arguments: Any
) -> tuple[Tensor, Tensor | None]:
    """What a step returns, and its expected error if it is weighed; see ``decode_step`` for the arguments."""
    seen = Seen() if weighs and seen is None else seen
    out, lse = step(q, state if knows_spread(step) else state._replace(spreads=()), seen=seen, **arguments)
    if not weighs:
        return out, None
    asked = q if arguments["lookup_q"] is None else arguments["lookup_q"]
    return out, expected_error(asked, state, seen.parts[2], out, lse, arguments["scale"])


class Largest:
    """The largest numbers of some tensors, on their way to the host, which does not wait for them.

    They are read a weighing later, when the device has long had the time; so a step never stands still for them, and
    what it does never depends on how fast the device was.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        found = torch.stack([x.max().to(tensors[0].device) for x in tensors])
        self.numbers = torch.empty(found.shape, dtype=found.dtype, device="cpu", pin_memory=found.is_cuda)
        self.numbers.copy_(found, non_blocking=True)
        self.there = torch.cuda.Event() if found.is_cuda else None
        if self.there:
            self.there.record(torch.cuda.current_stream(found.device))

    def read(self) -> list[float]:
        """The numbers, in the order of the tensors."""
        if self.there:
            self.there.synchronize()
        return self.numbers.numpy().tolist()

    def __deepcopy__(self, _: dict) -> Largest:
        return self  # never written to again


@dataclass
class Portion:
    """One layer's part of the budget.

    Attributes
    ----------
    steps : decoding steps taken.
    need : [B, Hk] running mean of the expected error at the mean budget; None before the first.
    seen : errors in it.
    share : [B, Hk] factor of the budget, mean 1 over the heads of all layers; None as long as all are 1.
    most : the largest of it, or more.
    coming : [B, Hk] the share that is used from the next weighing on.
    """

    steps: int = 0
    need: Float[Tensor, "B Hk"] | None = None
    seen: int = 0
    share: Float[Tensor, "B Hk"] | None = None
    most: float = 1.0
    coming: Float[Tensor, "B Hk"] | None = None
    _found: tuple[int, int, Tensor] | None = field(default=None, compare=False, repr=False)  # by ``budgets``

    def due(self, number: int = 0) -> bool:
        """Count a step; whether its expected error is wanted in the layer of this number."""
        self.steps += 1
        own = self.steps - number % TURNS
        return 0 < own <= FIRST or (own > 0 and own % EVERY == 0)

    def note(self, error: Float[Tensor, "B Hk"]) -> None:
        """Take one more expected error into account."""
        error = torch.nan_to_num(error.double(), nan=0.0, posinf=0.0)
        if self.share is not None:
            error = error * self.share  # as it would have been at the mean budget
        self.seen = min(self.seen + 1, MEMORY)
        self.need = error if self.need is None else self.need.lerp(error, 1 / self.seen)

    def take(self, most: float) -> None:
        """Use the share that was coming, of which ``most`` is the largest."""
        self.share, self.most, self.coming, self._found = self.coming, most, None, None

    def budgets(self, budget: int, most: int) -> tuple[int, Int[Tensor, " R"]] | None:
        """The keys that every head sums exactly, [B * Hk], and the most of them; None where all sum ``budget``."""
        if self.share is None or budget >= most:
            return None
        if self._found is None or self._found[:2] != (budget, most):
            rooms = (self.share * budget).floor().clamp(max=most).to(torch.int32).flatten()
            self._found = budget, most, rooms
        return min(most, int(self.most * budget)), self._found[2]

    def select(self, index: Int[Tensor, " B2"]) -> None:
        """Take batch entries, repeated or in another order."""
        self._found = None
        for name in ("need", "share", "coming"):
            x = getattr(self, name)
            if x is not None:
                setattr(self, name, x.index_select(0, index.to(x.device)))


def allot(portions: Sequence[Portion]) -> Largest:
    """Give every head the share that comes next, in proportion to the root of its need; return the largest of each.

    Texts of a batch do not affect each other.
    """
    device = portions[0].need.device
    share = torch.cat([one.need.to(device) for one in portions], 1).add(FLOOR).sqrt()
    for _ in range(20):  # what the bounds take or give is spread over the others
        share = (share / share.mean(1, keepdim=True)).clamp(LEAST, MOST)
    for one, part in zip(portions, share.split([one.need.shape[1] for one in portions], 1), strict=True):
        one.coming = part.contiguous().to(one.need.device)
    return Largest([one.coming for one in portions])

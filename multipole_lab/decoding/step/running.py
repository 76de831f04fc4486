"""The output of one token in one layer with clusters, by what runs for its tensors: torch, kernels, or a fixed step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from multipole_lab.decoding.step.backend import step_function
from multipole_lab.decoding.step.balance import step_and_error
from multipole_lab.decoding.step.fixed import SPARE, FixedStep, tail_places
from multipole_lab.decoding.step.reference import decode_step
from multipole_lab.decoding.step.trace import Seen

if TYPE_CHECKING:
    from multipole_lab.decoding.layer import ClusteredLayer


def run_step(
    layer: ClusteredLayer,
    q: Tensor,
    probe: Tensor | None,
    scale: float,
    softcap: float | None,
    shares: bool,
    weighs: bool,
    seen: Seen | None,
) -> tuple[Tensor, Tensor | None]:
    """The output of one token, by what runs for these tensors, and its expected error if it is weighed."""
    h, s, work = layer.hierarchy, layer.settings, layer.shared.work(q.device)
    budget, rooms = min(s.tokens(h.length), h.clustered), None
    most, divided = budget, layer.portion.budgets(budget, h.clustered) if shares else None
    if divided:
        most, rooms = divided
    options = {"scale": scale, "softcap": softcap}
    if layer.fixed is None or not layer.fixed.fits(h, q, most, **options):
        more = {"replacement": s.replacement, "top_p": None if s.top_p == 1 else s.top_p}
        clusters = h.levels[0].keys.length
        step = step_function(s.backend, q, h.values.buffer)
        if step is decode_step:
            return step_and_error(
                step, q, h.state(), weighs, seen, budget=most, rooms=rooms, lookups=s.looked_at(clusters, most),
                lookup_q=probe, work=work, **options, **more,
            )  # fmt: skip
        tail = tail_places(h.length, h.clustered, s.recent + s.interval + len(layer.shared.layers))
        room = min(s.tokens(h.clustered + tail), h.clustered)  # until the next join
        if divided:
            room = min(math.ceil(SPARE * layer.portion.most * room), h.clustered)
        layer.fixed = FixedStep(
            step, h, q, probe, room, tail, lookups=s.looked_at(clusters, room), **options, **more
        )  # fmt: skip
    return layer.fixed(h, q, probe, budget if rooms is None else rooms, work, weighs, seen)

"""One decoding step over a clustered cache: the launchers of this folder, one after the other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..common.checks import check_tensors
from ..common.derivatives import refused
from .attend import Far, decode_attend
from .logits import Exact
from .lookup import decode_lookup, decode_lookup_listed
from .merge import decode_merge
from .select import Selection, decode_select
from .sketch import Residuals
from .work import Work


def decode_step(
    q: Tensor,
    state: Any,
    *,
    scale: float,
    budget: int,
    rooms: Tensor | None = None,
    lookups: int | None = None,
    replacement: bool = True,
    top_p: float | None = None,
    softcap: float | None = None,
    lookup_q: Tensor | None = None,
    work: Work | None = None,
    seen: Any | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of one new query per head over everything in the cache; see `multipole_lab.decoding.step.reference`.

    out = sum_i w_i v_i, w = softmax over: s q.k_n of the sinks, the tail and up to `budget` members of opened
    clusters; log tokens_j + s q.c_j [+ s^2 |q|^2 spread_j], with the mean value, of clusters not opened. With a
    `state.sketch`, fine clusters have s q.c_j + log sum_i exp(s q.r_i) over their members.

    Parameters
    ----------
    q : [B, Hq, 1, D]. state : a `multipole_lab.decoding.store.state.State`, whose buffers are contiguous.
    scale, budget, rooms, lookups, replacement, top_p, softcap, lookup_q : as for the torch reference.
    work : the buffers, kept from step to step.
    seen : a `multipole_lab.decoding.step.trace.Seen`, which notes what was looked at and opened.

    Returns
    -------
    out [B, Hq, 1, Dv] in the dtype of q, lse [B, Hq, 1] fp32.

    Launches: lookup, select, attend, merge; two levels: lookup, select, lookup, select, attend, merge.
    Bytes a row, in elements: (C + E)(D + Dv) with the C clusters of the top level and the E sinks and tail,
    with two levels lookups (D + Dv), and budget (D + Dv); masses and partials are a few percent of that.
    Operations: 2 G for each of those elements.

    Shares that agree to about 1 in 2,000 are opened in the order of the index; the reference takes only equal ones
    for equal, and orders fine clusters by coarse rank.
    """
    check_tensors("decode_step", q=q, keys=state.keys, values=state.values)
    B, Hq, queries, D = q.shape
    Hk = state.keys.shape[1]
    if queries != 1:
        raise ValueError(f"decode_step: q has {queries} queries a head; one step decodes one")
    if Hq % Hk:
        raise ValueError(f"decode_step: q has {Hq} heads, which is no multiple of the {Hk} heads of the keys")
    if len(state.levels) > 2:
        raise ValueError(
            f'decode_step: {len(state.levels)} levels; at most 2 are supported; use backend="torch"'
        )
    work = work or Work()
    for name, x in {"keys": state.keys, "values": state.values}.items():
        if x.stride()[2:] != (x.shape[3], 1):
            raise ValueError(f"decode_step: {name} have strides {x.stride()}; vectors must follow each other")
    rows = q.reshape(B * Hk, Hq // Hk, D).contiguous()
    probe = rows if lookup_q is None else lookup_q.reshape(rows.shape).contiguous()
    keys, values = state.keys.flatten(0, 1), state.values.flatten(0, 1)
    valid = None if state.valid is None else state.valid.contiguous()
    exact = Exact(rows, keys, state.sinks, state.clustered, state.length, valid)
    levels = [type(level)(*(x.flatten(0, 1) for x in level[:-1]), level.size) for level in state.levels]
    spreads = [x.flatten(0, 1) for x in state.spreads] if softcap is None else []
    sketch, two = None, len(state.levels) == 2
    if state.sketch is not None and levels and softcap is None:
        sketch = Residuals(*(x.flatten(0, 1) for x in state.sketch), levels[0].first)
    selection, below, top, fine = None, None, None, None
    if levels:
        level = levels[-1]
        C = level.size
        masses = decode_lookup(
            probe, level.keys, level.tokens, C, scale,
            exact=exact, spread=spreads[-1] if spreads else None, sketch=None if two else sketch, softcap=softcap,
            work=work,
        )  # fmt: skip
        room = min(budget, state.clustered - state.sinks)
        fine_room = levels[0].size if lookups is None else min(lookups, levels[0].size)
        selection = decode_select(
            level.members, level.first, fine_room if two else room,
            masses=masses, size=C, top_p=top_p, stop=not two, rooms=None if two else rooms, work=work,
        )  # fmt: skip
        top = Far(masses, level.values, C, selection.opened)
    else:
        masses = decode_lookup(probe, keys, state.keys.new_empty(0, dtype=torch.int32).view(0, 1), 0, scale,
                               exact=exact, softcap=softcap, work=work)  # fmt: skip
        C = 0
    if two:
        below, level = selection, levels[0]
        fine_masses, shares, sizes = decode_lookup_listed(
            probe, level.keys, level.tokens, below.members, below.taken, below.norm, scale,
            spread=spreads[0] if spreads else None, sketch=sketch, softcap=softcap, work=work,
        )  # fmt: skip
        selection = decode_select(
            sizes, level.first, room, shares=shares, listed=below.members, n_listed=below.taken,
            norm=below.norm, top_p=top_p, limit=below.limit, rooms=rooms, name="fine", work=work,
        )  # fmt: skip
        fine = Far(fine_masses, level.values, fine_room, selection.opened, below.members, below.taken)
    if seen is not None and levels:
        note(seen, state, selection, below, masses[..., :C] if below is None else fine_masses)
    parts, part_lse = decode_attend(
        rows, keys, values, scale,
        members=selection.members if selection else None, taken=selection.taken if selection else None,
        top=top if replacement else None, fine=fine if replacement else None,
        exact=exact, exact_masses=masses[..., C:], softcap=softcap, work=work,
    )  # fmt: skip
    out, lse = decode_merge(parts, part_lse, q.dtype)
    words = "decode_step by the Triton kernels has no derivative; decode under torch.no_grad()"
    return refused(words, (q, state.keys, state.values), out.view(B, Hq, 1, -1), lse.view(B, Hq, 1))


decode_step.knows_spread = True  # it reads State.spreads


def note(seen: Any, state: Any, selection: Selection, below: Selection | None, masses: Tensor) -> None:
    """Tell `seen` what a step looked at and opened, as the reference does; nothing is asked of the host.

    below : the choice on the coarse level, whose members `masses` [R, G, L] belong to; None for one level.
    """
    taken = _filled(selection.members, selection.taken)
    share = (masses - selection.norm.unsqueeze(-1)).exp().sum(1)
    opened, looked = selection.opened > 0, None
    if below is not None:
        reached = _filled(below.members, below.taken)
        looked, opened = (below.members.long(), reached, below.opened > 0), opened & reached
    seen.note(state, looked, share, selection.members.long(), taken, opened)


def _filled(members: Tensor, taken: Tensor) -> Tensor:
    """[R, room] bool: which places of a list of members are in use."""
    return torch.arange(members.shape[1], device=members.device) < taken.unsqueeze(1)

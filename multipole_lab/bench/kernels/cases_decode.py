"""The kernels of one decoding step over a cache of one level, each on what the one before it wrote."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from multipole_lab.bench.kernels.cases import Case
from multipole_lab.bench.kernels.oracle import differing, error
from multipole_lab.kernels.report.problem import Problem
from multipole_lab.testing import oracle

SINKS, RECENT, BUDGET, FRACTION = 16, 128, 0.05, 1 / 16  # what the formulas of the kernels assume


def decode_cases(p: Problem, q: Tensor, k: Tensor, v: Tensor) -> Iterator[Case]:
    """decode_lookup, decode_select, decode_attend and decode_merge; q [B, Hq, 1, D], k and v [B, Hk, N, D]."""
    from multipole_lab.decoding.settings import Settings
    from multipole_lab.decoding.step.opening import open_clusters
    from multipole_lab.decoding.store.hierarchy import Hierarchy
    from multipole_lab.kernels.decode.attend import Far, decode_attend
    from multipole_lab.kernels.decode.logits import Exact
    from multipole_lab.kernels.decode.lookup import decode_lookup
    from multipole_lab.kernels.decode.merge import decode_merge
    from multipole_lab.kernels.decode.select import decode_select

    recent = min(RECENT, k.shape[2] // 4)
    settings = Settings(levels=1, budget=BUDGET, sinks=SINKS, recent=recent, fraction=FRACTION)
    hierarchy = Hierarchy(settings)
    hierarchy.append(k, v)
    hierarchy.join()
    state, scale = hierarchy.state(), k.shape[-1] ** -0.5
    rows = q.reshape(p.batch * p.kv_heads, -1, q.shape[-1]).contiguous()
    keys, values = state.keys.flatten(0, 1), state.values.flatten(0, 1)
    level = state.levels[0].rows()
    C, places = level.size, min(settings.tokens(state.length), state.clustered - state.sinks)

    def exact(rows, keys):
        return Exact(rows, keys, state.sinks, state.clustered, state.length)

    def lookup(rows, centroids, keys):
        return decode_lookup(rows, centroids, level.tokens, C, scale, exact=exact(rows, keys))

    always = torch.tensor([*range(state.sinks), *range(state.clustered, state.length)], device=k.device)
    logits = (
        scale * rows.double() @ torch.cat([level.keys[:, :C], keys[:, always]], 1).double().mT
    )  # [R, G, C + E]
    logits[..., :C] += level.tokens[:, None, :C].double().log()
    yield Case("decode_lookup", (rows, level.keys, keys), lookup, lambda r: error(r, logits))

    masses = lookup(rows, level.keys, keys)
    members, first = level.members[:, :C].long(), level.first[:, :C].long()

    def chosen_by_torch(masses):
        return open_clusters(masses.softmax(-1).sum(1)[:, :C], first, members, places)

    expected = chosen_by_torch(masses.double())[2] & (members > 0)

    def select(masses):
        return decode_select(level.members, level.first, places, masses=masses, size=C)

    yield Case(
        "decode_select", (masses,), select, lambda r: differing(r.opened.bool(), expected),
        chosen_by_torch,
    )  # fmt: skip
    selection = select(masses)
    opened, list_ = selection.opened[0, :C].bool(), selection.members[0, : int(selection.taken[0])].long()
    near = scale * rows[0].double() @ keys[0, list_].double().mT
    weights = torch.cat(
        [logits[0].masked_fill(torch.cat([opened, opened.new_zeros(len(always))]), -torch.inf), near], -1
    )
    vectors = torch.cat([level.values[0, :C], values[0, always], values[0, list_]]).double()
    attended, _ = oracle.softmax_sum(weights, vectors)

    def attend(keys, values, means):
        return decode_attend(
            rows, keys, values, scale, members=selection.members, taken=selection.taken,
            top=Far(masses, means, C, selection.opened), exact=exact(rows, keys), exact_masses=masses[..., C:],
        )  # fmt: skip

    yield Case(
        "decode_attend", (keys, values, level.values), attend,
        lambda r: error(decode_merge(*r, rows.dtype)[0][0], attended),
    )  # fmt: skip
    parts = attend(keys, values, level.values)
    yield Case(
        "decode_merge",
        parts,
        lambda *parts: decode_merge(*parts, rows.dtype),
        lambda r: error(r[0][0], attended),
    )

"""Padding is taken out before anything is clustered: every row as if it had been called without it.

Blocks, clusters, seeds, caps and runs follow from how many positions there are. So rows of one real length go together
in a call that knows of no padding, and what comes out is put back in place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from multipole_lab.attention.calls.transforms import may_look
from multipole_lab.attention.partials import Partial
from multipole_lab.clustering.clusters import statistics_dtype

Attend = Callable[[Tensor, Tensor, Tensor, float, Tensor | None], Partial]


@dataclass(frozen=True)
class Part:
    """Queries of one row of the batch that attend together, and the keys they see; None for the row's own mask."""

    row: int
    attend: Attend
    queries: Tensor
    keys: Tensor | None

    @property
    def sizes(self) -> tuple[Attend, int, int]:
        """What parts that go into one call have in common; those with a mask all go together."""
        if self.keys is None:
            return self.attend, 0, 0
        return self.attend, len(self.queries), len(self.keys)


def without_gaps(
    attend: Attend,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    mask: Tensor | None,
    causal: bool,
    last: bool,
    behind: Attend | None = None,
) -> Partial:
    """``attend`` where padding does not count: real positions get what the same call without padding gives them.

    One call for every real length in the batch; with one length, or no padding, one call. The host reads the mask for
    that, and so waits for a GPU that makes it. Where it cannot, in a captured CUDA graph and for tensors without
    numbers, the mask goes to ``attend``: padding then gets no weight, but moves what is clustered beside what.

    Parameters
    ----------
    attend : of q, k, v, scale and a mask [B, Nk] or None.
    mask : [B, Nk], True for keys that count.
    causal : what ``attend`` does.
    last : the queries are the last Nq positions, so that those of padding are known: they are left out of the real
        ones' call and attend in one of their own.
    behind : full attention, of the same arguments: of queries of padding that see all keys that count. Without it they
        get ``attend`` under the mask, as those do that have padding and real positions before and behind them.
    """
    if mask is None or not _readable(mask):
        return attend(q, k, v, scale, mask)
    kept = mask.cpu()
    if bool(kept.all()):
        return attend(q, k, v, scale, None)
    calls = defaultdict(list)
    for row, own in enumerate(kept):
        for part in _parts(row, own, q.shape[2], attend, causal, last, behind):
            calls[part.sizes].append(part)
    if not calls:  # nobody sees a key: zeros, and a graph for their gradients
        return attend(q, k, v, scale, mask)
    qs, ks, vs = (x.unbind(0) for x in (q, k, v))
    outs = [x.new_zeros(*x.shape[:2], v.shape[-1]) for x in qs]
    lses = [x.new_full(x.shape[:2], -torch.inf, dtype=statistics_dtype(x.dtype)) for x in qs]
    for parts in calls.values():
        for part, out, lse in zip(parts, *_together(parts, qs, ks, vs, scale, mask), strict=True):
            place = part.queries.to(q.device)
            outs[part.row] = outs[part.row].index_copy(1, place, out)
            lses[part.row] = lses[part.row].index_copy(1, place, lse)
    return torch.stack(outs), torch.stack(lses)


def _parts(
    row: int, kept: Tensor, queries: int, attend: Attend, causal: bool, last: bool, behind: Attend | None
) -> Iterator[Part]:
    """How the queries of one row are divided, of its mask [Nk] on the host; those that see no key are in no part."""
    keys = kept.nonzero().flatten()
    if len(keys) == 0:
        return
    real = torch.arange(queries)
    if last:
        shift = len(kept) - queries
        own = kept[shift:]
        padding, real = (~own).nonzero().flatten(), own.nonzero().flatten()
        seeing = padding + shift > keys[0] if causal else torch.ones_like(padding, dtype=torch.bool)
        after = padding + shift > keys[-1] if causal else seeing
        if behind is None:
            after = torch.zeros_like(after)
        if after.any():
            yield Part(row, behind, padding[after], keys)
        if (seeing & ~after).any():
            yield Part(row, attend, padding[seeing & ~after], None)
    if len(real):
        yield Part(row, attend, real, keys)


def _together(
    parts: list[Part], qs: tuple[Tensor, ...], ks: tuple[Tensor, ...], vs: tuple[Tensor, ...], scale: float,
    mask: Tensor,
) -> tuple[list[Tensor], list[Tensor]]:  # fmt: skip
    """One call for parts of the same sizes: the out [Hq, n, Dv] and the lse [Hq, n] of each."""
    rows, attend = [part.row for part in parts], parts[0].attend
    if parts[0].keys is None:
        q, k, v = (torch.stack([x[row] for row in rows]) for x in (qs, ks, vs))
        out, lse = attend(q, k, v, scale, mask[rows])
        picked = [part.queries.to(out.device) for part in parts]
        return [x[:, i] for x, i in zip(out, picked, strict=True)], [
            x[:, i] for x, i in zip(lse, picked, strict=True)
        ]
    q = torch.stack([_select(qs[part.row], part.queries) for part in parts])
    k, v = (torch.stack([_select(x[part.row], part.keys) for part in parts]) for x in (ks, vs))
    out, lse = attend(q, k, v, scale, None)
    return list(out), list(lse)


def _select(x: Tensor, positions: Tensor) -> Tensor:
    """x [H, N, D] at positions in ascending order: a view where they are neighbours."""
    first, n = int(positions[0]), len(positions)
    if int(positions[-1]) - first == n - 1:
        return x[:, first : first + n]
    return x.index_select(1, positions.to(x.device))


def _readable(mask: Tensor) -> bool:
    """Whether the host may look at the mask."""
    return may_look(mask) and not (mask.is_cuda and torch.cuda.is_current_stream_capturing())

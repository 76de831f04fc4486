"""What a mask says about a layer's attention: causal or not, which keys are padding, where packed texts begin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Mask entries looked at at a time.
TILE = 1 << 22


@dataclass(frozen=True)
class Structure:
    """What a mask lets the queries of a layer see.

    Attributes
    ----------
    causal : whether query t sees no key behind position ``keys - Nq + t``.
    keys : how many leading keys are in use; a static cache holds more.
    keep : [B, keys] bool, False for padding; None where every key counts.
    cuts : for each text of the batch the places where packed texts begin and the end, such as [0, 40, 100]; None
        where nothing is packed.
    local : the size of a sliding window or chunk that is shorter than the text; None for none.
    """

    causal: bool
    keys: int
    keep: Tensor | None = None
    cuts: list[list[int]] | None = None
    local: int | None = None


class CustomMask(ValueError):
    """A mask of which only exact attention can make sense: summaries of many keys cannot leave out some of them.

    ``what`` says it in short.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"{what}: only exact attention can honour it; use ml.Exact(), or leave these layers out of `layers`"
        )


_CUSTOM = (
    "this attention mask is neither causal nor full attention with key padding or packed texts, but depends on the "
    "query in another way"
)


def structure_of_rows(
    rows: Callable[[int, int], Tensor],
    shape: tuple[int, int, int],
    shift: int,
    padding: Callable[[int], Tensor | None],
) -> Structure:
    """The structure of any mask, by looking at what every query sees.

    Parameters
    ----------
    rows : which keys the queries from one number up to another see, padding left aside: [B, n, Nk] bool.
    shape : B, Nq and Nk. shift : the column of the first query's own key.
    padding : of a number of keys: [B, keys] bool of the first of them, False for padding, or None where all count.

    Raises
    ------
    CustomMask : a mask that only exact attention can honour.
    """
    B, n, total = shape
    step = max(1, TILE // (B * total))
    starts, lasts = [], []
    for first in range(0, n, step):
        seen = rows(first, min(first + step, n))
        column = torch.arange(total, device=seen.device)
        start = torch.where(seen, column, total).amin(-1)
        last = torch.where(seen, column, -1).amax(-1)
        if not bool((seen.sum(-1) == last - start + 1).all()):
            raise CustomMask(f"{_CUSTOM}, with gaps between the keys that a query sees")
        starts.append(start)
        lasts.append(last)
    start, last = torch.cat(starts, 1), torch.cat(lasts, 1)  # [B, Nq]
    own = torch.arange(shift, shift + n, device=start.device)
    causal = bool((last == own).all())
    begins = start == own  # of a text; its other queries start where their left neighbour does
    joined = torch.cat([begins[:, :1], begins[:, 1:] | (start[:, 1:] == start[:, :-1])], 1)
    if bool((start == 0).all()) and (causal or bool((last == total - 1).all())):
        keys = min(total, shift + n) if causal else total
        return Structure(causal, keys, padding(keys))
    ends = torch.cat([begins[:, 1:], torch.ones_like(begins[:, :1])], 1)
    whole = bool((torch.where(ends, last, 0) == torch.where(ends, own, 0)).all())
    same = causal or bool((ends[:, :-1] | (last[:, 1:] == last[:, :-1])).all())
    if shift or n != total or not (bool(joined.all()) and whole and same):
        raise CustomMask(_CUSTOM)
    cuts = [[*row.nonzero().flatten().tolist(), n] for row in begins]
    return Structure(causal, n, padding(n), cuts)


def structure_of_tensor(mask: Tensor, queries: int) -> Structure:
    """The same for a mask [B, H, Nq or 1, Nk] that somebody wrote out: full or causal attention with key padding.

    Parameters
    ----------
    mask : boolean, or a bias on the logits of 0 and the smallest number. queries : Nq.
    """
    if mask.dtype != torch.bool:
        hidden = mask <= torch.finfo(mask.dtype).min / 2
        if not bool(((mask == 0) | hidden).all()):
            raise CustomMask("the mask is a bias on the logits")
        mask = ~hidden
    if not bool((mask == mask[:, :1]).all()):
        raise CustomMask("the mask differs between heads")
    seen = mask[:, 0]  # [B, Nq or 1, Nk]
    keep, total = seen.any(1), seen.shape[-1]
    if bool((seen == keep[:, None]).all()):
        return Structure(False, total, unless_all(keep))
    # The queries are the last of the keys in use; a static cache has space for more behind them. The first query's own
    # column is the furthest that any query sees ahead of its number, unless every query is padding.
    last = torch.where(seen, torch.arange(1, total + 1, device=mask.device), 0).amax(-1) - 1  # [B, Nq or 1]
    ahead = int((last - torch.arange(last.shape[1], device=mask.device)).max())
    keys = max(0, ahead) + queries
    if keys <= total:
        place = torch.arange(keys - queries, keys, device=mask.device)
        past = torch.arange(total, device=mask.device) <= place[:, None]
        padding = ~keep[:, keys - queries : keys, None]  # what padding itself sees reaches nobody
        if bool((padding | (seen == past & keep[:, None])).all()):
            return Structure(True, keys, unless_all(keep[:, :keys]))
    raise CustomMask(_CUSTOM)


def unless_all(keep: Tensor) -> Tensor | None:
    """The keys that count, or None where all do."""
    return None if bool(keep.all()) else keep

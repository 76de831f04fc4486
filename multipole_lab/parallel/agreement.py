"""What the ranks tell each other before anything else: so that a mistake is an error on all of them, not a hang."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from multipole_lab.attention.muse_kernels import graded
from multipole_lab.parallel.channel import Channel

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Parts:
    """Who has which part of the sequence.

    Attributes
    ----------
    queries, keys : positions that each rank owns.
    sources : the ranks whose keys this rank's queries attend to through messages.
    askers : the ranks whose queries attend to this rank's keys so.
    """

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    sources: tuple[int, ...]
    askers: tuple[int, ...]


def agree(channel: Channel, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float, name: str) -> Parts:
    """Compare notes with all ranks: twelve integers to each.

    Raises
    ------
    ValueError, TypeError : on all ranks, where they differ in batch size, heads, head sizes, dtype, scale, method,
        in being causal or in whether gradients are wanted; where causal queries are not as many as the keys.
    """
    notes = {
        "the batch size (dimension 0)": q.shape[0],
        "the query heads (dimension 1 of q)": q.shape[1],
        "the key/value heads (dimension 1 of k and v)": k.shape[1],
        "the head size (dimension 3 of q and k)": q.shape[3],
        "the value head size (dimension 3 of v)": v.shape[3],
        "the dtype": DTYPES.index(q.dtype),
        "causal": int(causal),
        "the scale": struct.unpack("q", struct.pack("d", scale))[0],
        "the method and its parameters": zlib.crc32(name.encode()),
        "whether q, k or v requires gradients": int(graded(q, k, v)),
    }
    mine = torch.tensor([*notes.values(), q.shape[2], k.shape[2]], dtype=torch.int64, device=q.device)
    everyone = range(channel.ranks)
    answers = channel.swap(
        "agreement", dict.fromkeys(everyone, mine), dict.fromkeys(everyone, mine.shape), mine
    )
    table = torch.stack([answers[r] for r in everyone]).tolist()
    for column, what in enumerate(notes):
        values = [row[column] for row in table]
        if len(set(values)) > 1:
            error = TypeError if what == "the dtype" else ValueError
            raise error(f"the ranks disagree about {what}{_said(what, values)}; all must be alike")
    queries, keys = ([row[c] for row in table] for c in (-2, -1))
    if causal and queries != keys:
        raise ValueError(
            f"the ranks have {queries} queries and {keys} keys (dimension 2); with causal=True every rank needs "
            "as many queries as keys"
        )
    r = channel.rank
    sources = range(r) if causal else everyone
    askers = range(r + 1, channel.ranks) if causal else everyone
    return Parts(tuple(queries), tuple(keys), tuple(sources), tuple(askers))


def _said(what: str, values: list[int]) -> str:
    """Who said what, where that is readable."""
    if what in ("the scale", "the method and its parameters"):
        return ""
    words = [DTYPES[x] if what == "the dtype" else x for x in values]
    return ": " + ", ".join(f"rank {rank} has {word}" for rank, word in enumerate(words))

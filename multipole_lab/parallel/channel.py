"""What one rank says to the others: a single collective, with every byte of its payload counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass
class Traffic:
    """Bytes of payload that this rank has sent and received, by what they were.

    The kinds of context-parallel MuSe are "agreement", "centroids", "summaries", "cluster sizes", "near choice",
    "near keys", "sinks", "directions", "near masks" and "moments"; those of ring attention "agreement" and "ring".
    What a backward sends is counted under the same name with " gradient" behind. What a rank keeps for itself is not
    sent and not counted, nor is what the transport wraps around the payload.
    """

    sent: Counter[str] = field(default_factory=Counter)
    received: Counter[str] = field(default_factory=Counter)

    @property
    def forward(self) -> int:
        """Bytes sent in forwards."""
        return sum(size for kind, size in self.sent.items() if not kind.endswith(" gradient"))

    @property
    def backward(self) -> int:
        """Bytes sent in backwards."""
        return sum(self.sent.values()) - self.forward


@dataclass(frozen=True)
class Channel:
    """The group as this rank sees it.

    Parameters
    ----------
    group : of ``torch.distributed``; None for the default one.
    traffic : where bytes are counted; None to count nothing.

    Raises
    ------
    RuntimeError : there is no process group, or this process is not in it.
    """

    group: dist.ProcessGroup | None = None
    traffic: Traffic | None = None

    def __post_init__(self) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise RuntimeError(
                "there is no process group: start the processes with torchrun and call "
                "torch.distributed.init_process_group, or start them with multipole_lab.parallel.launch"
            )
        if self.rank < 0:
            raise RuntimeError("this process is not in the group it was given")

    @property
    def rank(self) -> int:
        return dist.get_rank(self.group)

    @property
    def ranks(self) -> int:
        return dist.get_world_size(self.group)

    def swap(
        self, kind: str, parts: Mapping[int, Tensor], shapes: Mapping[int, Sequence[int]], like: Tensor
    ) -> dict[int, Tensor]:
        """Send ``parts[t]`` to every rank t named, and receive a tensor of ``shapes[s]`` from every rank s named.

        All ranks of the group must call it together, also those that send and receive nothing. The own rank may be
        among both: that part is handed over as it is. ``like`` gives the device and dtype of all parts.

        Raises
        ------
        RuntimeError : another rank has ended, or did not answer within the group's time limit.
        """
        away = [None if t == self.rank else parts.get(t) for t in range(self.ranks)]
        sizes_in = [0 if s == self.rank or s not in shapes else prod(shapes[s]) for s in range(self.ranks)]
        sizes_out = [0 if part is None else part.numel() for part in away]
        flat = [part.reshape(-1).to(like) for part in away if part is not None]
        outgoing = torch.cat(flat) if flat else like.new_empty(0)
        incoming = like.new_empty(sum(sizes_in))
        try:
            dist.all_to_all_single(incoming, outgoing, sizes_in, sizes_out, group=self.group)
        except RuntimeError as error:
            raise RuntimeError(
                f"rank {self.rank} of {self.ranks}: the exchange of {kind} failed, for another rank has ended or "
                f"did not answer within the group's time limit ({error})"
            ) from error
        if self.traffic is not None:
            self.traffic.sent[kind] += outgoing.numel() * outgoing.element_size()
            self.traffic.received[kind] += incoming.numel() * incoming.element_size()
        received = dict(enumerate(incoming.split(sizes_in)))
        return {
            s: parts[s] if s == self.rank else received[s].view(*shape) for s, shape in sorted(shapes.items())
        }

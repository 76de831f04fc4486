"""What one rank says to the others: a single collective, with every byte of its payload counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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

        As ``start``, of one tensor for each rank, and waited for.
        """
        parts, shapes = ({r: [x] for r, x in each.items()} for each in (parts, shapes))
        heard = self.start(kind, parts, shapes, [like]).wait()
        return {s: tensors[0] for s, tensors in heard.items()}

    def start(
        self,
        kind: str,
        parts: Mapping[int, Sequence[Tensor]],
        shapes: Mapping[int, Sequence[Sequence[int]]],
        likes: Sequence[Tensor],
    ) -> Message:
        """Begin to send the tensors ``parts[t]`` to every rank t named, and to receive as many, of ``shapes[s]``, from
        every rank s named; ``wait`` of what is returned gives them.

        All ranks of the group must call it together, also those that send and receive nothing, in one order for all
        messages. The own rank may be among both: its part is handed over as it is. ``likes`` gives the device and the
        dtypes, in which every tensor travels: all as bytes, so that one collective carries several dtypes.

        Raises
        ------
        RuntimeError : another rank has ended, or did not answer within the group's time limit.
        """
        ranks = range(self.ranks)
        width = [x.element_size() for x in likes]
        away = [[] if t == self.rank else parts.get(t, []) for t in ranks]
        flat = [
            [x.to(like).reshape(-1).view(torch.uint8) for x, like in zip(part, likes, strict=bool(part))]
            for part in away
        ]
        sizes_out = [sum(x.numel() for x in part) for part in flat]
        sizes_in = [
            0 if s == self.rank or s not in shapes else sum(map(_bytes, shapes[s], width)) for s in ranks
        ]
        device = likes[0].device
        empty = torch.empty(0, dtype=torch.uint8, device=device)
        outgoing = torch.cat([empty, *(x for part in flat for x in part)])
        incoming = torch.empty(sum(sizes_in), dtype=torch.uint8, device=device)
        message = Message(self, kind, parts, shapes, likes, sizes_in, outgoing, incoming)
        with message.named():
            message.work = dist.all_to_all_single(
                incoming, outgoing, sizes_in, sizes_out, group=self.group, async_op=True
            )
        if self.traffic is not None:
            self.traffic.sent[kind] += outgoing.numel()
            self.traffic.received[kind] += incoming.numel()
        return message


@dataclass
class Message:
    """What is on its way; sent and received are kept until ``wait``."""

    channel: Channel
    kind: str
    parts: Mapping[int, Sequence[Tensor]]
    shapes: Mapping[int, Sequence[Sequence[int]]]
    likes: Sequence[Tensor]
    sizes_in: list[int]
    outgoing: Tensor
    incoming: Tensor
    work: dist.Work | None = None

    def wait(self) -> dict[int, list[Tensor]]:
        """The tensors that came, by the rank that sent them, in the order of the ranks."""
        with self.named():
            self.work.wait()
        received, own = self.incoming.split(self.sizes_in), self.channel.rank
        return {
            s: list(self.parts[own]) if s == own else _tensors(received[s], shapes, self.likes)
            for s, shapes in sorted(self.shapes.items())
        }

    @contextmanager
    def named(self) -> Iterator[None]:
        """What torch says of a message that failed, with its name."""
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError(
                f"rank {self.channel.rank} of {self.channel.ranks}: the exchange of {self.kind} failed, for another "
                f"rank has ended or did not answer within the group's time limit ({error})"
            ) from error


def _bytes(shape: Sequence[int], width: int) -> int:
    return width * prod(shape)


def _tensors(flat: Tensor, shapes: Sequence[Sequence[int]], likes: Sequence[Tensor]) -> list[Tensor]:
    """Bytes as the tensors that they were."""
    parts = flat.split(
        [_bytes(shape, like.element_size()) for shape, like in zip(shapes, likes, strict=True)]
    )
    return [
        # A view needs its first byte where the dtype's numbers may begin.
        (part.clone() if part.storage_offset() % like.element_size() else part).view(like.dtype).view(*shape)
        for part, shape, like in zip(parts, shapes, likes, strict=True)
    ]

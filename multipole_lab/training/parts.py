"""Training on sequences that lie in parts on several processes: who reads what, what attends, and whose loss it is.

Processes 0 to P - 1 share a sequence, the next P another: context parallelism within, data parallelism between. Each
has the whole model (or with FSDP a shard of it). Gradients are averaged over all processes, so a process counts its
part's loss P times: the mean over the processes is that of all tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy

from multipole_lab.attention.muse import MuSe
from multipole_lab.parallel import ContextParallel, RingAttention, part_of
from multipole_lab.training.processes import rank, world_size
from multipole_lab.training.texts.corpus import Sequences
from multipole_lab.training.trainer import LabTrainer

NO_TARGET = -100  # behind the last token of a sequence nothing is predicted


def check_parts(parts: int, processes: int) -> None:
    """Whether so many processes can share sequences in so many parts.

    Raises
    ------
    ValueError : they are no multiple of it.
    """
    if parts < 1 or processes % parts:
        raise ValueError(
            f"context_parallel is {parts}, with {processes} process{'es' * (processes > 1)}; a divisor of their number "
            "is needed: start them with torchrun --standalone --nproc-per-node 2 -m multipole_lab.cli train "
            "--context-parallel 2 ..."
        )


class PartsOf(torch.utils.data.Dataset):
    """The parts of sequences, in the order in which processes take batches: one after the other, a batch each.

    Parameters
    ----------
    sequences : whole ones. parts : P. batch : parts in a batch.
    """

    def __init__(self, sequences: Sequences, parts: int, batch: int) -> None:
        self.sequences, self.parts, self.batch = sequences, parts, batch
        self.groups = world_size() // parts
        # Every process has equally many batches; where there are too few sequences, the first come again.
        self.rounds = -(-len(sequences) // (batch * self.groups))

    def __len__(self) -> int:
        return self.rounds * self.batch * world_size()

    def place(self, i: int) -> tuple[int, int]:
        """Which sequence the i-th item is of, and which part of it."""
        batch, inside = divmod(i, self.batch)
        step, process = divmod(batch, world_size())
        group, part = divmod(process, self.parts)
        return ((step * self.groups + group) * self.batch + inside) % len(self.sequences), part

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        sequence, part = self.place(i)
        ids = self.sequences[sequence]["input_ids"]
        own = part_of(len(ids), part, self.parts)
        following = torch.cat([ids[1:], torch.tensor([NO_TARGET])])
        return {
            "input_ids": ids[own],
            "labels": following[own],
            "position_ids": torch.arange(own.start, own.stop),
        }


class PartsTrainer(LabTrainer):
    """A trainer of parts. ``parts`` and ``context``, the tokens of a whole sequence, are set after creation."""

    parts: int
    context: int

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        """P times the part's share of the mean loss of its sequences."""
        inputs = dict(inputs)
        targets = inputs.pop("labels")
        outputs = model(**inputs, use_cache=False)
        logits = outputs.logits.float().flatten(0, 1)
        total = cross_entropy(logits, targets.flatten(), ignore_index=NO_TARGET, reduction="sum")
        loss = total * self.parts / (len(targets) * (self.context - 1))
        return (loss, outputs) if return_outputs else loss


@contextmanager
def attention_in_parts(
    model: nn.Module, method: MuSe | None, layers: tuple[int, ...], parts: int
) -> Iterator[None]:
    """Within it, the model attends over whole sequences: MuSe in its layers, ring attention in all others.

    Every process of the run must enter it together.

    Raises
    ------
    TypeError : a method other than MuSe.
    """
    group = None
    for first in range(0, world_size(), parts):  # every process takes part in making every group
        made = dist.new_group(range(first, first + parts))
        group = made if first <= rank() < first + parts else group
    ring = RingAttention(group)
    chosen = dict.fromkeys(range(model.config.num_hidden_layers), ring)
    if method is not None:
        chosen |= dict.fromkeys(layers, ContextParallel(method, group))
    with ring.on(model, chosen, strict=True):
        yield

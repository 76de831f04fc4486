"""Sequences that lie in parts on several processes: which part of which one a process reads.

Processes 0 to P - 1 share a sequence, the next P another: context parallelism within, data parallelism between.
"""

from __future__ import annotations

import torch

from multipole_lab.parallel.reference import part_of
from multipole_lab.training.processes import world_size
from multipole_lab.training.texts.corpus import Sequences

NO_TARGET = -100  # behind the last token of a sequence nothing is predicted


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

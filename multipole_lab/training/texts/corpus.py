"""Tokens on disk, mapped into memory, and the order in which they are learned from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from multipole_lab.printing import one_line

RECORD, TOKENIZER = "corpus.json", "tokenizer"
SPLITS = ("train", "heldout")


@dataclass(frozen=True)
class Corpus:
    """Prepared text: a tokenizer, and one long row of tokens for each split, documents end to end.

    Attributes
    ----------
    folder : with ``train.bin``, ``heldout.bin``, the tokenizer and ``corpus.json``, the record.
    record : what the text was, how it was made, and how many tokens and documents each split has.
    """

    folder: Path
    record: dict

    __repr__ = one_line

    @classmethod
    def open(cls, folder: str | Path) -> Corpus:
        """Open a prepared folder.

        Raises
        ------
        FileNotFoundError : for a folder that holds no whole corpus.
        """
        file = Path(folder) / RECORD
        if not file.is_file():
            raise FileNotFoundError(
                f"{folder} holds no {RECORD}: no corpus was prepared there, or not to its end"
            )
        return cls(Path(folder), json.loads(file.read_text(encoding="utf-8")))

    @cached_property
    def tokenizer(self):
        """The byte-pair tokenizer, a transformers ``PreTrainedTokenizerFast``."""
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(self.folder / TOKENIZER)

    def tokens(self, split: str) -> np.memmap:
        """All tokens of a split, [N] uint16 or uint32, on disk."""
        return np.memmap(self.folder / f"{split}.bin", dtype=self.record["dtype"], mode="r")

    def blocks(self, split: str, context: int) -> int:
        """How many sequences of that length the split has; at least one, or a ValueError says what to do."""
        count = self.record["splits"][split]["tokens"] // context
        if count == 0:
            held = self.record["splits"][split]["tokens"]
            raise ValueError(
                f"context is {context:,}, but the {split} text has {held:,} tokens; take more text or a shorter context"
            )
        return count


class Sequences(torch.utils.data.Dataset):
    """``count`` sequences of a split; what the i-th one is depends on the seed and i alone.

    Every epoch, a pass over the text, has its own order. With no seed, the order of the text.
    """

    def __init__(self, corpus: Corpus, split: str, context: int, count: int, seed: int | None = None) -> None:
        self.tokens = corpus.tokens(split)
        self.context, self.count, self.seed = context, count, seed
        self.blocks = corpus.blocks(split, context)
        self._order: tuple[int, np.ndarray] | None = None  # of the epoch that was asked for last

    def __len__(self) -> int:
        return self.count

    def block(self, i: int) -> int:
        """Which block of the text the i-th sequence is."""
        epoch, place = divmod(i, self.blocks)
        if self.seed is None:
            return place
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.blocks)
        return int(self._order[1][place])

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        if not 0 <= i < self.count:
            raise IndexError(i)
        first = self.block(i) * self.context
        ids = torch.from_numpy(self.tokens[first : first + self.context].astype(np.int64))
        return {"input_ids": ids, "labels": ids}

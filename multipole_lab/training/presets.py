"""Two sizes of the same experiment: for a laptop, and as in MuSe's paper."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from multipole_lab.printing import changed
from multipole_lab.training.limits import (
    check_megabytes,
    check_number,
    check_positive_integer,
    check_vocab,
)

# What a Trainer calls the precision, and what computes in it: float32 weights under autocast.
PRECISIONS = {"no": "float32", "bf16": "bfloat16 autocast", "fp16": "float16 autocast"}
MODES = tuple(PRECISIONS)
POSITIVE = (
    "layers", "width", "heads", "mlp", "vocab", "context", "batch", "accumulate", "steps", "every", "heldout_blocks",
)  # fmt: skip


@dataclass(frozen=True)
class Preset:
    """A model, its data and its schedule; every field can be changed on the command line or with ``replace``.

    Parameters
    ----------
    layers, width, heads, mlp : of the model; a head is ``width / heads`` wide.
    vocab : tokens of the byte-pair tokenizer.
    context : tokens in one sequence.
    batch : sequences in one forward pass of one process.
    accumulate : forward passes in one step.
    steps : of the optimizer. warmup : of them, linear; a cosine falls to a tenth of ``rate`` over the others.
    rate : the peak learning rate. decay : AdamW's weight decay. clip : the largest norm of a gradient.
    precision : "no" (float32), "bf16" or "fp16": autocast over float32 weights.
    muse_layers : the layers whose attention is ``method``, counted from 0 (the paper: one in the middle).
    method : the approximation, as one would type it.
    every : steps between two looks at the held-out text, and between two checkpoints.
    heldout_blocks : held-out sequences looked at, at most.
    megabytes : of text at most; None for all.

    Raises
    ------
    ValueError : on creation, for values that do not fit together.
    """

    layers: int = 3
    width: int = 128
    heads: int = 2
    mlp: int = 352
    vocab: int = 2048
    context: int = 2048
    batch: int = 2
    accumulate: int = 1
    steps: int = 300
    warmup: int = 30
    rate: float = 3e-3
    decay: float = 0.1
    clip: float = 1.0
    precision: str = "no"
    muse_layers: tuple[int, ...] = (1,)
    # 2,048 tokens are fewer than k-means pays at on a CPU; blocks in the order of the text cost nothing to find.
    method: str = "MuSe(clusters=4, leaf=512, partition='runs')"
    every: int = 100
    heldout_blocks: int = 16
    megabytes: float | None = 6.0

    __repr__ = changed

    def __post_init__(self) -> None:
        for name in POSITIVE:
            check_positive_integer(name, getattr(self, name))
        if self.width % self.heads or self.width // self.heads % 2:
            raise ValueError(
                f"width is {self.width} and heads {self.heads}; width / heads must be an even number, for RoPE"
            )
        if self.context < 2:
            raise ValueError(f"context is {self.context}; at least 2 is needed: each token predicts the next")
        check_vocab(self.vocab)
        if not 0 <= self.warmup <= self.steps:
            raise ValueError(f"warmup is {self.warmup}; 0 to steps = {self.steps} is allowed")
        check_number("rate", self.rate, "a positive learning rate", above=True)
        check_number("decay", self.decay, "a number of at least 0")
        check_number("clip", self.clip, "a number of at least 0")
        if self.precision not in MODES:
            raise ValueError(f"precision is {self.precision!r}; allowed are {', '.join(map(repr, MODES))}")
        if isinstance(self.muse_layers, str) or not isinstance(self.muse_layers, Iterable):
            raise ValueError(f"muse_layers is {self.muse_layers!r}; a tuple of layers is needed")
        wrong = [layer for layer in self.muse_layers if layer not in range(self.layers)]
        if wrong or not self.muse_layers:
            raise ValueError(
                f"muse_layers is {list(self.muse_layers)}; the model has layers 0 to {self.layers - 1}"
            )
        check_megabytes(self.megabytes)

    def replace(self, **changes: object) -> Preset:
        """A copy with other values, checked again; a value of None changes nothing."""
        known = {field.name for field in dataclasses.fields(self)}
        if unknown := sorted(set(changes) - known):
            raise ValueError(f"{', '.join(unknown)}: no such setting; there are {', '.join(sorted(known))}")
        changes = {name: value for name, value in changes.items() if value is not None}
        steps = changes.get("steps")
        if steps is not None and "warmup" not in changes:  # a short run warms up for a tenth of it at most
            changes["warmup"] = min(self.warmup, steps // 10)
        return dataclasses.replace(self, **changes)

    def tokens_per_step(self, processes: int = 1) -> int:
        """Tokens that one step of the optimizer learns from."""
        return self.context * self.batch * self.accumulate * processes

    def to_dict(self) -> dict:
        """All settings, as JSON has them."""
        return {**dataclasses.asdict(self), "muse_layers": list(self.muse_layers)}


PRESETS = {
    "tiny": Preset(),
    # 2509.10406, section 5: 7 layers, MuSe in the central one, 16k tokens of PG-19; about 30M parameters.
    # Clusters are runs of the text: k-means, which the paper has, takes longer than it saves on an H100 at this length.
    # Four sequences a step: with two, an H100 waits for the host to start MuSe's kernels.
    "paper": Preset(
        layers=7, width=512, heads=8, mlp=1344, vocab=8192, context=16_384, batch=4, steps=2000, warmup=100,
        rate=1e-3, precision="bf16", muse_layers=(3,),
        method="MuSe(clusters=128, query_clusters=16, leaf=1024, partition='runs')", every=200, heldout_blocks=24,
        megabytes=None,
    ),
}  # fmt: skip


def dry(preset: Preset) -> Preset:
    """Two steps of the same experiment, an eighth as wide: does everything fit together, before a GPU is asked for?

    Layers, context and method stay; width, vocabulary and text shrink, so that a CPU does it in a few minutes.
    """
    heads = max(1, preset.heads // 4)
    return preset.replace(
        width=max(heads * 16, preset.width // 8), heads=heads, mlp=max(32, preset.mlp // 8), batch=1, accumulate=1,
        vocab=min(preset.vocab, 1024), steps=2, warmup=1, every=2, heldout_blocks=1, megabytes=2.0, precision="no",
    )  # fmt: skip

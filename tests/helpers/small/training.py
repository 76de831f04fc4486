"""A training run that takes a second, and what is read of it."""

from multipole_lab.training import Preset

SMALL = Preset(
    layers=3, width=16, heads=1, mlp=16, vocab=300, context=64, batch=2, steps=6, warmup=2, every=2,
    heldout_blocks=2, method="MuSe(clusters=4, leaf=16)", megabytes=None,
)  # fmt: skip


def losses(rows: list[dict]) -> dict[int, float]:
    """The training loss of every step."""
    return {row["step"]: row["loss"] for row in rows if "loss" in row}

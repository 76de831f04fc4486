"""What the table is made of: a tile, the targets that it is for, and where its time was measured, if it was."""

from __future__ import annotations

from dataclasses import dataclass

HEADS = (64, 128, 256)
WIDTHS = (2, 4)


@dataclass(frozen=True)
class Target:
    """A CUDA compute capability (for example 90) and the KB of shared memory that a program may use."""

    capability: int
    shared_kb: int


@dataclass(frozen=True)
class Tile:
    """rows: the edge that a program keeps; cols: the edge that it walks over in steps."""

    rows: int
    cols: int
    warps: int = 4
    stages: int = 2


@dataclass(frozen=True)
class Measured:
    """Where and when a time was taken: the GPU, the date, the file that has it."""

    gpu: str
    date: str
    record: str


@dataclass(frozen=True)
class Row:
    """`tile` is for at least `shared_kb` KB, head sizes up to `head`, elements of up to `width` bytes, and
    compute capabilities from `capability` on. measured: None for a tile that was compiled only."""

    shared_kb: int
    head: int
    width: int
    tile: Tile
    capability: int = 0
    measured: Measured | None = None


# With each of these files the table had the tiles that bear its name. All of bf16.
_H100 = "NVIDIA H100 80GB HBM3"
KERNELS = Measured(_H100, "2026-11-24", "data/benchmarks/kernels/h100-kernels.json")
KMEANS = Measured(_H100, "2026-11-24", "data/benchmarks/kernels/h100-kmeans-128.json")
ATTENTION = Measured(_H100, "2026-11-23", "data/benchmarks/attention/h100-attention-32x128.json")
RUNS = Measured(_H100, "2026-11-24", "data/benchmarks/attention/h100-attention-runs-32x128.json")
DECODE = Measured(_H100, "2026-11-24", "data/benchmarks/decode/h100-decode.json")


def row(shared_kb: int, head: int, width: int, tile: tuple, capability: int = 0) -> Row:
    """A row whose tile is (rows, cols, warps, stages), with `Measured` behind them where it was measured."""
    *sizes, last = tile
    measured = last if isinstance(last, Measured) else None
    return Row(shared_kb, head, width, Tile(*(sizes if measured else tile)), capability, measured)


def rows_of(lines: dict[int | tuple[int, int], tuple]) -> tuple[Row, ...]:
    """The rows of the lines of one kernel, most demanding first; a line is for KB, or for (KB, capability)."""
    sizes = [(head, width) for width in WIDTHS for head in HEADS]
    rows = []
    for key, line in lines.items():
        shared_kb, capability = key if isinstance(key, tuple) else (key, 0)
        rows += (row(shared_kb, *size, tile, capability) for size, tile in zip(sizes, line, strict=True))
    return tuple(sorted(rows, key=lambda row: (-row.capability, -row.shared_kb, row.width, row.head)))

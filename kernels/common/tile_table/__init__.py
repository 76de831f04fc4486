"""The tile sizes, by room, as `tiles.choose` reads them: (rows, cols, warps, stages) and, last, where it was measured.

A line is the least shared memory in KB, or that and the least compute capability, and the tiles for head sizes
up to 64, 128 and 256 in half precision, then in fp32. They are large tiles that neither spill nor overflow at
compute capabilities 9.0 and 10.0 (227 KB), 8.0 (163), 8.6, 8.9 and 12.0 (99) and 7.5 (64), where products run
without tensor cores and there is no bfloat16: kernels run all the same, several times slower.
cols are 16 or more, which Triton 3.6 asks of the inner edge of a product; rows may be fewer. In fp32 an inner edge
of 16 comes with fewer than 64 rows: with 64, which a warp group multiplies, Triton 3.6 reads beyond shared memory.

A tile with a name behind its sizes, such as KERNELS, was measured: a time with this very tile is on record (`entry`
says where and when). A tile without was only compiled, by `multipole-lab kernels`, and its speed is not known.
"""

from . import clustering, decode, exact, muse, runs
from .entry import row, rows_of

TABLE = {
    kernel: rows_of(lines) for room in (clustering, exact, muse, runs) for kernel, lines in room.TILES.items()
} | {
    kernel: tuple(row(*key[:3], tile, *key[3:]) for key, tile in rows.items())
    for kernel, rows in (decode.TILES | clustering.BY_SIZE).items()
}

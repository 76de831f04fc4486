"""Tiles of the decoding kernels: (KB of shared memory, padded size, bytes[, capability]) and (rows, cols, warps, ...).

decode_lookup : cols = centroids a program, rows = dimensions multiplied at a time. decode_sketch : the same where
clusters have sketches; rows = members of theirs a step. decode_select : by the clusters of a level; cols = clusters
held in registers, rows = masses held in registers.
decode_attend : cols = keys a step. decode_merge : rows = partials a step.
"""

from __future__ import annotations

from .entry import DECODE, KERNELS

TILES = {
    "decode_lookup": {
        (163, 128, 2): (128, 64, 4, 1, DECODE),
        (99, 256, 2): (64, 64, 4, 1),
        (99, 256, 4): (64, 32, 4, 1),
        (0, 256, 4): (32, 32, 4, 1),
    },
    "decode_sketch": {
        (99, 256, 2): (32, 8, 1, 1),
        (99, 256, 4): (64, 32, 4, 1),
        (0, 256, 4): (32, 16, 4, 1),
    },
    "decode_select": {
        (0, 1024, 4): (4096, 1024, 4, 1, KERNELS),
        (0, 2048, 4): (8192, 2048, 8, 1),
        (0, 1 << 30, 4, 100): (8192, 2048, 16, 1),  # 4096 spill there
        (0, 1 << 30, 4): (8192, 4096, 8, 1),
    },
    "decode_attend": {
        (99, 128, 2, 120): (16, 32, 4, 2),
        (99, 128, 2): (16, 32, 4, 3, DECODE),
        (99, 128, 4): (16, 32, 8, 2),
        (0, 128, 2): (16, 32, 4, 2),
        (0, 256, 4): (16, 16, 4, 1),
    },
    "decode_merge": {
        (0, 128, 4): (32, 1, 4, 1, DECODE),
        (0, 256, 4): (16, 1, 4, 1),
    },
}

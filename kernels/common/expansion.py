"""What every expansion around centroids starts from: how far queries lie from the centroid of their cluster."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def displacement(b_q, b_p):
    """d = q - p [BM, BD] of queries b_q [BM, BD] from one centroid b_p [BD]: subtracted in fp32, in the dtype of q."""
    return (b_q.to(tl.float32) - b_p.to(tl.float32)[None, :]).to(b_q.dtype)

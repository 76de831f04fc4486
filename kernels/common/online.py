"""One step of the online softmax, which every attention over tiles of keys takes."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def softmax_step(b_out, b_max, b_sum, b_s, b_v, PRECISION: tl.constexpr):
    """Add keys of logits b_s [BM, BN] and values b_v [BN, BDV] to b_out [BM, BDV], b_max and b_sum [BM].

    out = b_out / b_sum and lse = b_max + log b_sum at the end; a row whose logits are all -inf stays empty.
    """
    b_new = tl.maximum(b_max, tl.max(b_s, axis=1))
    b_shift = tl.where(b_new > float("-inf"), b_new, 0.0)
    b_w = tl.exp(b_s - b_shift[:, None])
    b_keep = tl.exp(b_max - b_shift)
    b_sum = b_sum * b_keep + tl.sum(b_w, axis=1)
    b_out = tl.dot(b_w.to(b_v.dtype), b_v, b_out * b_keep[:, None], input_precision=PRECISION)
    return b_out, b_new, b_sum

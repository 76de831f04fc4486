"""The online softmax, which every attention over tiles of keys is made of: start, step, merge, result."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def softmax_start(BM: tl.constexpr, BDV: tl.constexpr):
    """b_out [BM, BDV], b_max and b_sum [BM] of rows that have seen no key."""
    b_max = tl.full([BM], float("-inf"), dtype=tl.float32)
    b_sum = tl.zeros([BM], dtype=tl.float32)
    return tl.zeros([BM, BDV], dtype=tl.float32), b_max, b_sum


@triton.jit
def softmax_weights(b_s, b_max, b_sum):
    """The weights of keys of logits b_s [BM, BN], what to multiply earlier sums of values by, the new b_max and b_sum.

    A row whose logits are all -inf stays empty. Also for one row: b_s [BN], the others scalars.
    """
    b_new = tl.maximum(b_max, tl.max(b_s, axis=-1))
    b_shift = tl.where(b_new > float("-inf"), b_new, 0.0)
    b_w = tl.exp(b_s - tl.expand_dims(b_shift, -1))
    b_keep = tl.exp(b_max - b_shift)
    return b_w, b_keep, b_new, b_sum * b_keep + tl.sum(b_w, axis=-1)


@triton.jit
def softmax_step(b_out, b_max, b_sum, b_s, b_v, PRECISION: tl.constexpr, SPLIT: tl.constexpr = False):
    """Add keys of logits b_s [BM, BN] and values b_v [BN, BDV] to b_out [BM, BDV], b_max and b_sum [BM].

    A row whose logits are all -inf stays empty. SPLIT: in half precision the weights are the sum of two numbers, so
    that nothing is lost by rounding them; for kernels that wait for memory and not for products.
    """
    b_w, b_keep, b_max, b_sum = softmax_weights(b_s, b_max, b_sum)
    b_high = b_w.to(b_v.dtype)
    b_out = tl.dot(b_high, b_v, b_out * b_keep[:, None], input_precision=PRECISION)
    if SPLIT and b_v.dtype != tl.float32:
        b_out = tl.dot((b_w - b_high.to(tl.float32)).to(b_v.dtype), b_v, b_out)
    return b_out, b_max, b_sum


@triton.jit
def softmax_merge(b_out, b_max, b_sum, b_there, b_lse):
    """Add a finished partial, b_there [BM, BDV] with its b_lse [BM], to b_out, b_max and b_sum."""
    b_new = tl.maximum(b_max, b_lse)
    b_shift = tl.where(b_new > float("-inf"), b_new, 0.0)
    b_keep, b_share = tl.exp(b_max - b_shift), tl.exp(b_lse - b_shift)
    b_out = b_out * b_keep[:, None] + b_there.to(tl.float32) * b_share[:, None]
    return b_out, b_new, b_sum * b_keep + b_share


@triton.jit
def softmax_mean(b_out, b_sum):
    """out = b_out / b_sum [BM, BDV], of one row [BDV]; 0 for rows that saw no key."""
    return b_out / tl.expand_dims(tl.where(b_sum == 0, 1.0, b_sum), -1)


@triton.jit
def softmax_lse(b_max, b_sum):
    """lse = b_max + log b_sum [BM]; -inf for rows that saw no key."""
    return tl.where(b_sum == 0, float("-inf"), b_max + tl.log(tl.where(b_sum == 0, 1.0, b_sum)))


@triton.jit
def softmax_result(b_out, b_max, b_sum):
    """`softmax_mean` and `softmax_lse`. A kernel that is short of registers takes and stores one after the other."""
    return softmax_mean(b_out, b_sum), softmax_lse(b_max, b_sum)


@triton.jit
def load_lse(lse, o_rows, m_rows):
    """The lse of rows o_rows [BM] for a backward: +inf, and so every exp(s - lse) 0, for rows that saw no key."""
    b_lse = tl.load(lse + o_rows, mask=m_rows, other=float("inf"))
    return tl.where(b_lse > float("-inf"), b_lse, float("inf"))

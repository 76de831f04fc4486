"""Query heads that share key heads, in every operator, ragged and in half precision: what fp32 gives, results and
gradients. With sizes as users have them: what was wrong once on a GPU was right with small ones, and where the kernels
are interpreted."""

from dataclasses import replace

import pytest
import torch

import multipole_lab as ml
from multipole_lab.testing import assert_close

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels are interpreted here")

HALF = (torch.float16, torch.bfloat16)
N, C, D, LEAF = 2049, 64, 64, 1024
NAMES = ("out", "lse", "dq", "dk", "dv")
RUNS = ml.MuSe(clusters=C, leaf=LEAF, partition="runs")
OPERATORS = {
    "exact": (ml.MuSe(clusters=C, leaf=N), True),
    "muse": (ml.MuSe(clusters=C, iterations=0), False),
    "muse_causal": (ml.MuSe(clusters=C, iterations=0, leaf=LEAF), True),
    "muse_merged": (ml.MuSe(clusters=C, iterations=0, leaf=LEAF, levels="merged"), True),
    "runs full": (RUNS, False),
    "runs causal": (RUNS, True),
}


def found(method, tensors, causal):
    """Results and gradients, of both results."""
    x = [y.clone().requires_grad_() for y in tensors]
    out, lse = method(*x, causal=causal, return_lse=True)
    loss = out.float().square().sum() + lse.float().sin().sum()
    return dict(zip(NAMES, (out.detach(), lse.detach(), *torch.autograd.grad(loss, x)), strict=True))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("heads", [(4, 1), (8, 2)])
@pytest.mark.parametrize("name", OPERATORS)
def test_grouped_heads_in_half_precision_give_what_fp32_gives(name, heads, dtype, poisoned):
    """Clusters are found by the same kernels of the same numbers, and of runs by none."""
    method, causal = OPERATORS[name]
    method = replace(method, backend="triton")
    g = torch.Generator().manual_seed(7)
    Hq, Hk = heads
    half = [torch.randn(1, h, N, D, generator=g).to("cuda", dtype) for h in (Hq, Hk, Hk)]
    got, want = found(method, half, causal), found(method, [x.float() for x in half], causal)
    for key in NAMES:
        assert_close(key, got[key], want[key], error=4e-2 if dtype == torch.bfloat16 else 1e-2)

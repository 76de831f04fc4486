"""The exact leaf against the oracle, over all keys and in a band."""

import pytest
import torch

from multipole_lab.kernels.common.visible import Band
from multipole_lab.kernels.exact.leaf import leaf
from multipole_lab.testing import assert_close, oracle, relative_error

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(DEVICE == "cpu", reason="interpreted bfloat16 is wrong")]
DTYPES = [torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=ON_GPU)]


def by_the_oracle(q, k, v, scale, seen):
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    return oracle.exact(q, k, v, scale, seen)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize(
    "case",
    [
        (1, 1, 1, 1, 1, 16, 16, True, False),
        (2, 4, 1, 63, 127, 40, 64, True, True),
        (1, 3, 1, 127, 63, 96, 16, True, False),
        (1, 3, 3, 130, 63, 64, 128, False, True),
        (1, 8, 1, 63, 63, 128, 40, False, False),
        (1, 1, 1, 150, 500, 64, 64, True, False),
        (1, 1, 1, 70, 100, 256, 256, True, False),
    ],
    ids=lambda c: "-".join(map(str, c)),
)
def test_forward_and_backward(case, dtype, poisoned):
    check(case, None, dtype)


BANDS = [
    ((1, 2, 1, 150, 150, 16, 16, True, False), Band(20, 0, 4)),
    ((2, 2, 1, 131, 300, 32, 16, True, True), Band(0, 0, 70)),
    ((1, 1, 1, 300, 131, 16, 32, True, False), Band(40, 0, 3)),
    ((1, 2, 2, 300, 300, 16, 16, False, True), Band(9, 100, 0)),
    ((1, 2, 1, 200, 90, 16, 16, False, False), Band(7, 5, 33)),
    ((1, 1, 1, 40, 50, 16, 16, False, False), Band(500, 500, 90)),
]


@pytest.mark.parametrize("dtype", DTYPES[::2], ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize(("case", "band"), BANDS, ids=lambda c: "-".join(map(str, c)))
def test_a_band_with_sinks(case, band, dtype, poisoned):
    check(case, band, dtype)


def check(case, band, dtype):
    B, Hq, Hk, Nq, Nk, D, Dv, causal, masked = case
    g = torch.Generator().manual_seed(0)
    shapes = ((B, Hq, Nq, D), (B, Hk, Nk, D), (B, Hk, Nk, Dv))
    q, k, v = (torch.randn(s, generator=g).to(dtype).to(DEVICE) for s in shapes)
    valid = (torch.rand(B, Nk, generator=g) > 0.2).to(DEVICE) if masked else None
    kept = None if valid is None else valid[:, None].cpu()
    seen = oracle.visible(Nq, Nk, causal, kept)
    if band is not None:
        at, key = torch.arange(Nq)[:, None] + Nk - Nq, torch.arange(Nk)
        seen = seen & ((key < band.sinks) | ((key >= at - band.behind) & (key <= at + band.ahead)))
    seen = seen.to(DEVICE)
    sees = seen.any(-1).expand(B, Hq, Nq)
    grad_out = torch.randn(B, Hq, Nq, Dv, generator=g).to(dtype).to(DEVICE)
    grad_lse = torch.randn(B, Hq, Nq, generator=g).to(DEVICE) * sees

    def run(attend, kind):
        leaves = [x.to(kind).requires_grad_() for x in (q.clone(), k.clone(), v.clone())]
        out, lse = attend(*leaves)
        torch.autograd.backward((out, lse.masked_fill(~sees, 0)), (grad_out.to(out), grad_lse.to(lse)))
        return {
            "out": out,
            "lse": lse.masked_fill(~sees, 0),
            **dict(zip("qkv", (x.grad for x in leaves), strict=True)),
        }

    exact = run(lambda *x: by_the_oracle(*x, D**-0.5, seen), torch.float64)
    same = run(lambda *x: by_the_oracle(*x, D**-0.5, seen), dtype)
    got = run(lambda *x: leaf(*x, D**-0.5, causal, valid, band=band), dtype)
    for name, x in got.items():
        allowed = 1e-5 if dtype == torch.float32 else 2 * relative_error(same[name], exact[name]) + 1e-6
        assert_close(name, x, exact[name], error=allowed)


def test_a_query_that_sees_nothing():
    q = torch.randn(1, 1, 5, 16, device=DEVICE)
    out, lse = leaf(q, q[:, :, :3], q[:, :, :3], 0.25)
    assert (lse[0, 0, :2] == -torch.inf).all()
    assert (out[0, 0, :2] == 0).all()

"""Centroid replacement by the kernels against the equations in float64, forward and backward."""

import pytest
import torch

from multipole_lab.clustering.clusters import Clusters
from multipole_lab.kernels.centroid.replace import centroid_field, member_means
from multipole_lab.kernels.exact.leaf import leaf
from multipole_lab.testing import assert_close, oracle, relative_error

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(DEVICE == "cpu", reason="interpreted bfloat16 is wrong")]
DTYPES = [torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=ON_GPU)]


def plain(q, mean_k, mean_v, counts, scale, replaced):
    """The clusters that are replaced, row by row."""
    rows = []
    for r, size in enumerate(counts.to(q.dtype)):
        at = oracle.Summary(size.log(), mean_k[r], mean_v[r])
        logits, values = oracle.expanded(q[r], at, scale)
        rows.append(oracle.softmax_sum(logits, values[0], None if replaced is None else replaced[r]))
    return [torch.stack(x) for x in zip(*rows, strict=True)]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("choosy", [False, True], ids=["all", "some"])
@pytest.mark.parametrize(
    "case",
    [
        (1, 1, 1, 16, 16),
        (2, 63, 3, 40, 64),
        (1, 127, 64, 96, 16),
        (1, 63, 64, 128, 128),
        (1, 20, 3, 256, 256),
    ],
    ids=str,
)
def test_field_forward_and_backward(case, choosy, dtype, poisoned):
    R, M, J, D, Dv = case
    g = torch.Generator().manual_seed(0)
    tensors = [torch.randn(R, n, d, generator=g).to(dtype).to(DEVICE) for n, d in ((M, D), (J, D), (J, Dv))]
    counts = torch.randint(0 if J > 1 else 1, 9, (R, J), generator=g).to(DEVICE)
    counts[:, 0] = 5
    replaced = None
    if choosy:
        replaced = (torch.rand(R, M, J, generator=g) > 0.4).to(DEVICE)
        replaced[:, :, 0] = True
    grad_out, grad_lse = torch.randn(R, M, Dv, generator=g), torch.randn(R, M, generator=g)

    def run(attend, kind):
        leaves = [x.to(kind, copy=True).requires_grad_() for x in tensors]
        out, lse = attend(*leaves, counts, D**-0.5, replaced)
        torch.autograd.backward((out, lse), (grad_out.to(out), grad_lse.to(lse)))
        return {"out": out, "lse": lse, **dict(zip("qkv", (x.grad for x in leaves), strict=True))}

    exact, same, got = run(plain, torch.float64), run(plain, dtype), run(centroid_field, dtype)
    for name, x in got.items():
        allowed = 1e-5 if dtype == torch.float32 else 2 * relative_error(same[name], exact[name]) + 1e-6
        if exact[name].norm() >= 1e-12:
            assert_close(name, x, exact[name], error=allowed)


def test_nothing_replaced_is_a_partial_without_keys():
    q = torch.randn(1, 5, 16, device=DEVICE)
    means = torch.randn(1, 3, 16, device=DEVICE)
    nothing = torch.zeros(1, 5, 3, dtype=torch.bool, device=DEVICE)
    out, lse = centroid_field(q, means, means, torch.ones(1, 3, device=DEVICE), 0.25, nothing)
    assert (out == 0).all()
    assert (lse == -torch.inf).all()


def test_means_and_their_gradient(poisoned):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 127, 40, generator=g).to(DEVICE).requires_grad_()
    labels = torch.randint(-1, 9, (2, 127), generator=g).to(DEVICE)
    labels[labels == 4] = 3  # an empty cluster
    clusters = Clusters.from_labels(x.detach()[:, None], labels[:, None], 9)
    counts, order, offsets = (c.squeeze(1) for c in (clusters.counts, clusters.order, clusters.offsets))
    means = member_means(x, labels, counts, order, offsets)
    wide = x.detach().double().requires_grad_()
    expected = torch.stack([oracle.means(*row, 9) for row in zip(wide, labels, strict=True)])
    upstream = torch.randn(means.shape, generator=g).to(DEVICE)
    (dx,) = torch.autograd.grad(means, x, upstream)
    (dwide,) = torch.autograd.grad(expected, wide, upstream.double())
    assert_close("means", means, expected, error=1e-6)
    assert_close("dx", dx, dwide, error=1e-6)


def test_a_leaf_takes_a_mask_for_every_query_and_a_causal_one_at_once(poisoned):
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 63, 32, generator=g).to(DEVICE) for heads in (4, 2, 2))
    valid = (torch.rand(2, 63, 63, generator=g) > 0.3).to(DEVICE)
    bias = torch.randn(2, 63, generator=g).to(DEVICE)
    seen = (valid & torch.ones(63, 63, dtype=torch.bool, device=DEVICE).tril())[:, None]
    given = q.double(), *(x.double().repeat_interleave(2, 1) for x in (k, v))
    exact = oracle.exact(*given, 0.2, seen, bias.double()[:, None, None])
    out, lse = leaf(q, k, v, 0.2, True, valid, bias)
    blind = ~seen.any(-1).expand_as(lse)
    for name, ours, wanted in zip(("out", "lse"), (out, lse), exact, strict=True):
        assert_close(name, ours, wanted, rtol=1e-5, atol=1e-5)
    assert blind.any()

"""MuSe kernels against the oracle, in float64 and in the same dtype."""

import math

import pytest
import torch

from multipole_lab.clustering.clusters import Clusters
from multipole_lab.kernels.common.launch import recording
from multipole_lab.kernels.common.tiles import Target
from multipole_lab.kernels.muse.forward import muse
from multipole_lab.kernels.muse.select import select_near
from multipole_lab.testing import assert_close, oracle, relative_error

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def by_the_oracle(query_clusters, key_clusters, near, order, basis, scale):
    """The equations, in the dtype of what is given."""
    labels = query_clusters.labels, key_clusters.labels

    def attend(q, k, v):
        u = None if basis is None else basis.to(q.dtype)
        out, lse = oracle.over_heads(oracle.muse, q, k, v, *labels, u, near=near, s=scale, order=order)
        return out, lse.masked_fill(labels[0] < 0, 0)

    return attend


def problem(B, Hq, Hk, Nq, Nk, D, Dv, Cq, Ck, padded=True, seed=0):
    """Vectors with a common mean, random labels (so some clusters are empty) and padding at the end."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g)

    q = (normal(B, Hq, Nq, D) + normal(B, Hq, 1, D)).half().float()
    k = (normal(B, Hk, Nk, D) + normal(B, Hk, 1, D)).half().float()
    v = normal(B, Hk, Nk, Dv).half().float()
    q_label = torch.randint(Cq, (B, Hq, Nq), generator=g)
    k_label = torch.randint(Ck, (B, Hk, Nk), generator=g)
    if padded and Nq > 4 and Nk > 4:
        q_label[..., -1:], k_label[..., -2:] = -1, -1
    q, k, v, q_label, k_label = (x.to(DEVICE) for x in (q, k, v, q_label, k_label))
    return q, k, v, Clusters.from_labels(q, q_label, Cq), Clusters.from_labels(k, k_label, Ck)


def directions(q, clusters, rank):
    """Orthonormal random directions [B, H, C, D, rank]."""
    g = torch.Generator().manual_seed(1)
    square = torch.randn(*q.shape[:2], clusters, q.shape[-1], rank, generator=g)
    return torch.linalg.qr(square)[0].half().float().to(q)


def run(attend, q, k, v, grad_out, grad_lse):
    """out, lse and the three gradients."""
    leaves = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    out, lse = attend(*leaves)
    torch.autograd.backward((out, torch.where(grad_lse != 0, lse, 0)), (grad_out.to(out), grad_lse.to(lse)))
    return dict(zip(("out", "lse", "dq", "dk", "dv"), (out, lse, *(x.grad for x in leaves)), strict=True))


def kernel_of(query_clusters, key_clusters, near, order, basis, scale):
    def attend(q, k, v):
        sorts = (query_clusters.order, query_clusters.offsets, key_clusters.order, key_clusters.offsets)
        u = None if basis is None else basis.to(q.dtype)
        out, lse = muse(q, k, v, query_clusters.centroids, *sorts, scale, near, order, u)
        return out, lse.masked_fill(query_clusters.labels < 0, 0)

    return attend


def check(q, k, v, query_clusters, key_clusters, near, order, rank, dtype, scale=None):
    """fp32: 1e-5 relative; half precision: twice the error of the dense formula in that dtype."""
    scale = scale or q.shape[-1] ** -0.5
    basis = None if rank is None else directions(q, query_clusters.size, rank)
    grad_out = torch.randn(*q.shape[:3], v.shape[-1], generator=torch.Generator().manual_seed(2)).half().to(q)
    grad_lse = torch.randn(q.shape[:3], generator=torch.Generator().manual_seed(3)).to(q)
    grad_lse = grad_lse.masked_fill(query_clusters.labels < 0, 0)
    clusters = (query_clusters, key_clusters, near, order)

    def dense(kind):
        inputs = (x.to(kind) for x in (q, k, v))
        return run(by_the_oracle(*clusters, basis, scale), *inputs, grad_out, grad_lse)

    exact = dense(torch.float64)
    inputs = (x.to(dtype) for x in (q, k, v))
    got = run(kernel_of(*clusters, basis, scale), *inputs, grad_out, grad_lse)
    same = None if dtype == torch.float32 else dense(dtype)
    for name, reference in exact.items():
        allowed = (
            1e-5 if same is None else 2 * relative_error(same[name], reference) + torch.finfo(dtype).eps / 4
        )
        assert_close(name, got[name], reference, error=allowed)


# B, Hq, Hk, Nq, Nk, D, Dv, Cq, Ck, near, order, rank
CASES = [
    (1, 1, 1, 1, 1, 16, 16, 1, 1, 0, "monopole", None),
    (2, 3, 1, 63, 127, 40, 64, 3, 3, 1, "monopole", None),
    (1, 4, 1, 40, 63, 64, 96, 3, 5, 0, "dipole", 8),
    (1, 8, 1, 20, 24, 16, 16, 1, 3, 1, "dipole", None),
    (1, 1, 1, 63, 127, 96, 40, 3, 64, 4, "dipole", 3),
    (1, 1, 1, 63, 127, 128, 128, 5, 3, 0, "dipole", 16),
    (1, 2, 1, 40, 63, 256, 256, 2, 3, 1, "monopole", None),
    (1, 1, 1, 500, 500, 64, 64, 3, 3, 1, "dipole", 8),
    (1, 1, 1, 200, 1000, 32, 32, 16, 64, 2, "monopole", None),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c)))
def test_forward_and_backward(case, dtype, poisoned):
    *sizes, near, order, rank = case
    check(*problem(*sizes), near, order, rank, dtype)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter's bfloat16 products are wrong")
@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c)))
def test_bfloat16(case, poisoned):
    *sizes, near, order, rank = case
    check(*problem(*sizes), near, order, rank, torch.bfloat16)


@pytest.mark.parametrize("order", ["monopole", "dipole"])
def test_all_near_is_exact_attention(order):
    q, k, v, query_clusters, key_clusters = problem(1, 2, 1, 63, 80, 32, 32, 4, 5, padded=False)
    out, lse = kernel_of(query_clusters, key_clusters, 5, order, None, 0.3)(q, k, v)
    exact = oracle.over_heads(oracle.exact, *(x.double() for x in (q, k, v)), s=0.3)
    for name, ours, wanted in zip(("out", "lse"), (out, lse), exact, strict=True):
        assert_close(name, ours, wanted, rtol=1e-5, atol=1e-5)


def test_one_query_a_cluster_is_exact_attention():
    q, k, v, _, key_clusters = problem(1, 1, 1, 24, 80, 32, 32, 4, 5, padded=False)
    own = Clusters.from_labels(q, torch.arange(24, device=DEVICE).view(1, 1, 24), 24)
    out, _ = kernel_of(own, key_clusters, 0, "dipole", None, 0.3)(q, k, v)
    exact, _ = oracle.exact(q.double(), k.double(), v.double(), 0.3)
    assert_close("out", out, exact, rtol=1e-5, atol=1e-5)


def test_huge_logits_and_equal_keys_stay_finite():
    q, k, v, query_clusters, key_clusters = problem(1, 1, 1, 63, 80, 16, 16, 4, 5)
    k[:] = k[:, :, :1]
    k[:, :, 40:] *= 2
    result = run(
        kernel_of(query_clusters, key_clusters, 1, "dipole", None, 1e3), q, k, v,
        torch.ones_like(v[:, :, :1]).expand(1, 1, 63, 16), torch.ones(1, 1, 63, device=DEVICE),
    )  # fmt: skip
    for name, x in result.items():
        assert x.isfinite().all(), name


def test_strided_views_need_no_copy():
    """The blocks of a causal level are views: [P, H, L, D] of [1, H, P L, D]."""
    q, k, v, query_clusters, key_clusters = problem(2, 4, 2, 32, 48, 16, 32, 3, 4)

    def as_view(x):  # the batch dimension inside the sequence, as a causal level has it
        B, H, N, D = x.shape
        return x.transpose(0, 1).reshape(1, H, B * N, D).view(H, B, N, D).transpose(0, 1)

    attend = kernel_of(query_clusters, key_clusters, 1, "monopole", None, 0.25)
    views = [as_view(x) for x in (q, k, v)]
    assert not views[0].is_contiguous()
    for one, other in zip(attend(q, k, v), attend(*views), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_select_near_takes_the_largest_and_skips_the_empty():
    mass = torch.tensor([[0.5, 2.0, 2.0, -math.inf], [-math.inf, 1.0, -math.inf, -math.inf]], device=DEVICE)
    near, far, far_mass = select_near(mass.view(1, 1, 2, 4), 2)
    assert near.flatten(0, 2).tolist() == [[1, 2], [1, -1]]
    assert far[0, 0].tolist() == [[0.5, -math.inf, -math.inf, -math.inf], [-math.inf] * 4]
    torch.testing.assert_close(far_mass[0, 0], torch.tensor([0.5, -math.inf], device=DEVICE))


def test_refuses_unknown_order_and_head_counts():
    q = torch.zeros(1, 3, 4, 16, device="meta")
    k = torch.zeros(1, 2, 4, 16, device="meta")
    sorts = (
        torch.zeros(1, 3, 1, 16, device="meta"),
        *[torch.zeros(1, 1, 4, dtype=torch.int64, device="meta")] * 4,
    )
    with recording(Target(90, 227)):
        with pytest.raises(ValueError, match="multiple"):
            muse(q, k, k, *sorts, 1.0)
        with pytest.raises(ValueError, match="quadrupole"):
            muse(q, q, q, *sorts, 1.0, order="quadrupole")

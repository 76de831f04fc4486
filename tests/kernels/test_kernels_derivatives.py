"""Every derivative of every Function of the kernels is right or refused in words; none is dropped in silence."""

import sys
from dataclasses import replace

import pytest
import torch
from torch.autograd import forward_ad

import multipole_lab as ml
from multipole_lab import kernels
from multipole_lab.clustering.clusters import Clusters
from multipole_lab.kernels.apart.around import muse_around
from multipole_lab.kernels.centroid.replace import member_means
from multipole_lab.kernels.clustering.covariance import covariances
from multipole_lab.kernels.clustering.merge import merge_levels
from multipole_lab.kernels.common.derivatives import KernelFunction, Refused
from multipole_lab.kernels.common.layout import level_blocks
from multipole_lab.kernels.exact.leaf import leaf
from multipole_lab.kernels.muse import merged
from multipole_lab.kernels.muse.causal import muse_causal
from multipole_lab.kernels.muse.forward import muse
from multipole_lab.kernels.runs.muse import runs_muse
from multipole_lab.kernels.runs.tree import Tree

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
kernels.load_all()


def functions():
    """Every autograd Function that a module of the kernels defines."""
    found = set()
    for name, module in list(sys.modules.items()):
        if name.startswith("multipole_lab.kernels."):
            for f in vars(module).values():
                if isinstance(f, type) and issubclass(f, torch.autograd.Function) and f.__module__ == name:
                    found.add(f)
    return found - {KernelFunction, Refused}


def tensors(*shapes, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g).to(DEVICE) for shape in shapes]


Q, K, V = tensors((1, 2, 16, 16), (1, 1, 16, 16), (1, 1, 16, 16))
LABELS = torch.arange(16, device=DEVICE).view(1, 1, 16) % 2


def clusters(x):
    return Clusters.from_labels(x.detach(), LABELS[..., : x.shape[2]].expand(x.shape[:3]).contiguous(), 2)


def full(q, k, v):
    a, b = clusters(q), clusters(k)
    return muse(q, k, v, a.centroids, a.order, a.offsets, b.order, b.offsets, 0.25)


def level(q, k):
    a, b = (clusters(x) for x in level_blocks(q, k, 8))
    return a.centroids, a.order, a.offsets, b.order, b.offsets


def around(q, k, v):
    """Every second query around one of two others."""
    a, b = clusters(Q[:, :, ::2]), clusters(K)
    points = q[:, :, 1::8]
    return muse_around(q[:, :, ::2], k, v, points, a.order, a.offsets, b.order, b.offsets, 0.25, 1)


def means(q, k, v):
    c = clusters(k)
    out = member_means(k[0], *(x[0] for x in (c.labels, c.counts, c.order, c.offsets)))
    return out, out.new_zeros(())


def squares(q, k, v):
    a = clusters(Q)
    out = covariances(q + k.sum() + v.sum(), a.centroids, a.order, a.offsets)
    return out, out[..., 0]


def tree():
    """Of two leaves of eight positions."""
    a, b = (clusters(x[0].unflatten(1, (2, 8)).transpose(0, 1)) for x in (Q, K))
    keys = merge_levels(b.labels, b.centroids, b.counts, b.order, b.offsets)
    return merged.Tree(a.centroids, a.order, a.offsets, *keys)


TREE = tree()
CALLS = {
    "leaf": lambda q, k, v: leaf(q, k, v, 0.25),
    "muse": full,
    "muse_around": around,
    "muse_causal": lambda q, k, v: muse_causal(q, k, v, [level(q, k)], 8, 0.25),
    "muse_merged": lambda q, k, v: merged.muse_merged(q, k, v, TREE, 0.25),
    "runs_muse": lambda q, k, v: runs_muse(q, k, v, Tree.full(16, 16, 2, 2), 0.25),
    "member_means": means,
    "covariances": squares,
}
REFUSING = sorted(f.operation for f in functions() if not f.twice)


def test_every_function_has_the_refusals_and_is_tried_here():
    for f in functions():
        assert issubclass(f, KernelFunction), f
    assert {f.operation for f in functions()} == set(CALLS)


@pytest.mark.parametrize("of", [0, 1, 2], ids="qkv")
@pytest.mark.parametrize("operation", REFUSING)
def test_a_gradient_penalty_is_refused(operation, of):
    given = [x.clone().requires_grad_(i == of) for i, x in enumerate((Q, K, V))]
    # Not contiguous: what is saved must still be what came in.
    laid = [x.mT.contiguous().mT for x in given]
    out, _ = CALLS[operation](*laid)
    (grad,) = torch.autograd.grad(out.square().sum(), given[of], create_graph=True)
    with pytest.raises(NotImplementedError, match=f"{operation} has no second derivative.*allowed are first"):
        torch.autograd.grad(out.sum() + grad.square().sum(), given[of])
    with pytest.raises(NotImplementedError, match=f"{operation} has no second derivative"):
        (out.sum() + grad.square().sum()).backward()


@pytest.mark.parametrize("operation", REFUSING)
def test_a_graph_that_nobody_differentiates_again_does_no_harm(operation):
    given = [x.clone().requires_grad_() for x in (Q, K, V)]
    out, lse = CALLS[operation](*given)
    plain = torch.autograd.grad(
        (out, lse), given, (torch.ones_like(out), torch.ones_like(lse)), retain_graph=True
    )
    graph = torch.autograd.grad(
        (out, lse), given, (torch.ones_like(out), torch.ones_like(lse)), create_graph=True
    )
    for one, other in zip(plain, graph, strict=True):
        assert torch.equal(one, other)


def test_means_are_linear_so_their_second_derivative_is_right():
    k = K.clone().requires_grad_()
    out, _ = means(Q, k, V)
    (grad,) = torch.autograd.grad(out.pow(3).sum(), k, create_graph=True)  # 3 c^2 / n for every member
    (second,) = torch.autograd.grad(grad.sum(), k)
    c = clusters(k)
    expected = (6 * c.centroids / c.counts[..., None]).gather(2, c.labels[..., None].expand(K.shape))
    torch.testing.assert_close(second, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("operation", sorted(CALLS))
def test_forward_mode_is_refused(operation):
    with (
        forward_ad.dual_level(),
        pytest.raises(NotImplementedError, match=f"{operation} has no derivative in forward"),
    ):
        CALLS[operation](*(forward_ad.make_dual(x, torch.ones_like(x)) for x in (Q, K, V)))


TRANSFORMS = {
    "grad": lambda f: torch.func.grad(lambda q: f(q, K, V)[0].sum())(Q),
    "grad of k": lambda f: torch.func.grad(lambda k: f(Q, k, V)[0].sum())(K),
    "jvp": lambda f: torch.func.jvp(lambda k: f(Q, k, V)[0], (K,), (torch.ones_like(K),)),
    "vmap": lambda f: torch.func.vmap(lambda k: f(Q, k, V)[0])(torch.stack([K, K])),
}


@pytest.mark.parametrize("operation", sorted(CALLS))
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_transforms_of_torch_func_are_refused(operation, transform):
    c = clusters(K)
    calls = CALLS | {
        "muse": lambda q, k, v: muse(
            q, k, v, Q[:, :, :2], *[clusters(Q).order, clusters(Q).offsets, c.order, c.offsets], 0.25
        ),
        "member_means": lambda q, k, v: (
            member_means(k[0], c.labels[0], c.counts[0], c.order[0], c.offsets[0]),
        ),
        "muse_causal": lambda q, k, v: muse_causal(q, k, v, [level(Q, K)], 8, 0.25),
    }
    if operation == "member_means" and transform == "grad":
        pytest.skip("it takes no queries")
    with pytest.raises(NotImplementedError, match=r"cannot run inside a transform of torch\.func"):
        TRANSFORMS[transform](calls[operation])


def test_a_method_in_a_transform_is_refused_before_a_kernel_starts():
    for method in (
        ml.MuSe(clusters=2, leaf=8, backend="triton"),
        ml.Centroid(clusters=2, leaf=8, backend="triton"),
    ):
        for causal in (False, True):
            with pytest.raises(NotImplementedError, match=r"torch\.func"):
                torch.func.grad(lambda k, m=method, c=causal: m(Q, k, V, causal=c).sum())(K)


@pytest.mark.parametrize(
    "method", [ml.MuSe(clusters=2, near=1), ml.Centroid(clusters=2)], ids=["MuSe", "Centroid"]
)
def test_a_penalty_on_the_gradient_of_queries_alone(method):
    """By torch it is right; the words of the kernels' refusal promise that."""

    def penalty(q, backend):
        out = replace(method, backend=backend)(q, K.double() if backend == "torch" else K, V.to(q.dtype))
        (grad,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
        return grad.square().sum()

    q = Q.double().requires_grad_()
    (grad,) = torch.autograd.grad(penalty(q, "torch"), q)
    (way,) = (x.double() for x in tensors(Q.shape, seed=2))
    ends = [penalty((q + step * way).detach().requires_grad_(), "torch") for step in (1e-5, -1e-5)]
    torch.testing.assert_close((grad * way).sum(), (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=0)
    q = Q.clone().requires_grad_()
    with pytest.raises(NotImplementedError, match=r'has no second derivative.*backend="torch" have others'):
        penalty(q, "triton").backward()


def test_a_bias_that_wants_a_gradient_is_refused():
    bias = torch.zeros(1, 16, device=DEVICE, requires_grad=True)
    with pytest.raises(ValueError, match="bias requires a gradient"):
        leaf(Q, K, V, 0.25, bias=bias)
    with torch.no_grad():
        leaf(Q, K, V, 0.25, bias=bias)


def test_a_decoding_step_has_no_gradient_and_says_so():
    from multipole_lab.decoding.settings import Settings
    from multipole_lab.decoding.store.hierarchy import Hierarchy
    from multipole_lab.kernels.decode.step import decode_step

    hierarchy = Hierarchy(Settings(levels=1, budget=0.2, sinks=2, recent=4, fraction=0.25))
    hierarchy.append(*tensors((1, 1, 40, 16), (1, 1, 40, 16)))
    hierarchy.join()
    out, _ = decode_step(Q[:, :, :1].clone().requires_grad_(), hierarchy.state(), scale=0.25, budget=8)
    with pytest.raises(
        NotImplementedError, match=r"decode_step .* has no derivative; decode under torch.no_grad"
    ):
        out.sum().backward()


def spread(*shape):
    """Vectors whose principal directions are far apart in strength, as they are in trained models."""
    (x,) = tensors(shape)
    return x * torch.linspace(3, 0.3, shape[-1], device=DEVICE)


@pytest.mark.parametrize(("near", "cap"), [(0, 1.5), (1, None)])
@pytest.mark.parametrize("head", [16, 24])
def test_a_dipole_of_reduced_rank_has_one_gradient_whatever_the_backend(near, cap, head, poisoned):
    q, k = spread(1, 2, 40, head), spread(1, 1, 50, head)
    (v,) = tensors((1, 1, 50, 16), seed=1)
    grads = {}
    for backend in ("torch", "triton"):
        x = [y.clone().requires_grad_() for y in (q, k, v)]
        out = ml.MuSe(clusters=3, cap=cap, near=near, order="dipole", dipole_rank=3, backend=backend)(*x)
        grads[backend] = torch.autograd.grad(out.square().sum(), x)
    for name, got, expected in zip("qkv", grads["triton"], grads["torch"], strict=True):
        error = (got - expected).norm() / expected.norm()
        assert error < 2e-5, f"d{name}: {error:.1e}"


def test_that_gradient_is_the_one_of_finite_differences():
    """Clusters stay as they are over so small a step, so the directions are all that could be missing."""
    q, k, v = (
        x.cpu().double() for x in (spread(1, 1, 24, 16), spread(1, 1, 24, 16), *tensors((1, 1, 24, 16)))
    )
    method = ml.MuSe(clusters=2, order="dipole", dipole_rank=2, backend="torch")

    def loss(q):
        return method(q, k, v).square().sum()

    x = q.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(x), x)
    for way in tensors(q.shape, q.shape, seed=2):
        way = way.cpu().double()
        numeric = (loss(q + 1e-5 * way) - loss(q - 1e-5 * way)) / 2e-5
        torch.testing.assert_close((grad * way).sum(), numeric, rtol=1e-6, atol=0)

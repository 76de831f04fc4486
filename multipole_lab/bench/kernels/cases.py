"""The kernels of clustering and MuSe on real inputs: each with a plain torch way where there is one, and its error.

Every case takes its inputs from the kernels before it, as in use, and is compared with one head in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from multipole_lab.bench.kernels.oracle import Head, differing, error
from multipole_lab.kernels.report.problem import Problem
from multipole_lab.testing import oracle


@dataclass(frozen=True)
class Case:
    """One launcher, ready to be timed.

    kernel : its name in the compile report, whose formulas give bytes and operations.
    inputs : tensors that change from call to call. call : of the inputs. error : of what ``call`` returns.
    plain : the same work by torch alone, or None.
    """

    kernel: str
    inputs: tuple[Tensor, ...]
    call: Callable[..., object]
    error: Callable[[object], float]
    plain: Callable[..., object] | None = None


@dataclass(frozen=True)
class Setting:
    """q [B, Hq, N, D], k and v [B, Hk, N, D] of a problem, both clusterings, and the scale."""

    problem: Problem
    q: Tensor
    k: Tensor
    v: Tensor
    q_clusters: tuple[Tensor, ...]
    k_clusters: tuple[Tensor, ...]

    @property
    def scale(self) -> float:
        return self.q.shape[-1] ** -0.5

    def head(self) -> Head:
        """The first head, in float64."""
        q, k, v = (x[0, 0].detach().double() for x in (self.q, self.k, self.v))
        return Head(
            q, k, v, self.q_clusters[0][0, 0], self.k_clusters[0][0, 0], self.problem.clusters, self.scale
        )


def setting(p: Problem, q: Tensor, k: Tensor, v: Tensor) -> Setting:
    """Cluster queries and keys by the kernels, from evenly spread starting points."""
    from multipole_lab.kernels.clustering.kmeans import kmeans

    q_clusters, k_clusters = (kmeans(x, seeds(x, p.clusters), 1, 1.5) for x in (q, k))
    return Setting(p, q, k, v, q_clusters, k_clusters)


def seeds(x: Tensor, clusters: int) -> Tensor:
    """Every N/C-th vector, fp32."""
    return x[:, :, :: x.shape[2] // clusters][:, :, :clusters].float().contiguous()


def clustering_cases(s: Setting) -> Iterator[Case]:
    """assign, lloyd, sort_by_label, cluster_means, capped_rounds."""
    from multipole_lab.clustering.capped import capped_assignment
    from multipole_lab.kernels.clustering.assign import assign
    from multipole_lab.kernels.clustering.capped import capped_rounds
    from multipole_lab.kernels.clustering.centroids import cluster_means
    from multipole_lab.kernels.clustering.lloyd import fits, lloyd
    from multipole_lab.kernels.clustering.sort import sort_by_label

    C, x = s.problem.clusters, s.k
    centroids = seeds(x, C)
    labels, distances = assign(x, centroids)
    order, offsets, _ = sort_by_label(labels, C)
    exact = torch.cdist(x[0, 0].double(), centroids[0, 0].double()).square()
    best = exact.min(-1).values

    def nearest(x, centroids):
        return torch.baddbmm(
            centroids.square().sum(-1).flatten(0, 1)[:, None], x.float().flatten(0, 1), centroids.flatten(0, 1).mT,
            alpha=-2,
        ).argmin(-1)  # fmt: skip

    yield Case(
        "assign", (x, centroids), assign,
        lambda r: error(exact.gather(1, r[0][0, 0][:, None]).flatten(), best), nearest,
    )  # fmt: skip
    if fits(x, C):
        yield Case(
            "lloyd", (x, centroids), lambda x, c: lloyd(x, c, restart=False, sort=True),
            lambda r: error(r[1][0, 0], oracle.means(x[0, 0].double(), r[0][0, 0], C)),
        )  # fmt: skip
    yield Case(
        "sort_by_label", (labels,), lambda labels: sort_by_label(labels, C),
        lambda r: differing(r[0], labels.argsort(dim=-1, stable=True)),
        lambda labels: labels.argsort(dim=-1, stable=True),
    )  # fmt: skip
    yield Case(
        "cluster_means", (x, order, offsets), cluster_means,
        lambda r: error(r[0, 0], oracle.means(x[0, 0].double(), labels[0, 0], C)),
    )  # fmt: skip
    capacity = torch.full(
        labels.shape[:2], math.ceil(1.5 * x.shape[2] / C), dtype=torch.int32, device=x.device
    )
    placed = capped_assignment(x[0, :1].float(), centroids[0, :1], 1.5)
    yield Case(
        "capped_rounds", (x, centroids, labels, distances),
        lambda x, c, labels, distances: capped_rounds(x, c, labels.clone(), distances, order, offsets, capacity),
        lambda r: differing(r[0, 0], placed[0]),
    )  # fmt: skip


def muse_cases(s: Setting) -> Iterator[Case]:
    """summarise, select_near, dipole, evaluate, leaf, muse and muse_dipole with their gradients, centroid_field."""
    from multipole_lab.kernels.muse.dipole import dipole
    from multipole_lab.kernels.muse.evaluate import evaluate
    from multipole_lab.kernels.muse.forward import muse
    from multipole_lab.kernels.muse.select import select_near
    from multipole_lab.kernels.muse.summarise import summarise

    p, head = s.problem, s.head()
    _, q_means, _, q_order, q_offsets = s.q_clusters
    _, _, _, k_order, k_offsets = s.k_clusters
    points = q_means.to(p.dtype)
    mass, mean_k, mean_v = head.summaries()
    summary = partial(summarise, order=k_order, offsets=k_offsets, scale=s.scale)
    yield Case(
        "summarise", (points, s.k, s.v), summary,
        lambda r: max(error(r[0][0, 0], mass), error(r[1][0, 0], mean_k), error(r[2][0, 0], mean_v)),
    )  # fmt: skip
    masses, *means = summary(points, s.k, s.v)
    if p.near:
        yield Case(
            "select_near", (masses,), lambda mass: select_near(mass, p.near),
            lambda r: differing(r[0], masses.topk(p.near, dim=-1).indices), lambda mass: mass.topk(p.near, dim=-1),
        )  # fmt: skip
    near, far, far_mass = select_near(masses, p.near)
    is_near = far[0, 0] == -torch.inf
    g = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(*points.shape, p.rank, generator=g))[0].to(points)
    along = basis[0, 0].double()
    turning = partial(dipole, basis=basis, scale=s.scale, near=p.near > 0)
    moment = turning(points, s.k, s.v, k_order, k_offsets, far, far_mass, *means)
    yield Case(
        "dipole", (points, s.k, s.v, *means),
        lambda c, k, v, *of_keys: turning(c, k, v, k_order, k_offsets, far, far_mass, *of_keys),
        lambda r: error(r[0, 0], along.mT @ head.moment(is_near)),
    )  # fmt: skip
    sorts = q_order, q_offsets, k_order, k_offsets
    yield Case(
        "evaluate", (s.q, s.k, s.v, *means),
        lambda q, k, v, mean_k, mean_v: evaluate(
            q, k, v, points, *sorts, near, far, mean_k, mean_v, s.scale, basis, moment
        ),
        lambda r: error(r[0][0, 0], head.muse(is_near, along)[0]),
    )  # fmt: skip
    inputs = tuple(x.detach().requires_grad_() for x in (s.q, s.k, s.v))
    upstream = torch.randn(s.q.shape, generator=g).to(s.q)
    whole = {}
    for name, order, directions in (("muse", "monopole", None), ("muse_dipole", "dipole", basis)):

        def call(q, k, v, order=order, directions=directions):
            out, _ = muse(q, k, v, q_means, *sorts, s.scale, p.near, order, directions)
            return out, *torch.autograd.grad(out, (q, k, v), upstream)

        def check(r, directions=directions):
            kept = None if directions is None else along
            return head_error(head, r, upstream, lambda h: h.muse(is_near, kept)[0])

        whole[name] = Case(name, inputs, call, check, partial(exact_gradients, upstream=upstream))
    yield from whole.values()
    yield leaf_case(s)
    yield centroid_case(s)


def head_error(
    head: Head, r: tuple[Tensor, ...], upstream: Tensor, attend: Callable[[Head], Tensor]
) -> float:
    """The larger of the errors of out and of dq in the first head."""
    q = head.q.clone().requires_grad_()
    with torch.enable_grad():
        out = attend(Head(q, head.k, head.v, head.q_label, head.k_label, head.clusters, head.scale))
        (dq,) = torch.autograd.grad(out, q, upstream[0, 0].double())
    return max(error(r[0][0, 0], out), error(r[1][0, 0], dq))


def exact_gradients(q: Tensor, k: Tensor, v: Tensor, upstream: Tensor, causal: bool = False) -> tuple:
    """Exact attention by torch, and its gradients."""
    out = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]
    )
    return out, *torch.autograd.grad(out, (q, k, v), upstream)


def leaf_case(s: Setting) -> Case:
    """Causal leaves of 1,024 with their gradients."""
    from multipole_lab.kernels.exact.leaf import leaf

    size = min(1024, s.q.shape[2])

    def blocks(x: Tensor) -> Tensor:
        return x[0].unflatten(1, (-1, size)).transpose(0, 1).contiguous().requires_grad_()

    q, k, v = (blocks(x.detach()) for x in (s.q, s.k, s.v))
    upstream = torch.randn(q.shape, generator=torch.Generator().manual_seed(0)).to(q)

    def call(q, k, v):
        out, _ = leaf(q, k, v, s.scale)
        return out, *torch.autograd.grad(out, (q, k, v), upstream)

    def check(r):
        one = q[0, 0].detach().double().requires_grad_()
        with torch.enable_grad():
            keys = k[0, 0].double(), v[0, 0].double()
            out, _ = oracle.exact(one, *keys, s.scale, oracle.visible(size, size, causal=True).to(one.device))
            (dq,) = torch.autograd.grad(out, one, upstream[0, 0].double())
        return max(error(r[0][0, 0], out), error(r[1][0, 0], dq))

    return Case("leaf", (q, k, v), call, check, partial(exact_gradients, upstream=upstream, causal=True))


def centroid_case(s: Setting) -> Case:
    """Attention of all queries over the plain centroids of the keys, the means included."""
    from multipole_lab.kernels.centroid.replace import centroid_field, member_means as means

    labels, _, counts, order, offsets = (x.flatten(0, 1) for x in s.k_clusters)
    rows = s.k.shape[0] * s.k.shape[1]
    q, k, v = (x.reshape(rows, -1, x.shape[-1]) for x in (s.q, s.k, s.v))
    head = s.head()

    def call(q, k, v):
        mean_k, mean_v = (means(x, labels, counts, order, offsets).to(q.dtype) for x in (k, v))
        return centroid_field(q, mean_k, mean_v, counts, s.scale)

    def check(r):
        out, _ = oracle.centroid(head.q, head.k, head.v, head.k_label, s=s.scale)
        return error(r[0][0, : head.q.shape[0]], out)

    return Case("centroid_field", (q, k, v), call, check)

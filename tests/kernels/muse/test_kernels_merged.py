"""Clusters that come from the leaves: the kernels against torch, clusters, results and gradients."""

import pytest
import torch

import multipole_lab as ml
from multipole_lab.clustering.kmeans import kmeans as torch_kmeans
from multipole_lab.clustering.merging import merged_labels
from multipole_lab.kernels.clustering.merge import merge_levels
from multipole_lab.kernels.clustering.short import short_kmeans
from multipole_lab.kernels.muse.merged import Tree

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def vectors(*shape, dtype=torch.float32, seed=0):
    """Half of them close together, so that a cap has something to do."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    x[..., : shape[-2] // 2, :] *= 0.2
    return x.to(dtype).to(DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize(
    ("size", "iterations", "cap"),
    [((1, 2, 150, 24), 1, 1.5), ((2, 1, 70, 16), 2, 1.0), ((1, 1, 33, 16), 0, None), ((1, 1, 5, 16), 1, 1.1)],
    ids=str,
)
def test_one_program_clusters_a_row(size, iterations, cap, dtype, poisoned):
    x = vectors(*size, dtype=dtype)
    C = max(1, size[2] // 11)
    seeds = x[:, :, :: size[2] // C][:, :, :C].float().contiguous()
    got = short_kmeans(x, seeds, iterations, cap)
    expected = torch_kmeans(x, C, iterations, cap, init=seeds)
    assert torch.equal(got[0], expected.labels)
    for mine, theirs in zip(got[2:], (expected.counts, expected.order, expected.offsets), strict=True):
        assert torch.equal(mine, theirs)
    torch.testing.assert_close(got[1], expected.centroids, rtol=1e-5, atol=1e-5)


def test_empty_clusters_restart_in_one_program():
    x = vectors(1, 1, 60, 16)
    seeds = torch.cat([x[:, :, :3], torch.full((1, 1, 2, 16), 1e3, device=DEVICE)], 2)
    got, expected = short_kmeans(x, seeds, 1, 1.5), torch_kmeans(x, 5, 1, 1.5, init=seeds)
    assert torch.equal(got[0], expected.labels)


@pytest.mark.parametrize(("H", "blocks", "n", "C"), [(2, 8, 30, 12), (1, 2, 40, 5), (3, 4, 33, 20)])
def test_every_level_is_sorted_as_torch_does(H, blocks, n, C, poisoned):
    x = vectors(H, blocks * n, 24)
    leaves = torch_kmeans(x.view(H, blocks, n, 24).transpose(0, 1), C, 1, 1.5)
    order, offsets = merge_levels(
        leaves.labels, leaves.centroids, leaves.counts, leaves.order, leaves.offsets
    )
    tree = Tree(leaves.centroids, leaves.order, leaves.offsets, order, offsets)
    expected = merged_labels(x, leaves.labels.transpose(0, 1).reshape(H, -1), C, n)
    for level, labels in enumerate(expected):
        left = labels.view(H, -1, 2, n << level)[:, :, 0].transpose(0, 1)  # [pairs, H, size]
        in_order, ends = tree.keys(level)
        assert torch.equal(in_order, left.sort(dim=-1, stable=True).indices)
        assert torch.equal(ends.diff(dim=-1), torch.nn.functional.one_hot(left, C).sum(-2))


def test_words_for_what_cannot_merge():
    leaves = torch_kmeans(vectors(3, 1, 20, 16), 4)
    with pytest.raises(ValueError, match="3 blocks of 4 clusters; 2\\^levels blocks"):
        merge_levels(leaves.labels, leaves.centroids, leaves.counts, leaves.order, leaves.offsets)


def results(backend, tensors, **settings):
    tensors = [x.clone().requires_grad_() for x in tensors]
    method = ml.MuSe(levels="merged", backend=backend, **settings)
    out, lse = method(*tensors, causal=True, return_lse=True)
    return out, lse, *torch.autograd.grad(out.sin().sum() + lse.cos().sum(), tensors)


@pytest.mark.parametrize(
    ("heads", "N", "settings"),
    [
        ((1, 2, 1), 110, {"clusters": 8, "leaf": 32}),
        ((2, 2, 2), 63, {"clusters": 6, "leaf": 32, "near": 2, "cap": None}),
        ((1, 2, 2), 75, {"clusters": 5, "leaf": 40, "query_clusters": 3, "sinks": 2}),
    ],
    ids=str,
)
def test_results_and_gradients_are_those_of_torch(heads, N, settings, poisoned):
    B, Hq, Hk = heads
    tensors = [vectors(B, h, N, d, seed=i) for i, (h, d) in enumerate(((Hq, 16), (Hk, 16), (Hk, 24)))]
    expected = results("torch", tensors, **settings)
    for name, got, want in zip(
        ["out", "lse", "dq", "dk", "dv"], results("triton", tensors, **settings), expected, strict=True
    ):
        error = (got - want).norm() / want.norm()
        assert error < 1e-5, f"{name}: {error:.1e}"


def test_more_clusters_than_the_kernels_hold_are_merged_by_torch():
    tensors = [vectors(1, 1, 2 * 131, 16, seed=i) for i in range(3)]
    settings = {"clusters": 130, "leaf": 131, "query_clusters": 2, "cap": None}
    (got, *_), (want, *_) = (results(backend, tensors, **settings) for backend in ("triton", "torch"))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)

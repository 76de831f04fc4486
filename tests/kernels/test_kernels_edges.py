"""Launchers at the edge: no vectors, wrong shapes and dtypes, labels out of range, offsets beyond 2^31 elements."""

import re

import pytest
import torch

import multipole_lab as ml
from multipole_lab.clustering.clusters import Clusters
from multipole_lab.kernels.centroid.replace import centroid_field
from multipole_lab.kernels.clustering.assign import assign
from multipole_lab.kernels.clustering.centroids import cluster_means
from multipole_lab.kernels.clustering.kmeans import kmeans
from multipole_lab.kernels.clustering.lloyd import lloyd
from multipole_lab.kernels.clustering.sort import sort_by_label
from multipole_lab.kernels.common import layout
from multipole_lab.kernels.exact.leaf import leaf
from multipole_lab.kernels.muse.causal import muse_causal
from multipole_lab.kernels.muse.forward import muse
from multipole_lab.kernels.muse.select import select_near
from multipole_lab.kernels.report.probe import double
from multipole_lab.kernels.runs.muse import runs_muse
from multipole_lab.kernels.runs.tree import Tree

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def ones(*shape, dtype=torch.float32):
    return torch.ones(shape, dtype=dtype, device=DEVICE)


def full(q, k, v, **change):
    c, d = (Clusters.from_labels(x, torch.zeros_like(x[..., 0], dtype=torch.int64), 1) for x in (q, k))
    given = {
        "q_centroids": c.centroids, "q_order": c.order, "q_offsets": c.offsets, "k_order": d.order,
        "k_offsets": d.offsets,
    }  # fmt: skip
    return muse(q, k, v, scale=1.0, **(given | change))


ATTENTION = {
    "leaf": lambda q, k, v: leaf(q, k, v, 1.0),
    "muse": full,
    "muse_causal": lambda q, k, v: muse_causal(q, k, v, [], 8, 1.0),
    "runs_muse": lambda q, k, v: runs_muse(q, k, v, Tree.full(8, 8, 2, 2), 1.0),
}
Q = (2, 2, 8, 16)
WRONG = {
    "heads": (Q, (2, 3, 8, 16), (2, 3, 8, 16), "no multiple of the 3 heads"),
    "batch": (Q, (1, 1, 8, 16), (1, 1, 8, 16), "one batch"),
    "head size": (Q, (2, 1, 8, 24), (2, 1, 8, 24), "q and k of one head size"),
    "positions of v": (Q, (2, 1, 8, 16), (2, 1, 7, 16), "one number of heads and positions"),
    "heads of v": (Q, (2, 1, 8, 16), (2, 2, 8, 16), "one number of heads and positions"),
    "no batch": (Q[1:], (1, 8, 16), (1, 8, 16), r"q \[B, Hq, Nq, D\]"),
}


PAIRS = [(launcher, wrong) for launcher in ATTENTION for wrong in WRONG]
PAIRS.remove(("muse", "no batch"))  # whose clusters cannot be made


@pytest.mark.parametrize(("launcher", "wrong"), PAIRS)
def test_shapes_that_do_not_fit_are_refused(launcher, wrong):
    *shapes, words = WRONG[wrong]
    with pytest.raises(ValueError, match=rf"{launcher}: .*{words}"):
        ATTENTION[launcher](*(ones(*shape) for shape in shapes))


QKV = [ones(*Q)] * 3
BYTES, SHORT, LONG = torch.uint8, torch.int32, torch.int64
REFUSED = {
    "valid is torch.uint8": lambda: leaf(*QKV, 1.0, valid=ones(2, 8, dtype=BYTES)),
    "valid is torch.float32": lambda: leaf(*QKV, 1.0, valid=ones(2, 8)),
    "valid has shape (1, 8); (2, 8)": lambda: leaf(*QKV, 1.0, valid=ones(1, 8) > 0),
    "bias is torch.float16": lambda: leaf(*QKV, 1.0, bias=ones(2, 8).half()),
    "bias has shape (1, 8)": lambda: leaf(*QKV, 1.0, bias=ones(1, 8)),
    "bias has shape (2, 2)": lambda: centroid_field(*[ones(2, 3, 16)] * 3, ones(2, 2), 1.0),
    "C of 1 or more": lambda: kmeans(ones(*Q), ones(2, 2, 0, 16)),
    "centroids have shape (2, 1, 3, 16)": lambda: assign(ones(*Q), ones(2, 1, 3, 16)),
    "lloyd: valid is torch.uint8": lambda: lloyd(ones(*Q), ones(2, 2, 3, 16), ones(2, 8, dtype=BYTES)),
    "labels is torch.int32": lambda: sort_by_label(ones(2, 2, 8, dtype=SHORT), 3),
    "clusters is 0": lambda: sort_by_label(ones(2, 2, 8, dtype=LONG), 0),
    "mass is torch.float16": lambda: select_near(ones(1, 1, 2, 3).half(), 1),
    "order has shape (2, 2, 7)": lambda: cluster_means(
        ones(*Q), ones(2, 2, 7, dtype=LONG), ones(2, 2, 4, dtype=LONG)
    ),
    "k_order is torch.int32": lambda: full(*QKV, k_order=ones(2, 2, 8, dtype=SHORT)),
    "q_centroids have shape (2, 2, 2, 16)": lambda: full(*QKV, q_centroids=ones(2, 2, 2, 16)),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_would_be_read_wrongly_is_refused(words):
    with pytest.raises((TypeError, ValueError), match=re.escape(words)):
        REFUSED[words]()


@pytest.mark.parametrize("shape", [(1, 2, 0, 16), (0, 2, 9, 16), (1, 0, 9, 16)], ids=str)
@pytest.mark.parametrize("cap", [None, 1.5])
def test_clustering_nothing_gives_nothing(shape, cap, poisoned):
    B, H, N, D = shape
    labels, means, counts, order, offsets = kmeans(ones(*shape), ones(B, H, 3, D), 1, cap)
    assert (labels.shape, order.shape) == ((B, H, N), (B, H, N))
    assert (means.shape, counts.shape, offsets.shape) == ((B, H, 3, D), (B, H, 3), (B, H, 4))
    assert not counts.any()
    assert not offsets.any()


def test_more_clusters_than_vectors_leaves_some_empty(poisoned):
    x = torch.randn(1, 2, 5, 16, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    labels, means, counts, order, _ = kmeans(x, torch.cat([x, x], 2), 1, 1.5)
    assert all(len(set(row)) == 5 and {*row} <= {*range(10)} for row in labels[0].tolist())
    assert torch.equal(order.sort().values, torch.arange(5, device=DEVICE).expand(1, 2, 5))
    assert (counts.sum(-1) == 5).all()
    assert means.isfinite().all()


def test_labels_out_of_range_count_as_padding(poisoned):
    labels = torch.tensor([[[5, -1, 0, 1, -7, 2, 1 << 20]]], device=DEVICE)
    order, offsets, counts = sort_by_label(labels, 2)
    assert order.tolist() == [[[2, 3, 0, 1, 4, 5, 6]]]
    assert offsets.tolist() == [[[0, 1, 2]]]
    assert counts.tolist() == [[[1, 1]]]


def test_no_key_and_a_query_before_all_keys():
    q = ones(*Q)
    out, lse = leaf(q, q[:, :, :0], q[:, :, :0], 1.0, causal=False)
    assert not out.any()
    assert (lse == -torch.inf).all()
    out, lse = leaf(q, q[:, :, :3], q[:, :, :3], 1.0)  # five queries stand before all three keys
    assert (lse[:, :, :5] == -torch.inf).all()
    torch.testing.assert_close(out[:, :, 5:], torch.ones_like(out[:, :, 5:]))


def test_the_doctor_s_kernel_takes_any_strides():
    x = torch.arange(12.0, device=DEVICE).view(3, 4)
    for y in (x.T, x[:, ::2], x[:1].expand(5, 4), x[..., 0]):
        assert torch.equal(double(y), 2 * y)


def far_apart(path, shape, stride, seed):
    """Vectors ``stride`` elements apart, in a file that takes no space where nothing is written."""
    last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    x = torch.from_file(str(path), shared=True, size=last + 1, dtype=torch.float16).as_strided(shape, stride)
    return x.copy_(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.skipif(DEVICE != "cpu", reason="a file stands for memory here; a GPU has its own script")
@pytest.mark.parametrize(
    "stride", [(1 << 32, 1 << 30, 16, 1), (3, 5 << 20, 1 << 30, 1)], ids=["heads", "positions"]
)
@pytest.mark.parametrize(
    ("method", "causal"),
    [({}, False), ({"near": 1}, True), ({"order": "dipole"}, False), ({"partition": "runs"}, True)],
    ids=str,
)
def test_offsets_beyond_32_bits(method, causal, stride, tmp_path):
    x = [far_apart(tmp_path / str(i), (1, 3, 12, 16), stride, i) for i in range(3)]
    attend = ml.MuSe(clusters=2, leaf=6, backend="triton", **method)
    results = []
    for given in (x, [y.contiguous() for y in x]):
        given = [y.requires_grad_() for y in given]
        out = attend(*given, causal=causal)
        results.append((out, *torch.autograd.grad(out.float().square().sum(), given)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_positions_too_far_for_a_tile_are_copied():
    numbers = torch.zeros(layout.FARTHEST_STEP + 4, dtype=torch.int8)
    near, far = (numbers.as_strided((2, 3), (layout.FARTHEST_STEP + more, 1)) for more in (0, 1))
    assert layout.row_strided(near) is near
    assert layout.row_strided(far).is_contiguous()

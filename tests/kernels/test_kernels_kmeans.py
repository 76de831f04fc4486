"""k-means kernels against the torch clustering, label for label."""

import pytest
import torch

from multipole_lab.clustering.clusters import Clusters
from multipole_lab.clustering.kmeans import kmeans as torch_kmeans
from multipole_lab.kernels.clustering import capped, few
from multipole_lab.kernels.clustering.assign import assign
from multipole_lab.kernels.clustering.centroids import cluster_means
from multipole_lab.kernels.clustering.kmeans import capped_assign, kmeans, lloyd_iteration
from multipole_lab.kernels.clustering.lloyd import lloyd
from multipole_lab.kernels.clustering.sort import sort_by_label

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def vectors(B, H, N, D, dtype=torch.float32, seed=0):
    """Vectors with a common mean, half of them close together, so that a cap has something to do."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(B, H, N, D, generator=g)
    x[:, :, N // 2 :] *= 0.2
    return (x + 2 * torch.randn(B, H, 1, D, generator=g)).to(dtype).to(DEVICE)


def padding(B, N, kept):
    """[B, N]: the first batch entry is full, the others keep `kept` vectors."""
    mask = torch.ones(B, N, dtype=torch.bool, device=DEVICE)
    mask[1:, kept:] = False
    return mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize(
    "size",
    [(1, 1, 1, 16, 1), (2, 3, 63, 40, 3), (1, 1, 1000, 64, 64), (1, 2, 127, 96, 3), (1, 1, 63, 256, 64)],
    ids=str,
)
def test_assign_finds_the_nearest(size, dtype, poisoned):
    B, H, N, D, C = size
    x = vectors(B, H, N, D, dtype)
    centroids = vectors(B, H, C, D, seed=1)
    mask = padding(B, N, N // 2 + 1)
    labels, distances = assign(x, centroids, mask)
    exact = torch.cdist(x.double(), centroids.double()).square()
    valid = mask[:, None].expand(B, H, N)
    assert (labels[~valid] == -1).all()
    assert (distances[~valid] == -torch.inf).all()
    scale = exact.max().item()
    chosen = exact.gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
    assert (chosen - exact.min(-1).values)[valid].max() <= 1e-5 * scale
    torch.testing.assert_close(distances[valid].double(), chosen[valid], rtol=1e-5, atol=1e-5 * scale)


def test_assign_breaks_ties_to_the_lower_cluster():
    x = vectors(1, 1, 20, 16).round()  # sums of small integers are exact in any order, and so are the ties
    centroids = x[:, :, :1].repeat(1, 1, 70, 1)
    assert (assign(x, centroids)[0] == 0).all()


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_assign_names_a_cluster_where_distances_overflow():
    x = torch.full((1, 1, 5, 16), 1e25, device=DEVICE)
    labels, distances = assign(x, -x[:, :, :3])
    assert ((labels >= 0) & (labels < 3)).all()
    assert torch.isfinite(distances).all()


@pytest.mark.parametrize("N", [1, 63, 127, 1000])
@pytest.mark.parametrize("C", [1, 3, 64, 300])
def test_sort_is_the_contract_of_clusters(N, C, poisoned):
    labels = torch.randint(-1, C, (2, 2, N), generator=torch.Generator().manual_seed(N)).to(DEVICE)
    order, offsets, counts = sort_by_label(labels, C)
    expected = Clusters.from_labels(vectors(2, 2, N, 16), labels, C)
    assert torch.equal(order, expected.order)
    assert torch.equal(offsets, expected.offsets)
    assert torch.equal(counts, expected.counts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
def test_means_of_members(dtype, poisoned):
    x = vectors(2, 2, 127, 40, dtype)
    expected = Clusters.from_labels(x.double(), torch.randint(-1, 9, (2, 2, 127)).to(DEVICE), 9)
    means = cluster_means(x, expected.order, expected.offsets)
    torch.testing.assert_close(means.double(), expected.centroids, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cap", [None, 1.0, 1.3])
@pytest.mark.parametrize("size", [(1, 1, 1, 16, 1), (2, 2, 63, 40, 3), (2, 1, 127, 16, 16)], ids=str)
def test_kmeans_equals_torch(size, cap, poisoned):
    B, H, N, D, C = size
    x = vectors(B, H, N, D)
    for mask in (None, padding(B, N, N - N // 4)):
        expected = torch_kmeans(x, C, iterations=2, cap=cap, init=x[:, :, :C], mask=mask)
        labels, centroids, counts, order, offsets = kmeans(x, x[:, :, :C].float(), 2, cap, mask)
        assert torch.equal(labels, expected.labels)
        assert torch.equal(order, expected.order)
        assert torch.equal(offsets, expected.offsets)
        assert torch.equal(counts, expected.counts)
        torch.testing.assert_close(centroids, expected.centroids, rtol=1e-5, atol=1e-5)


def test_empty_clusters_restart_as_in_torch():
    x = vectors(1, 2, 63, 16)
    seeds = x[:, :, :5].clone()
    seeds[:, :, 2:] = 1e3 + torch.arange(3, device=DEVICE)[:, None]
    expected = torch_kmeans(x, 5, iterations=1, init=seeds)
    assert torch.equal(kmeans(x, seeds, 1)[0], expected.labels)


def test_cap_places_everybody_even_when_all_vectors_are_equal():
    x = torch.ones(1, 1, 100, 16, device=DEVICE)
    labels = capped_assign(x, torch.ones(1, 1, 8, 16, device=DEVICE), 1.0)
    assert labels.flatten().bincount().tolist() == [13] * 7 + [9]
    assert torch.equal(labels, labels.sort().values)  # ties go to the lower position and the lower cluster


def test_cap_with_nan_and_infinity_ends():
    x = vectors(1, 1, 63, 16)
    x[0, 0, 3, 2], x[0, 0, 40] = float("nan"), float("inf")
    labels = capped_assign(x, x[:, :, 5:9].clone(), 1.1)
    assert labels.min() >= 0
    assert labels.flatten().bincount().max() <= 18


@pytest.mark.parametrize("N", [63, 1000])
def test_half_precision_passes_find_nearest_means(N, poisoned):
    x = vectors(2, 2, N, 40, torch.float16)
    seeds = x[:, :, :5].float()
    mask = padding(2, N, N - 9)
    labels, means, counts, order, offsets = lloyd(x, seeds, mask, sort=True)
    distances = (
        torch.cdist(x.double(), seeds.double()).square().masked_fill(~mask[:, None, :, None], torch.inf)
    )
    chosen = distances.gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
    valid = mask[:, None].expand(labels.shape)
    assert (labels[~valid] == -1).all()
    assert ((chosen - distances.min(-1).values)[valid] <= 1e-4 * chosen[valid]).all()
    expected = Clusters.from_labels(x, labels, 5)
    assert torch.equal(order, expected.order)
    assert torch.equal(offsets, expected.offsets)
    assert torch.equal(counts, expected.counts)
    torch.testing.assert_close(means, expected.centroids, rtol=1e-5, atol=1e-5)


def assert_same(got, expected):
    for name, one, other in zip(("labels", "counts", "order", "offsets"), got, expected, strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("waiting", [1, 10**6], ids=["whole device", "one program"])
def test_rounds_give_the_labels_of_torch_whoever_plays_them(waiting, monkeypatch, poisoned):
    monkeypatch.setattr(capped, "FEW", waiting)
    x = vectors(2, 2, 150, 16)
    mask = torch.ones(2, 150, dtype=torch.bool, device=DEVICE)
    mask[1, 100:] = False
    for valid in (None, mask):
        expected = torch_kmeans(x, 12, iterations=1, cap=1.1, init=x[:, :, :12], mask=valid)
        labels, means, *sorts = kmeans(x, x[:, :, :12].float(), 1, 1.1, valid)
        assert_same((labels, *sorts), (expected.labels, expected.counts, expected.order, expected.offsets))
        torch.testing.assert_close(means, expected.centroids, rtol=1e-5, atol=1e-5)
        starts = lloyd_iteration(x, x[:, :, :12].float(), valid)
        labels, _, *sorts = few.capped_few(x, starts, 1.1, valid)
        assert_same((labels, *sorts), (expected.labels, expected.counts, expected.order, expected.offsets))


def test_padding_is_sorted_where_an_order_must_be_a_permutation(monkeypatch):
    monkeypatch.setattr(few, "capped_few", lambda *_: pytest.fail("padding went where nothing is sorted"))
    x, valid = vectors(1, 2, 60, 16), torch.arange(60, device=DEVICE)[None] < 50
    order = kmeans(x, x[:, :, :4].float(), 1, 1.2, valid)[3]
    assert torch.equal(order.sort(-1).values, torch.arange(60, device=DEVICE).expand(1, 2, -1))


def test_rows_longer_than_what_is_read_at_once():
    x = vectors(1, 1, 2500, 16)
    expected = torch_kmeans(x, 3, iterations=0, cap=1.2, init=x[:, :, :3])
    labels, _, *sorts = few.capped_few(x, x[:, :, :3].float(), 1.2)
    assert_same((labels, *sorts), (expected.labels, expected.counts, expected.order, expected.offsets))


def test_half_precision_fills_no_cluster_beyond_the_cap_and_sorts_by_label(poisoned):
    x = vectors(1, 2, 500, 40, torch.float16)
    labels, means, counts, order, offsets = few.capped_few(x, x[:, :, :9].float(), 1.0)
    assert counts.max() <= 56
    assert torch.equal(order, labels.argsort(dim=-1, stable=True))
    assert torch.equal(offsets[..., 1:], counts.cumsum(-1))
    members = torch.nn.functional.one_hot(labels, 9).mT.double()
    torch.testing.assert_close(means.double(), members @ x.double() / counts[..., None], rtol=1e-4, atol=1e-4)


def test_many_clusters_take_the_other_path():
    x = vectors(1, 1, 400, 16)
    assert not few.fits(x, few.MOST + 1)
    assert few.fits(x, few.MOST)

"""The nearest centroid: which one it is, among equals and beside numbers that overflowed."""

import pytest
import torch

from multipole_lab.clustering.distances import nearest, smallest


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("C", [1, 7, 64, 513])
def test_smallest_is_min_and_names_the_first_among_equals(C, dtype):
    g = torch.Generator().manual_seed(C)
    for numbers in (
        torch.randn(3, 50, C, generator=g, dtype=dtype),
        torch.randint(-2, 3, (3, 50, C), generator=g).to(dtype),  # many equal ones
        torch.full((3, 50, C), torch.inf, dtype=dtype),
    ):
        value = numbers.amin(-1)
        first = (numbers == value.unsqueeze(-1)).to(torch.uint8).argmax(-1)
        place, least = smallest(numbers.clone())
        assert torch.equal(least, value)
        assert torch.equal(place, first)


def test_smallest_names_a_place_among_nans_too():
    place, _ = smallest(torch.full((2, 5, 3), torch.nan))
    assert bool(((place >= 0) & (place < 3)).all())


def test_tiles_are_put_together(monkeypatch):
    g = torch.Generator().manual_seed(0)
    x, centroids = (torch.randn(2, n, 8, generator=g, dtype=torch.float64) for n in (101, 6))
    distances = (x.unsqueeze(2) - centroids.unsqueeze(1)).square().sum(-1)
    monkeypatch.setattr("multipole_lab.clustering.distances.TILE", 200)
    labels, partial = nearest(x, centroids)
    assert torch.equal(labels, distances.argmin(-1))
    torch.testing.assert_close(partial + x.square().sum(-1), distances.amin(-1))

"""What a clustering begins with, and what it leaves out where nobody asks for it."""

import pytest
import torch

from multipole_lab.kernels.clustering.capped import rounds_of
from multipole_lab.kernels.clustering.kmeans import kmeans
from multipole_lab.kernels.clustering.seeds import seeds_at

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def vectors(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype).to(DEVICE)


def test_seeds_are_the_vectors_at_their_places_whatever_the_strides():
    x = vectors(2, 3, 50, 40, dtype=torch.float16).transpose(1, 2).contiguous().transpose(1, 2)
    x[0, 0, 7, 3] = torch.nan
    places = torch.tensor([49, 0, 7], device=DEVICE)
    assert torch.equal(seeds_at(x, places), torch.nan_to_num(x[:, :, places].float()))


@pytest.mark.parametrize("cap", [None, 1.5])
def test_an_order_without_means_is_that_with_means(cap, poisoned):
    x = vectors(1, 2, 200, 32)
    seeds = seeds_at(x, torch.arange(0, 200, 20, device=DEVICE))
    labels, means, *sorts = kmeans(x, seeds, 1, cap)
    *nothing, _, _, _ = others = kmeans(x, seeds, 1, cap, means=False)
    assert nothing == [None, None]
    assert labels is not None
    assert means is not None
    assert all(torch.equal(a, b) for a, b in zip(sorts, others[2:], strict=True))


def test_more_vectors_play_more_rounds_on_the_whole_device():
    assert [rounds_of(n) for n in (1, 4096, 10_000, 100_000)] == [1, 1, 2, 3]

"""One partition for both sides is MuSe's own; two give something between."""

import pytest
import torch

import multipole_lab as ml
from multipole_lab.lessons.mixed_partitions import mixed_partitions


@pytest.fixture(scope="module")
def qkv():
    random = torch.Generator().manual_seed(0)
    return [torch.randn(2, heads, 37, 8, generator=random) for heads in (4, 2, 2)]


@pytest.mark.parametrize("partition", ["kmeans", "balanced", "runs"])
def test_the_same_partition_on_both_sides_is_muse(qkv, partition):
    expected = ml.MuSe(clusters=5, partition=partition)(*qkv)
    torch.testing.assert_close(mixed_partitions(*qkv, partition, partition, clusters=5), expected)


def test_each_side_has_a_say(qkv):
    outs = [mixed_partitions(*qkv, a, b, clusters=5) for a in ("kmeans", "runs") for b in ("kmeans", "runs")]
    assert all((x - y).abs().max() > 1e-3 for i, x in enumerate(outs) for y in outs[:i])


def test_a_partition_that_does_not_exist_is_refused(qkv):
    with pytest.raises(ValueError, match="partition"):
        mixed_partitions(*qkv, "kmeans", "circles", clusters=5)

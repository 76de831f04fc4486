"""Near clusters that every query chooses for itself: what they find, what they cost, and what refuses them."""

from dataclasses import replace

import pytest
import torch

import multipole_lab as ml
from multipole_lab.attention.clusters.slots import Slots
from multipole_lab.measure.operation_counts import operations
from multipole_lab.parallel import ContextParallel
from multipole_lab.testing import expected


def test_queries_of_one_cluster_that_look_for_different_keys_all_find_them():
    """Every query looks for the one sharp key of a cluster of its own; their mean looks for none of them."""
    clusters, D = 8, 16
    directions = torch.eye(D)[:clusters]
    k = torch.cat([directions * 20, directions.repeat_interleave(4, 0) * 10])[None, None]
    q = directions[None, None] * 5
    v = torch.randn(1, 1, k.shape[2], D, generator=torch.Generator().manual_seed(0))
    exact = ml.Exact()(q, k, v)
    method = ml.MuSe(clusters=clusters, cap=None, iterations=8, query_clusters=1, near=1)
    error = {
        whom: ml.relative_squared_error(replace(method, near_for=whom)(q, k, v), exact).item()
        for whom in ("cluster", "query")
    }
    assert error["query"] < 1e-6 < 1e-2 < error["cluster"]


def test_a_query_of_its_own_near_clusters_has_all_it_sums_from_those_it_sees():
    """With all clusters near the result is exact, whoever chooses; with none, both are the same."""
    g = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, H, 37, 8, generator=g, dtype=torch.float64) for H in (4, 2, 2))
    method = ml.MuSe(clusters=5, near=9, leaf=8, near_for="query")
    for causal in (False, True):
        exact = ml.Exact()(q, k, v, causal=causal)
        torch.testing.assert_close(method(q, k, v, causal=causal), exact)
        none = replace(method, near=0)
        other = replace(none, near_for="cluster")
        assert torch.equal(none(q, k, v, causal=causal), other(q, k, v, causal=causal))


@pytest.mark.parametrize("causal", [False, True])
def test_choices_around_points_of_their_own_are_those_of_the_formula(causal):
    g = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(1, H, 37, 8, generator=g, dtype=torch.float64) for H in (4, 2, 2))
    method = ml.MuSe(clusters=5, near=2, leaf=8, near_for="query", sinks=1)
    out, lse = method(q, k, v, causal=causal, return_lse=True)
    torch.testing.assert_close((out, lse), expected(method, q, k, v, causal=causal))


def test_on_real_tokens_it_has_less_than_half_the_error_at_as_many_operations():
    layer = ml.load_sample("smollm2").crop(1024)[15]
    exact = ml.Exact()(layer.q, layer.k, layer.v, causal=True)
    own = ml.MuSe(near=4, leaf=256, near_for="query")
    both = own, replace(own, near_for="cluster")
    error = [
        ml.relative_squared_error(one(layer.q, layer.k, layer.v, causal=True), exact).mean() for one in both
    ]
    assert error[0] < 0.5 * error[1]
    assert operations(both[0], 1024, causal=True) == operations(both[1], 1024, causal=True)


def test_a_dipole_is_refused_by_name():
    with pytest.raises(ValueError, match="near_for is 'query' with order 'dipole'"):
        ml.MuSe(near_for="query", order="dipole")


def test_several_processes_refuse_it():
    with pytest.raises(ValueError, match=r"near_for.*cluster"):
        ContextParallel(ml.MuSe(near=1, near_for="query"))


@pytest.mark.parametrize("size", [1, 3, 64])
def test_every_vector_has_a_slot_in_a_tile_of_its_cluster(size):
    labels = torch.randint(0, 5, (2, 3, 41), generator=torch.Generator().manual_seed(2))
    labels[0, 0] = 4  # the others are empty
    tiles, cluster = Slots.in_tiles(labels, 5, size)
    assert tiles.index.shape == (2, 3, min(41, 41 // size + 5), size)
    assert tiles.filled.sum((-2, -1)).eq(41).all()
    torch.testing.assert_close(cluster.gather(-1, tiles.slot // size), labels)
    placed = tiles.index.flatten(-2).gather(-1, tiles.slot)
    assert placed.eq(torch.arange(41)).all()

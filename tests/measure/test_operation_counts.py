"""Operation counts against pairs counted one by one, identities, and the scaling that the methods are for."""

import pytest
import torch

import multipole_lab as ml
from multipole_lab.attention.method import Method
from multipole_lab.measure.operation_counts import operations, share_of_exact


def seen(queries, keys, causal):
    mask = torch.ones(queries, keys, dtype=torch.bool)
    return mask.tril(keys - queries) if causal else mask


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (37, 37), (5, 61), (61, 61)])
def test_exact_window_and_topk_count_the_pairs_that_are_seen(queries, keys, causal):
    pairs = seen(queries, keys, causal)
    sizes = {"head_size": 3, "value_size": 5}
    assert operations(ml.Exact(), queries, keys, causal=causal, **sizes) == 8 * pairs.sum()
    kept = pairs.sum(-1).clamp(max=7).sum()
    assert operations(ml.TopK(7), queries, keys, causal=causal, **sizes) == 3 * pairs.sum() + 5 * kept
    if causal:
        wide = pairs.sum(-1).clamp(max=9).sum()
        assert operations(ml.Window(size=7, sinks=2), queries, keys, causal=True, **sizes) == 8 * wide


def test_a_leaf_as_long_as_the_text_is_exact():
    for method in (ml.MuSe(leaf=512), ml.Centroid(leaf=512), ml.MuSe(leaf=512, sinks=7)):
        assert share_of_exact(method, 512, causal=True) == pytest.approx(1)
    assert share_of_exact(ml.MuSe(leaf=512), 40, 500, causal=True) == pytest.approx(1)


def test_muse_by_hand():
    """N = 8 of C = 2 clusters, D = 4, Dv = 2, two query heads on one key head."""
    method = ml.MuSe(clusters=2, iterations=1, cap=1.0, near=1)
    clusterings = 2 * 8 * 2 * 4 * (1 + 0.5)
    summaries = 2 * 8 * (2 * 4 + 2)
    far, near = 8 * 2 * 6, 8 * 4 * 6
    got = operations(method, 8, head_size=4, value_size=2, heads=2, kv_heads=1)
    assert got == 2 * (clusterings + summaries + far + near)


def test_fewer_clusters_of_queries_have_fewer_summaries_to_make():
    few = ml.MuSe(clusters=4, query_clusters=1, partition="runs")
    saved = 3 * 64 * 3 * 16
    sizes = {"head_size": 16, "value_size": 16}
    many = operations(ml.MuSe(clusters=4, partition="runs"), 64, **sizes)
    assert many - operations(few, 64, **sizes) == saved


def test_causal_blocks_by_hand():
    """Two exact blocks of 8, and one full block of 8 queries over 8 keys."""
    method = ml.MuSe(clusters=2, leaf=8)
    exact = 2 * operations(ml.Exact(), 8, causal=True, head_size=4)
    assert operations(method, 16, causal=True, head_size=4) == exact + operations(method, 8, head_size=4)


def test_more_work_counts_more():
    plain = operations(ml.MuSe(), 4096)
    for changes in ({"near": 1}, {"order": "dipole"}, {"iterations": 2}, {"sinks": 64}, {"clusters": 128}):
        assert operations(ml.MuSe(**changes), 4096) > plain, changes
    assert operations(ml.MuSe(partition="runs"), 4096) < operations(ml.MuSe(partition="balanced"), 4096)
    assert operations(ml.Centroid(budget=256), 4096) > operations(ml.Centroid(), 4096)


def test_muse_grows_like_n_log_n_where_exact_attention_grows_like_its_square():
    for method, low, high in ((ml.MuSe(), 2.0, 2.3), (ml.Exact(), 3.9, 4.0)):
        growth = operations(method, 131_072, causal=True) / operations(method, 65_536, causal=True)
        assert low < growth <= high


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((ml.MuSe(), 0), ValueError, "at least 1"),
        ((ml.MuSe(), 9, 8), ValueError, "needs queries <= keys; there are 9 and 8"),
        ((Method(), 8), TypeError, "no formula for"),
    ],
)
def test_bad_input_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        operations(*arguments, causal=True)


def test_heads_must_share_evenly():
    with pytest.raises(ValueError, match="heads is 9; a multiple of kv_heads, 2"):
        operations(ml.Exact(), 8, heads=9, kv_heads=2)

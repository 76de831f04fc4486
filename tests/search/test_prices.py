"""What attention would cost: formulas, and times at prices that were measured."""

from dataclasses import replace

import pandas
import pytest

import multipole_lab as ml
from multipole_lab.measure.operation_counts import operations
from multipole_lab.search.cost_model import CostModel, counts
from multipole_lab.search.prices import MEASURED, Prices, Problem, measure_prices

PROBLEM = Problem(tokens=4096, heads=8, head_size=64, batch=2, layers=3, causal=False)


@pytest.fixture(scope="module")
def prices():
    """A tenth of a millisecond a call, and round prices of everything else."""
    model = CostModel({"call": 0.1, "far": 1e-5, "near": 1e-6}, pandas.DataFrame())
    return Prices(model, {ml.Exact: (0.1, 1e-8), ml.Window: (0.0, 2e-7)}, heads=2, head_size=32)


def test_operations_are_the_formulas_of_all_heads_texts_and_layers(prices):
    for method in (ml.Exact(), ml.MuSe(near=4), ml.Window(size=64)):
        each = operations(method, 4096, head_size=64)
        assert prices.cost(method, PROBLEM).operations == pytest.approx(each * 8 * 2 * 3)


def test_times_are_prices_times_counts_in_proportion_to_heads_and_their_size(prices):
    exact = prices.cost(ml.Exact(), PROBLEM)
    assert exact.ms == pytest.approx(0.1 + 1e-8 * exact.operations)
    found = counts(ml.MuSe(near=4), 4096)
    once = 0.1 + 1e-5 * found["far"] + 1e-6 * found["near"]
    assert prices.cost(ml.MuSe(near=4), PROBLEM).ms == pytest.approx(once * 48 / 2 * 64 / 32)


def test_memory_is_keys_and_values_of_all_layers_and_the_rest_of_one(prices):
    one = 4096 * 64 * 2  # queries, or keys, or values, or output of a head in two bytes a number
    assert prices.cost(ml.Exact(), PROBLEM).held == 2 * 8 * (2 * one * 3 + 2 * one)
    summaries = 4 * 64 * 64 * (2 * 64 + 1)
    assert prices.cost(ml.MuSe(), PROBLEM).held == 2 * 8 * (2 * one * 3 + 2 * one + summaries)


def test_bytes_are_read_once_and_again_by_every_step_of_k_means_and_for_near_clusters(prices):
    one, rows = 4096 * 64 * 2, 8 * 2 * 3
    assert prices.cost(ml.Exact(), PROBLEM).moved == rows * 4 * one
    summaries = 2 * 4 * 64 * 64 * (2 * 64 + 1)
    k_means, runs = (prices.cost(ml.MuSe(partition=kind), PROBLEM).moved for kind in ("kmeans", "runs"))
    assert runs == rows * (4 * one + summaries)
    assert k_means - runs == rows * 2 * 2 * one
    near = prices.cost(ml.MuSe(partition="runs", near=4), PROBLEM).moved
    assert near - runs == rows * 64 * 4 * 64 * 2 * 64 * 2  # query clusters, near ones, members, key and value
    leaf = replace(PROBLEM, causal=True)
    assert prices.cost(ml.MuSe(leaf=4096), leaf).moved == rows * 4 * one


def test_the_crossover_is_the_first_length_from_which_on_it_stays_faster(prices):
    found = prices.crossover(ml.Window(size=64), PROBLEM)
    faster = [
        prices.cost(ml.Window(size=64), replace(PROBLEM, tokens=n)).ms
        < prices.cost(ml.Exact(), replace(PROBLEM, tokens=n)).ms
        for n in (found // 2, found, 4 * found)
    ]
    assert faster == [False, True, True]
    assert prices.crossover(ml.Exact(), PROBLEM) is None


def test_prices_are_measured_for_every_kind_and_named(monkeypatch):
    import multipole_lab.search.prices as module

    monkeypatch.setattr(module, "MEASURED", [m for m in MEASURED if getattr(m, "clusters", 0) < 64])
    *waiting, found = measure_prices(ml.load_sample("smollm2").crop(256), 15, causal=False)
    assert waiting == [None, None]
    assert set(found.others) == {ml.Exact, ml.Centroid, ml.Window, ml.TopK}
    assert "1 thread" in repr(found)
    assert set(found.model.table["length"]) == {64, 256}  # one length alone tells no price of an operation
    assert found.others[ml.Exact][1] > 0
    for method in (ml.Exact(), ml.MuSe(), ml.Window()):
        assert found.cost(method, Problem(1024)).ms > 0


def test_a_text_on_which_no_price_can_be_seen_is_refused():
    with pytest.raises(ValueError, match="at least 256 tokens, got 100"):
        next(measure_prices(ml.load_sample("smollm2").crop(100), 15, causal=False))

"""The metric of the queries: what it is, what it is good for, and what it survives."""

import pytest
import torch

from multipole_lab.decoding import MultipoleCache
from multipole_lab.decoding.layer import ClusteredLayer
from multipole_lab.decoding.settings import Settings
from multipole_lab.decoding.step.reference import decode_step
from multipole_lab.decoding.store.hierarchy import Hierarchy
from multipole_lab.decoding.store.metric import PLAIN, QueryMetric
from multipole_lab.threads import one_thread


@pytest.fixture(autouse=True)
def _quick_and_repeatable():
    torch.manual_seed(0)
    with one_thread():
        yield


def test_weights_are_the_root_mean_squares_of_the_queries():
    metric, sizes = QueryMetric(), torch.tensor([4.0, 2.0, 1.0, 0.0])
    assert metric.weights() is None
    for _ in range(300):
        metric.watch(torch.randn(2, 6, 1, 4) * sizes, heads=3)
    weights = metric.weights()
    assert weights.shape == (6, 1, 4)
    torch.testing.assert_close(weights.square().mean(-1), torch.ones(6, 1))
    even = PLAIN + (1 - PLAIN) * sizes.square() / sizes.square().mean()
    torch.testing.assert_close(weights.square().mean(0)[0], even, atol=0.2, rtol=0.1)


def test_one_query_moves_the_metric_less_than_many():
    q, few, many = torch.tensor([1.0, 0.0, 0.0, 0.0]).view(1, 1, 1, 4), QueryMetric(), QueryMetric()
    few.watch(q, heads=1)
    for _ in range(20):
        many.watch(q, heads=1)
    assert 1 < few.weights().max() < many.weights().max()
    assert many.weights().min() > 0


@pytest.mark.parametrize("bad", [0.0, torch.nan, torch.inf])
def test_a_query_without_a_direction_leaves_finite_weights(bad):
    metric = QueryMetric()
    metric.watch(torch.full((1, 2, 1, 8), bad), heads=1)
    torch.testing.assert_close(metric.weights(), torch.ones(1, 1, 8))


def error(watch):
    """A step's error where half the coordinates of the keys vary much and matter to no query."""
    N, D = 3000, 16
    asked = torch.cat([torch.ones(D // 2), torch.zeros(D // 2)])
    k, v = torch.randn(1, 2, N, D) * (2 - asked), torch.randn(1, 2, N, 8)
    v[..., 0] += 3 * k[..., 0]
    layer = ClusteredLayer(Settings(watch=watch, budget=64, levels=1, recent=32, sinks=4, dense_until=0))
    layer.update(k[:, :, :-1], v[:, :, :-1])
    layer.update(k[:, :, -1:], v[:, :, -1:])
    wrong = total = 0.0
    for _ in range(20):
        q = torch.randn(1, 4, 1, D) * asked * 2
        exact = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        wrong += float((layer.attend(q, None, None) - exact).square().sum())
        total += float(exact.square().sum())
    return wrong / total


def test_clusters_in_the_metric_of_the_queries_halve_the_error():
    torch.manual_seed(1)
    plain = error(watch=0)
    torch.manual_seed(1)
    assert error(watch=16) < plain / 2


def test_queries_are_watched_before_joins_only_and_not_without_watch():
    for watch, expected in ((0, 0), (4, 8)):
        h = Hierarchy(Settings(watch=watch, interval=32, recent=8, sinks=4, dense_until=0))
        for _ in range(12 + 2 * 32):
            h.append(torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8))
            h.watch(torch.randn(1, 2, 1, 8))
            if h.due():
                h.join()
        assert len(h.blocks) == 1
        assert h.metric.seen == expected


def test_centroids_stay_means_of_keys_whatever_the_metric():
    h = Hierarchy(Settings(recent=8, sinks=4, levels=2))
    k = torch.randn(2, 2, 400, 16)
    h.append(k, k)
    for _ in range(5):
        h.metric.watch(torch.randn(2, 6, 1, 16) * torch.arange(16), heads=2)
    h.join()
    for level in h.levels:  # values are the keys here, and their means are taken without the metric
        torch.testing.assert_close(level.keys.view(), level.values.view(), atol=1e-5, rtol=1e-4)


def test_the_metric_follows_beams_and_is_forgotten_by_reset():
    cache = MultipoleCache(budget=8, recent=8, interval=16, dense_until=0)
    cache.update(torch.randn(3, 2, 100, 16), torch.randn(3, 2, 100, 16), 0)
    layer = cache.layers[0]
    layer.attend(torch.randn(3, 4, 1, 16), None, None)
    before = layer.hierarchy.metric.moment
    cache.reorder_cache(torch.tensor([2, 0, 0]))
    assert torch.equal(layer.hierarchy.metric.moment, before[[2, 0, 0]])
    cache.reset()
    assert layer.hierarchy.metric.weights() is None


def test_buffers_kept_between_steps_change_nothing():
    from multipole_lab.kernels.decode.work import Work

    h, work = Hierarchy(Settings(recent=16, sinks=4)), Work()
    h.append(torch.randn(1, 2, 600, 16), torch.randn(1, 2, 600, 24))
    h.join()
    for _ in range(3):
        q = torch.randn(1, 6, 1, 16)
        fresh = decode_step(q, h.state(), scale=0.25, budget=50, lookups=20)
        kept = decode_step(q, h.state(), scale=0.25, budget=50, lookups=20, work=work)
        assert all(torch.equal(a, b) for a, b in zip(fresh, kept, strict=True))
    assert work.nbytes > 0


def test_on_real_keys_replacement_halves_the_error_of_selection():
    """The shipped sample at 128 keys, mean over layers; `bench decode --sample` measures more steps."""
    from multipole_lab.bench.decode.baselines import Clustered, Dense
    from multipole_lab.models.samples.sample import load_sample

    sample = load_sample("smollm2")
    sides = {"all": {}, "dropped": {"replacement": False}}
    errors = dict.fromkeys(sides, 0.0)
    for layer in sample.layers:
        q, k, v = (x.float() for x in (sample[layer].q, sample[layer].k, sample[layer].v))
        running = {name: Clustered(Settings(budget=128, **more)) for name, more in sides.items()}
        running["dense"] = Dense()
        outs, N = {name: [] for name in running}, k.shape[2] - 32
        for name, side in running.items():
            side.append(k[:, :, :N], v[:, :, :N])
            for t in range(N, N + 32):
                side.append(k[:, :, t : t + 1], v[:, :, t : t + 1])
                outs[name].append(side.step(q[:, :, t : t + 1], sample.scale))
        exact = torch.cat(outs["dense"], 2)
        for name in sides:
            wrong = (torch.cat(outs[name], 2) - exact).square().sum((-1, -2)) / exact.square().sum((-1, -2))
            errors[name] += float(wrong.mean()) / len(sample.layers)
    assert errors["all"] < errors["dropped"] / 2

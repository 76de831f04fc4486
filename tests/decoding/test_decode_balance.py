"""How heads share one budget: what the expected error predicts, who gets how much, and what it is good for."""

import pytest
import torch

from multipole_lab.decoding import MultipoleCache
from multipole_lab.decoding.settings import Settings
from multipole_lab.decoding.step.balance import (
    EVERY,
    FIRST,
    LEAST,
    MOST,
    Portion,
    allot,
    expected_error,
)
from multipole_lab.decoding.step.reference import decode_step
from multipole_lab.decoding.step.trace import Seen
from multipole_lab.decoding.store.hierarchy import Hierarchy
from multipole_lab.threads import one_thread

D = 16


@pytest.fixture(autouse=True)
def _quick_and_repeatable():
    torch.manual_seed(0)
    with one_thread():
        yield


def filled(scatter, n=900):
    """A layer's storage; head i has keys around 40 places, ``scatter[i]`` apart from them."""
    places = torch.randn(1, len(scatter), 40, D).repeat_interleave(-(-n // 40), 2)[:, :, :n]
    k = places + torch.tensor(scatter).view(1, -1, 1, 1) * torch.randn(1, len(scatter), n, D)
    h = Hierarchy(Settings(sinks=4, recent=32, levels=1, spread=1.0, watch=0, iterations=5))
    h.append(k, torch.randn(1, len(scatter), n, D))
    h.join()
    return h


def test_the_expected_error_goes_with_the_measured_one():
    """Over heads whose keys scatter more and more, and so whose errors span decades, at one factor for all."""
    h = filled([0.05, 0.1, 0.2, 0.4, 0.8])
    expected = measured = 0.0
    for _ in range(30):
        q, seen = torch.randn(1, 10, 1, D), Seen()
        out, lse = decode_step(q, h.state(), scale=0.25, budget=64, seen=seen)
        exact, _ = decode_step(q, h.state(), scale=0.25, budget=h.length)
        expected += expected_error(q, h.state(), seen.parts[2], out, lse, 0.25)[0]
        wrong = (out - exact).square().view(5, 2 * D).sum(-1)
        measured += wrong / exact.square().view(10, D).sum(-1).mean()
    assert measured[4] > 100 * measured[0]
    factor = measured / expected
    assert factor.min() > 1  # the values of a cluster's keys differ too, which is left out
    assert factor.max() < 1.3 * factor.min()


def test_no_error_is_expected_where_everything_is_opened():
    h, q, seen = filled([0.3, 0.3]), torch.randn(1, 4, 1, D), Seen()
    out, lse = decode_step(q, h.state(), scale=0.25, budget=h.length, seen=seen)
    assert expected_error(q, h.state(), seen.parts[2], out, lse, 0.25).abs().max() == 0


def portions(*needs):
    return [Portion(need=torch.tensor(need, dtype=torch.float64)) for need in needs]


def shared_out(given):
    """Shares are allotted, and from the next weighing on in use."""
    for portion, most in zip(given, allot(given).read(), strict=True):
        assert portion.share is None
        portion.take(most)
        assert portion.most == portion.share.max()


def test_shares_go_with_the_root_of_the_need_and_their_mean_is_one():
    one, two = portions([[4.0, 1.0], [1.0, 1.0]], [[1.0, 0.25], [1.0, 1.0]])
    shared_out([one, two])
    torch.testing.assert_close(one.share[0] / two.share[0, 0], torch.tensor([2.0, 1.0]).double())
    torch.testing.assert_close(torch.cat([one.share, two.share], 1).mean(1), torch.ones(2).double())
    torch.testing.assert_close(one.share[1], torch.ones(2).double())  # another text, other needs


def test_shares_stay_within_their_bounds_and_nobody_in_need_starves():
    needs = torch.rand(3, 30).double().pow(8).tolist()
    given = portions(*([row] for row in needs), [[1e6] + [0.0] * 29])
    shared_out(given)
    share = torch.cat([one.share for one in given], 1)
    assert share.min() >= LEAST
    assert share.max() <= MOST
    assert share.mean() == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(share, share.nan_to_num())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_need_that_is_no_number_counts_as_none(bad):
    portion = Portion()
    portion.note(torch.tensor([[bad, 1.0]]))
    shared_out([portion])
    assert portion.share.isfinite().all()


def test_an_error_is_noted_as_it_would_be_at_the_mean_budget():
    one, two = portions([[0.0]], [[0.0]])
    one.share = torch.tensor([[4.0]]).double()
    for portion in (one, two):
        portion.note(torch.tensor([[1.0]]))
    assert one.need == 4 * two.need


def test_a_budget_of_the_whole_text_is_not_shared():
    portion = Portion(share=torch.tensor([[0.5, 1.5]]).double(), most=1.5)
    assert portion.budgets(100, 100) is None
    most, rooms = portion.budgets(80, 100)
    assert (most, rooms.tolist()) == (100, [40, 100])
    most, rooms = portion.budgets(50, 100)
    assert (most, rooms.tolist()) == (75, [25, 75])


SETTINGS = {"budget": 0.1, "dense_until": 0, "sinks": 4, "recent": 32, "interval": 64, "fraction": 1 / 16}


def decode(steps, batch=1, balance=True, budget=0.1):
    """Two layers, whose keys scatter little and much; the cache, the mean error of a step, keys read."""
    g = torch.Generator().manual_seed(1)
    cache = MultipoleCache(**{**SETTINGS, "budget": budget}, balance=balance)
    n, wrong, total, read = 1500, 0.0, 0.0, []
    texts = []
    for scatter in (0.1, 1.0):
        places = torch.randn(1, 2, 60, D, generator=g).repeat_interleave(30, 2)
        k = places + scatter * torch.randn(1, 2, 1800, D, generator=g)
        texts.append(
            (k.expand(batch, -1, -1, -1), torch.randn(1, 2, 1800, D, generator=g).expand(batch, -1, -1, -1))
        )
    for i, (k, v) in enumerate(texts):
        cache.update(k[:, :, :n], v[:, :, :n], i)
    for t in range(n, n + steps):
        for i, (k, v) in enumerate(texts):
            cache.update(k[:, :, t : t + 1], v[:, :, t : t + 1], i)
            q = torch.randn(1, 4, 1, D, generator=g).expand(batch, -1, -1, -1)
            with cache.trace() as trace:
                out = cache.layers[i].attend(q, None, None)
            exact = torch.nn.functional.scaled_dot_product_attention(
                q, k[:, :, : t + 1], v[:, :, : t + 1], enable_gqa=True
            )
            read.append((trace.steps[-1].chosen >= 0).sum(-1).mean())
            if t >= n + FIRST:
                wrong += (out - exact).square().sum()
                total += exact.square().sum()
    return cache, (wrong / total).item(), sum(read) / len(read)


def test_sharing_lowers_the_error_and_reads_no_more_keys():
    shared, error, read = decode(80)
    _, error_each, read_each = decode(80, balance=False)
    little, much = (layer.portion.share for layer in shared.layers)
    assert much.min() > little.max()
    assert torch.cat([little, much], 1).mean() == pytest.approx(1)
    assert error < 0.8 * error_each
    assert read < 1.02 * read_each


def test_texts_of_a_batch_are_reordered_with_their_shares_and_reset_forgets():
    cache, *_ = decode(20, batch=2)
    for layer in cache.layers:
        layer.portion.share[1] *= 2
    before = [layer.portion.share.clone() for layer in cache.layers]
    cache.reorder_cache(torch.tensor([1, 1]))
    for layer, share in zip(cache.layers, before, strict=True):
        assert layer.portion.share.equal(share[[1, 1]])
    cache.reset()
    assert all(layer.portion == Portion() for layer in cache.layers)


def test_a_cache_that_was_saved_goes_on_sharing_as_it_would_have(tmp_path):
    """Saved behind the first steps, over the next one whose error is noted."""
    cache, *_ = decode(FIRST + 4)
    other = MultipoleCache.load(cache.save(tmp_path / "cache.safetensors"))
    for _ in range(EVERY - FIRST):
        k, q = torch.randn(1, 2, 1, D), torch.randn(1, 4, 1, D)
        for one in (cache, other):
            for i in range(2):
                one.update(k, k, i)
                one.layers[i].attend(q, None, None)
        for a, b in zip(cache.layers, other.layers, strict=True):
            assert b.portion.share.equal(a.portion.share)
            assert b.portion.need.equal(a.portion.need)


def test_one_text_alone_or_twice_in_a_batch_gets_the_same():
    alone, *_ = decode(40)
    twice, *_ = decode(40, batch=2)
    for a, b in zip(alone.layers, twice.layers, strict=True):
        torch.testing.assert_close(b.portion.share, a.portion.share.expand(2, -1), rtol=1e-4, atol=1e-5)


def test_the_whole_text_as_budget_stays_exact():
    _, error, _ = decode(40, budget=1.0)
    assert error < 1e-10


@pytest.mark.parametrize("more", [{"balance": False}, {"replacement": False}, {"spread": 0}], ids=str)
def test_who_does_not_share(more):
    """Without a foreseen error every head has the same budget."""
    assert Settings().shares
    assert not Settings(**more).shares


def test_a_cache_of_one_layer_does_not_share():
    cache = MultipoleCache(**SETTINGS)
    k = torch.randn(1, 2, 900, D)
    cache.update(k[:, :, :800], k[:, :, :800], 0)
    for t in range(800, 820):
        cache.update(k[:, :, t : t + 1], k[:, :, t : t + 1], 0)
        cache.layers[0].attend(torch.randn(1, 4, 1, D), None, None)
    assert cache.layers[0].portion == Portion()


def test_a_balance_that_is_no_truth_value_is_refused_by_name():
    with pytest.raises(TypeError, match="balance is 'yes'"):
        MultipoleCache(balance="yes")

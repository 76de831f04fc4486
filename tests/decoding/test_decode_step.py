"""The decode step on plain tensors, its storage and its clusters."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from multipole_lab.decoding.settings import Settings
from multipole_lab.decoding.step.backend import step_function
from multipole_lab.decoding.step.reference import decode_step, open_clusters
from multipole_lab.decoding.store.blocks import sort_by
from multipole_lab.decoding.store.hierarchy import Hierarchy
from multipole_lab.decoding.store.rope import Rotation
from multipole_lab.decoding.store.storage import Growing
from multipole_lab.testing import assert_close, oracle
from multipole_lab.threads import one_thread

B, HK, G, D, DV = 2, 2, 3, 16, 24
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = {"block": 256, "interval": 32, "recent": 32, "sinks": 4, "dense_until": 0}


@pytest.fixture(autouse=True)
def _quick_and_repeatable():
    """Small products are slower on two threads than on one, and much slower beside other work."""
    torch.manual_seed(0)
    with one_thread():
        yield


def keys_and_values(n, dtype=torch.float32):
    return torch.randn(B, HK, n, D, dtype=dtype), torch.randn(B, HK, n, DV, dtype=dtype)


def filled(pieces, mask=None, **settings):
    """A hierarchy that got its keys in pieces, and the same keys and values in the text's order."""
    h = Hierarchy(Settings(**{**SMALL, **settings}))
    parts = [keys_and_values(n) for n in pieces]
    for i, (k, v) in enumerate(parts):
        h.append(k, v)
        if i == 0 and mask is not None:
            h.valid = mask.clone()
        if h.due():
            h.join()
    return h, torch.cat([k for k, _ in parts], 2), torch.cat([v for _, v in parts], 2)


def check_invariants(h, k, v):
    """Every key between sinks and tail is in one cluster a level; counts and means are those of the members."""
    fine = h.levels[0]
    stored_k, stored_v = h.keys.view(), h.values.view()
    place = h.position.view().long()
    assert torch.equal(stored_k[:, :, : h.clustered], k.gather(2, place.unsqueeze(-1).expand(-1, -1, -1, D)))
    assert torch.equal(place.sort(-1).values, torch.arange(h.clustered).expand_as(place))
    for level, (low, high) in enumerate([(h.sinks, h.clustered), (0, fine.keys.length)][: len(h.levels)]):
        one = h.levels[level]
        tokens, first, members = (x.view() for x in (one.tokens, one.first, one.members))
        for b in range(B):
            for head in range(HK):
                seen = torch.zeros(high, dtype=torch.int64)
                for c in range(one.keys.length):
                    start, count = int(first[b, head, c]), int(members[b, head, c])
                    seen[start : start + count] += 1
                    if level == 0:
                        keys = range(start, start + count)
                    else:
                        keys = [
                            i
                            for child in range(start, start + count)
                            for i in range(
                                int(fine.first.view()[b, head, child]),
                                int(fine.first.view()[b, head, child] + fine.members.view()[b, head, child]),
                            )
                        ]
                    keys = list(keys)
                    assert int(tokens[b, head, c]) == len(keys)
                    if keys:
                        for store, mean in ((stored_k, one.keys), (stored_v, one.values)):
                            true = store[b, head, keys].double().mean(0)
                            torch.testing.assert_close(
                                mean.view()[b, head, c].double(), true, atol=1e-5, rtol=1e-4
                            )
                held = seen[low:] if level == 0 else seen[fine.tokens.view()[b, head] > 0]
                if h.valid is None:
                    assert bool((held == 1).all())


@pytest.mark.parametrize("levels", [1, 2])
def test_invariants_after_2000_uneven_tokens(levels):
    h, k, v = filled([300, 1, 7, 128, 1000, 1, 7, 128, 1, 427], levels=levels)
    assert h.length == 2000
    assert h.clustered >= 2000 - 32 - 32
    check_invariants(h, k, v)


def test_appending_clusters_as_well_as_clustering_from_scratch():
    step_by_step, k, v = filled([300] + [50] * 34, block=1024)
    at_once, *_ = filled([300], block=1024)
    at_once = Hierarchy(step_by_step.settings)
    at_once.append(k[:, :, :1964], v[:, :, :1964])
    at_once.join()

    def inertia(h):
        fine = h.levels[0]
        return float((fine.spread.view() * fine.tokens.view()).sum() / fine.tokens.view().sum())

    assert abs(inertia(step_by_step) / inertia(at_once) - 1) < 0.1


@pytest.mark.parametrize("n", [1, 10, 300, 20096])
@pytest.mark.parametrize("levels", [1, 2])
def test_the_whole_context_as_budget_is_dense_attention(n, levels):
    h, k, v = filled([n], levels=levels, block=4096, iterations=1)
    h.join()
    q = torch.randn(B, HK * G, 1, D)
    out, lse = decode_step(q, h.state(), scale=0.3, budget=n)
    torch.testing.assert_close(
        out, scaled_dot_product_attention(q, k, v, scale=0.3, enable_gqa=True), atol=2e-5, rtol=1e-4
    )
    _, exact = oracle.over_heads(oracle.exact, q.double(), k.double(), v.double(), s=0.3)
    assert_close("lse", lse, exact, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_block_boundaries(extra):
    n = 4 + 256 * 2 + 32 + extra
    h, k, v = filled([n - 40] + [1] * 40)
    h.join()
    check_invariants(h, k, v)
    q = torch.randn(B, HK * G, 1, D)
    out, _ = decode_step(q, h.state(), scale=0.25, budget=n)
    torch.testing.assert_close(
        out, scaled_dot_product_attention(q, k, v, scale=0.25, enable_gqa=True), atol=2e-5, rtol=1e-4
    )


@pytest.mark.parametrize("padding", [3, 100, 299])
def test_left_padding_is_in_no_cluster(padding):
    mask = torch.ones(B, 300, dtype=torch.bool)
    mask[1, :padding] = False
    h, k, v = filled([300, 100, 300], mask=mask)
    check_invariants(h, k, v)
    q = torch.randn(B, HK * G, 1, D)
    out, _ = decode_step(q, h.state(), scale=0.25, budget=700)
    exact = scaled_dot_product_attention(
        q, k, v, scale=0.25, enable_gqa=True, attn_mask=h.valid[:, None, None]
    )
    torch.testing.assert_close(out, exact, atol=2e-5, rtol=1e-4)
    short, _ = decode_step(q, h.state(), scale=0.25, budget=0)
    assert short.isfinite().all()


@pytest.mark.parametrize("anything", [torch.nan, torch.inf, 3e38])
def test_what_stands_where_padding_is_changes_nothing(anything):
    """Padding among the sinks of a text that has fewer keys, in blocks of nothing else, beside places left empty."""
    padding, outs = 299, []
    mask = torch.ones(B, 300, dtype=torch.bool)
    mask[1, :padding] = False
    for filling in (0.0, anything):
        torch.manual_seed(0)
        h, (k, v) = Hierarchy(Settings(**SMALL)), keys_and_values(300)
        k[1, :, :padding], v[1, :, :padding] = filling, filling
        h.append(k, v)
        h.valid = mask.clone()
        h.join()
        q = torch.randn(B, HK * G, 1, D)
        outs.append([decode_step(q, h.state(), scale=0.25, budget=n)[0] for n in (0, 20, 300)])
    assert all(torch.equal(zeros, other) for zeros, other in zip(*outs, strict=True))


def test_replacement_counts_every_key():
    """Where all keys of a cluster are equal, the centroid is exact."""
    h = Hierarchy(Settings(**SMALL, fraction=1 / 8, cap=None))
    topics = torch.randn(1, HK, 8, D)
    k = topics.repeat_interleave(64, 2)
    v = torch.randn(1, HK, 8, DV).repeat_interleave(64, 2)
    h.append(k, v)
    h.join()
    q = torch.randn(1, HK * G, 1, D)
    fine, _ = decode_step(q, h.state(), scale=D**-0.5, budget=0)
    one = h.state()._replace(levels=h.state().levels[:1], spreads=())
    flat, lse = decode_step(q, one, scale=D**-0.5, budget=0)
    exact, exact_lse = oracle.over_heads(oracle.exact, q.double(), k.double(), v.double(), s=D**-0.5)
    assert_close("out", flat, exact, atol=1e-4, rtol=1e-3)
    assert_close("lse", lse, exact_lse, atol=1e-4, rtol=1e-4)
    assert (fine - exact).square().sum() < 0.2 * exact.square().sum()


def test_replacement_and_top_p():
    h, k, v = filled([2000])
    q = 3 * torch.randn(B, HK * G, 1, D)
    exact = scaled_dot_product_attention(q, k, v, enable_gqa=True)

    def error(**more):
        out, _ = decode_step(q, h.state(), scale=D**-0.5, **{"budget": 200, **more})
        return float((out - exact).square().sum() / exact.square().sum())

    assert error() < error(replacement=False)
    assert error(budget=2000, top_p=0.99) < error(budget=2000, top_p=0.3)
    assert error(lookups=2000) <= error(lookups=20) * 1.2


def test_choose_takes_a_prefix_of_the_ranking():
    share = torch.tensor([[0.1, 0.5, 0.2, 0.15, 0.05]])
    members = torch.tensor([[3, 4, 0, 2, 1]])
    first = torch.tensor([[0, 3, 7, 7, 9]])
    # per member: 0.033, 0.125, 0.2 of nobody, 0.075, 0.05
    index, taken, opened = open_clusters(share, first, members, 6)
    assert opened.tolist() == [[False, True, True, True, False]]
    assert index[taken].tolist() == [3, 4, 5, 6, 7, 8]
    index, taken, opened = open_clusters(share, first, members, 3)
    assert not taken.any()
    assert opened.tolist() == [[False, False, True, False, False]]
    share, first, members = (x.repeat(3, 1) for x in (share, first, members))
    _, taken, opened = open_clusters(share, first, members, 7, budgets=torch.tensor([3, 6, 7]))
    assert taken.sum(-1).tolist() == [0, 6, 7]
    assert opened.sum(-1).tolist() == [1, 3, 4]


def test_nan_and_inf_come_out_and_do_not_hang():
    h = Hierarchy(Settings(**SMALL))
    k, v = keys_and_values(500)
    k[0, 0, 100] = torch.nan
    v[1, 1, 200, 3] = torch.inf
    h.append(k, v)
    h.join()
    out, _ = decode_step(torch.randn(B, HK * G, 1, D), h.state(), scale=0.25, budget=500)
    assert out[0, :G].isnan().all()
    assert out[0, G:].isfinite().all()
    assert not out[1, G:, :, 3].isfinite().any()


def test_equal_keys_and_huge_logits():
    h = Hierarchy(Settings(**SMALL))
    k = torch.ones(1, 1, 500, D) * 100
    v = torch.randn(1, 1, 500, DV)
    h.append(k, v)
    h.join()
    out, _ = decode_step(torch.ones(1, G, 1, D) * 100, h.state(), scale=1.0, budget=64)
    torch.testing.assert_close(out, v.mean(2, keepdim=True).expand(1, G, 1, DV), atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype):
    h = Hierarchy(Settings(**SMALL))
    k, v = keys_and_values(700, dtype)
    h.append(k, v)
    h.join()
    q = torch.randn(B, HK * G, 1, D, dtype=dtype)
    out, _ = decode_step(q, h.state(), scale=0.25, budget=700)
    exact = scaled_dot_product_attention(q.double(), k.double(), v.double(), scale=0.25, enable_gqa=True)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), exact, atol=1e-2 if dtype != torch.float64 else 1e-12, rtol=1e-2)


@pytest.mark.parametrize("length", [0, 1, 3, 100, 259, 260, 261, 600])
@pytest.mark.parametrize("padding", [0, 40])
def test_truncate_puts_the_text_back(length, padding):
    mask = torch.ones(B, 300, dtype=torch.bool)
    mask[0, :padding] = False
    h, k, v = filled([300, 500], mask=mask if padding else None)
    h.truncate(length)
    assert h.length == length
    if length:
        assert all(torch.equal(a, b[:, :, :length]) for a, b in zip(h.dense(), (k, v), strict=True))
    more = keys_and_values(400)
    h.append(*more)
    h.join()
    k, v = (torch.cat([x[:, :, :length], y], 2) for x, y in zip((k, v), more, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(h.dense(), (k, v), strict=True))
    check_invariants(h, k, v)


def test_growing_storage_keeps_slack_small_and_copies_seldom():
    store = Growing((1, 1, 0, 4), torch.float32, torch.device("cpu"))
    copies, buffer = 0, None
    for i in range(5000):
        store.append(torch.full((1, 1, 1, 4), float(i)))
        copies += store.buffer is not buffer
        buffer = store.buffer
    assert copies < 120
    assert store.buffer.shape[2] <= 5000 * (1 + 1 / 32) + 16
    assert store.view()[0, 0, :, 0].tolist() == list(range(5000))


def test_rotation_undoes_itself_and_is_relative():
    rotate = Rotation(10000.0 ** -(torch.arange(0, 16, 2).double() / 16)).rotate
    x, y = torch.randn(1, 1, 1, 20), torch.randn(1, 1, 1, 20)
    there = rotate(x, torch.tensor([5000]))
    torch.testing.assert_close(rotate(there, torch.tensor([-5000])), x, atol=1e-5, rtol=1e-5)
    a = (rotate(x, torch.tensor([7000])) * rotate(y, torch.tensor([6900]))).sum()
    b = (rotate(x, torch.tensor([100])) * y).sum()
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_sort_by_puts_padding_last():
    order, counts = sort_by(torch.tensor([[2, -1, 0, 2, 0]]), 3)
    assert order.tolist() == [[2, 4, 0, 3, 1]]
    assert counts.tolist() == [[2, 0, 2]]


@pytest.mark.parametrize(
    ("name", "value"),
    [("fraction", 0), ("budget", -1), ("budget", 1.5), ("levels", 3), ("recent", 0), ("rope", "x"), ("top_p", 2),
     ("cap", 0.5), ("spread", 2), ("outliers", -0.1), ("backend", "cuda"), ("budget", None)],
)  # fmt: skip
def test_settings_name_what_they_refuse(name, value):
    with pytest.raises(ValueError, match=name):
        Settings(**{name: value})


SKETCHED = {
    "sinks": 2,
    "recent": 4,
    "interval": 8,
    "block": 64,
    "iterations": 2,
    "fraction": 1 / 8,
    "branch": 3,
}


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize(
    ("settings", "remedy"),
    [({}, {"outliers": 1 / 16}), (SKETCHED, {"sketch": True})],
    ids=["outliers", "sketches"],
)
@pytest.mark.parametrize("levels", [1, 2])
def test_one_sharp_key_among_many_is_read_where_outliers_stand_alone_or_keys_have_sketches(
    levels, settings, remedy, backend
):
    """The mean of its cluster hides it, and many keys of a middling score fill the budget."""
    n, q = 256, torch.zeros(1, 1, 1, D, device=DEVICE)
    q[..., :2] = 6
    errors = []
    for more in ({}, remedy):
        torch.manual_seed(0)
        k, v = torch.randn(1, 1, n, D), torch.randn(1, 1, n, DV)
        k[..., :2] *= 0.1
        k[0, 0, 101, 0] = 4
        k[0, 0, 120:168, 1:] = k[0, 0, 120, 1:] + 0.1 * k[0, 0, 120:168, 1:]
        k[0, 0, 120:168, 1] = 1.3
        k, v = k.to(DEVICE), v.to(DEVICE)
        h = Hierarchy(Settings(**SMALL | settings | more, levels=levels, backend=backend))
        h.append(k, v)
        h.join()
        got, _ = step_function(backend, q, v)(q, h.state(), scale=D**-0.5, budget=32)
        want = scaled_dot_product_attention(q, k, v)
        errors.append(((got - want).square().sum() / want.square().sum()).item())
    without, with_it = errors
    assert with_it < 0.1 * without, errors
    assert without > 0.02, errors

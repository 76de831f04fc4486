"""Decoding kernels against the oracle in float64, and the torch step in the same dtype, over any cache."""

import pytest
import torch
from random_cache import make

from multipole_lab.decoding.settings import Settings
from multipole_lab.decoding.step import reference as step
from multipole_lab.decoding.step.reference import Level, State
from multipole_lab.decoding.store.hierarchy import Hierarchy
from multipole_lab.kernels.common.tiles import Tile
from multipole_lab.kernels.decode.attend import decode_attend
from multipole_lab.kernels.decode.lookup import decode_lookup
from multipole_lab.kernels.decode.merge import decode_merge
from multipole_lab.kernels.decode.select import decode_select
from multipole_lab.kernels.decode.step import decode_step
from multipole_lab.kernels.decode.work import Work
from multipole_lab.testing import assert_close, oracle, relative_error

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def check(cache, dtype, **settings):
    """fp32: 1e-5 relative; half precision: twice the error of the torch step in that dtype."""
    lookup = settings.pop("lookup", False)

    def run(decode, kind, source):
        q, state = source if kind == dtype else source_in(source, kind)
        extra = {"lookup_q": q.flip(-1)} if lookup else {}
        return decode(q, state, **settings, **extra)

    given = cache(dtype)
    sums = given[1].sketch is not None and not settings.get("softcap")  # of which the oracle knows nothing
    exact = run(step.decode_step if sums else oracle.decode_step, torch.float64, given)
    got = run(decode_step, dtype, given)
    same = run(step.decode_step, dtype, given)
    for name, x, reference, plain in zip(("out", "lse"), got, exact, same, strict=True):
        assert x.dtype == (dtype if name == "out" else torch.float32)
        assert x.shape == reference.shape
        allowed = 1e-5 if dtype == torch.float32 else 2 * relative_error(plain, reference)
        assert_close(name, x, reference, error=max(allowed, 2e-6))


def source_in(source, kind):
    """The same numbers in another dtype, rounding included."""
    q, state = source

    def wide(x):
        return x.to(kind) if torch.is_tensor(x) and x.is_floating_point() else x

    levels = tuple(Level(*map(wide, level)) for level in state.levels)
    spreads = tuple(map(wide, state.spreads))
    sketch = state.sketch and type(state.sketch)(*map(wide, state.sketch))
    return wide(q), State(wide(state.keys), wide(state.values), levels, *state[3:7], spreads, sketch)


# B, Hq, Hk, N, D, Dv, sizes of the levels; budget, lookups
CASES = [
    (1, 1, 1, 1, 16, 16, (1,), 0, None),
    (1, 1, 1, 63, 16, 16, (3,), 30, None),
    (2, 3, 1, 127, 40, 64, (64,), 20, None),
    (2, 8, 2, 127, 64, 96, (64, 3), 40, 40),
    (1, 8, 1, 63, 96, 40, (64, 8), 15, 64),
    (1, 4, 2, 127, 128, 128, (3,), 100, None),
    (1, 2, 2, 63, 256, 256, (64, 3), 20, 30),
    (1, 8, 2, 1000, 64, 64, (64, 8), 200, 24),
    (1, 4, 1, 1000, 64, 64, (200,), 100, None),
    (1, 24, 1, 63, 16, 16, (8, 3), 20, 4),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c)))
def test_decode_step(case, dtype, poisoned):
    *sizes, budget, lookups = case
    scale = sizes[4] ** -0.5
    check(make(*sizes), dtype, scale=scale, budget=budget, lookups=lookups)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter's bfloat16 products are wrong")
@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c)))
def test_bfloat16(case, poisoned):
    *sizes, budget, lookups = case
    check(make(*sizes), torch.bfloat16, scale=sizes[4] ** -0.5, budget=budget, lookups=lookups)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c)))
def test_sums_over_the_members_by_their_sketches(case, dtype, poisoned):
    *sizes, budget, lookups = case
    check(make(*sizes, sketched=True), dtype, scale=sizes[4] ** -0.5, budget=budget, lookups=lookups)


OPTIONS = {
    "no replacement": {"replacement": False},
    "top_p": {"top_p": 0.5},
    "top_p reached at once": {"top_p": 0.01},
    "softcap": {"softcap": 5.0},
    "another frame": {"lookup": True},
    "first order": {"spread": False},
    "no budget": {"budget": 0},
    "sketches": {"sketched": True},
    "sketches alone": {"sketched": True, "spread": False, "budget": 0},
    "sketches in another frame": {"sketched": True, "lookup": True},
    "no sketches under a softcap": {"sketched": True, "softcap": 5.0},
    "all opened": {"budget": 10_000, "lookups": 10_000},
}


@pytest.mark.parametrize("sizes", [(16,), (40, 6)], ids=["one level", "two levels"])
@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_options(option, sizes, poisoned):
    settings = {"scale": 0.25, "budget": 30, "lookups": 20} | OPTIONS[option]
    made = {name: settings.pop(name) for name in ("spread", "sketched") if name in settings}
    cache = make(2, 6, 2, 100, 32, 16, sizes, **made)
    check(cache, torch.float32, **settings)


@pytest.mark.parametrize("sizes", [(), (8,), (20, 4)], ids=str)
@pytest.mark.parametrize(("sinks", "tail"), [(0, 1), (4, 100), (3, 5)])
def test_sinks_tail_and_padding(sizes, sinks, tail, poisoned):
    cache = make(2, 2, 1, 40, 16, 16, sizes, sinks, tail, padded=True)
    check(cache, torch.float32, scale=0.25, budget=12, lookups=10)


@pytest.mark.parametrize("sketched", [False, True])
@pytest.mark.parametrize("levels", [1, 2])
def test_levels_may_be_empty(levels, sketched, poisoned):
    """After a crop a cache may have levels without clusters, and everything in its tail."""
    q, state = make(1, 4, 2, 40, 16, 16, (8, 3)[:levels], sketched=sketched)(torch.float32)
    state = state._replace(
        levels=tuple(level._replace(size=0) for level in state.levels), sinks=0, clustered=0, length=30
    )
    out, lse = decode_step(q, state, scale=0.3, budget=10, lookups=4)
    check_exact(out, lse, q, state, list(range(30)))


@pytest.mark.parametrize("levels", [1, 2])
def test_a_real_cache(levels, poisoned):
    """Clusters from the cache's own clustering, over several blocks, with a tail that grew since."""
    settings = Settings(
        fraction=1 / 8,
        budget=40,
        levels=levels,
        branch=4,
        sinks=3,
        recent=20,
        interval=16,
        block=128,
        dense_until=0,
    )
    hierarchy = Hierarchy(settings)
    g = torch.Generator().manual_seed(3)
    for n in (300, 1, 60):
        new = (torch.randn(1, 2, n, size, generator=g).to(DEVICE) for size in (32, 16))
        hierarchy.append(*new)
        if hierarchy.due():
            hierarchy.join()
    q = torch.randn(1, 6, 1, 32, generator=g).to(DEVICE)
    budget = settings.tokens(hierarchy.length)
    lookups = settings.looked_at(hierarchy.levels[0].keys.length, budget)
    given = {"scale": 0.3, "budget": budget, "lookups": lookups}
    for name, x, reference in zip(
        ("out", "lse"),
        decode_step(q, hierarchy.state(), **given),
        step.decode_step(q, hierarchy.state(), **given),
        strict=True,
    ):
        assert relative_error(x, reference.double()) < 1e-5, name


def test_budget_of_everything_is_exact_attention():
    q, state = make(1, 4, 2, 100, 32, 32, (16,), sinks=2, tail=7)(torch.float32)
    out, lse = decode_step(q, state, scale=0.3, budget=1000)
    rows = [*range(102), *range(state.clustered, state.length)]
    check_exact(out, lse, q, state, rows)


def check_exact(out, lse, q, state, rows):
    """Exact attention over these positions of the cache; two query heads share a row, the scale is 0.3."""
    keys, values = (x[:, :, rows].double() for x in (state.keys, state.values))
    exact = oracle.over_heads(oracle.exact, q.double(), keys, values, s=0.3)
    for name, ours, wanted in zip(("out", "lse"), (out, lse), exact, strict=True):
        assert_close(name, ours, wanted, rtol=1e-5, atol=1e-5)


def test_queries_of_any_strides():
    """One of several queries: the heads are then further apart than a vector."""
    q, state = make(2, 6, 2, 60, 16, 16, (12, 3))(torch.float32)
    given = {"scale": 0.25, "budget": 20, "lookups": 8}
    several = torch.cat([q + 1, q, q - 1], 2)[:, :, 1:2]
    assert not several.is_contiguous()
    expected = decode_step(q, state, lookup_q=q, **given)
    for one, other in zip(decode_step(several, state, lookup_q=several, **given), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_refuses_storage_whose_vectors_lie_apart():
    q, state = make(1, 4, 2, 60, 16, 16, (12,))(torch.float32)
    apart = state.keys.transpose(2, 3).contiguous().transpose(2, 3)
    with pytest.raises(ValueError, match="keys have strides"):
        decode_step(q, state._replace(keys=apart), scale=1.0, budget=4)


def test_huge_logits_stay_finite():
    q, state = make(1, 2, 1, 60, 16, 16, (12, 3))(torch.float32)
    out, lse = decode_step(1e4 * q, state, scale=10.0, budget=20, lookups=8)
    assert out.isfinite().all()
    assert lse.isfinite().all()


def prefix(share, size, room, limit=None):
    """The oracle's rule for shares per member that are rounded as the kernel rounds them."""
    each = (torch.tensor(share) / torch.tensor(size).clamp(min=1)).tolist()
    return sorted(oracle.prefix(each, size, room, share, limit))


@pytest.mark.parametrize(
    ("rows", "chunk"), [(32, 16), (32, 256), (512, 256)], ids=["in pieces", "held", "pooled"]
)
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("room", [0, 1, 37, 150, 10_000])
def test_select_is_the_prefix_in_order_of_share_per_member(rows, chunk, ties, room, poisoned):
    g = torch.Generator().manual_seed(room)
    R, G, C, E = 2, 3, 100, 4
    a = torch.randn(R, G, C + E, generator=g) * 3
    if ties:
        a = a[:, :, :1].expand(R, G, C + E).contiguous()
    size = torch.randint(0, 6, (R, C), generator=g).int()
    a[..., :C].masked_fill_((size == 0)[:, None], -torch.inf)
    first = (7 + size.cumsum(-1) - size).int()
    a, size, first = a.to(DEVICE), size.to(DEVICE), first.to(DEVICE)
    room = min(room, 600)
    tile = Tile(rows=rows, cols=chunk, warps=4, stages=1)
    got = decode_select(size, first, room, masses=a, size=C, tile=tile)
    share = (a - a.logsumexp(-1, keepdim=True)).exp().sum(1)[:, :C]
    torch.testing.assert_close(got.norm, a.logsumexp(-1), rtol=1e-5, atol=1e-5)
    for r in range(R):
        expected = prefix(share[r].tolist(), size[r].tolist(), room)
        assert got.opened[r].nonzero().flatten().tolist() == expected
        members = [first[r, j].item() + i for j in expected for i in range(size[r, j])]
        assert got.taken[r].item() == len(members)
        assert got.members[r, : len(members)].tolist() == members


@pytest.mark.parametrize("sizes", [(16,), (40, 6)], ids=["one level", "two levels"])
@pytest.mark.parametrize("more", [{}, {"top_p": 0.5}, {"replacement": False}], ids=str)
def test_every_row_may_have_its_own_room(sizes, more, poisoned):
    rooms = torch.tensor([0, 30, 7, 100], dtype=torch.int32, device=DEVICE)
    cache = make(2, 6, 2, 100, 32, 16, sizes)
    check(cache, torch.float32, scale=0.25, budget=100, lookups=20, rooms=rooms, **more)


@pytest.mark.parametrize("chunk", [16, 64], ids=["in pieces", "at once"])
@pytest.mark.parametrize("top_p", [None, 0.9], ids=str)
def test_select_of_shares_beyond_one(chunk, top_p, poisoned):
    """A fine cluster may weigh more than its coarse one let expect: any share up to infinity, and no NaN opened."""
    share = torch.tensor([3.0, 1e30, 0.0, torch.inf, 5.0, 3.0, torch.nan, torch.inf, 1e-36, 2.0, 1e38, 0.5])
    size = torch.tensor([2, 3, 1, 2, 0, 4, 1, 3, 2, 1, 1, 2]).int()
    first = (size.cumsum(-1) - size).int()
    listed = torch.arange(12).int()
    count, limit = torch.tensor([12]).int(), torch.tensor([1e34])
    given = [x.view(1, -1).to(DEVICE) for x in (size, first, share, listed)]
    count, limit = count.to(DEVICE), limit.to(DEVICE)
    for room in range(24):
        tile = Tile(rows=16, cols=chunk, warps=4, stages=1)
        got = decode_select(
            *given[:2], room, shares=given[2], listed=given[3], n_listed=count, norm=limit, limit=limit,
            top_p=top_p, tile=tile,
        )  # fmt: skip
        whole = share.nan_to_num(nan=0.0, posinf=3e38).tolist()
        expected = prefix(whole, size.tolist(), room, None if top_p is None else 1e34)
        assert got.opened[0].nonzero().flatten().tolist() == expected, room
        assert got.taken.item() == size[expected].sum() <= room


def test_chunks_of_any_length_merge_to_the_same(poisoned):
    q, state = make(1, 4, 1, 90, 16, 32, (20,))(torch.float32)
    rows, keys, values = q.reshape(1, 4, 16), state.keys.flatten(0, 1), state.values.flatten(0, 1)
    members = torch.randperm(90, generator=torch.Generator().manual_seed(0)).int().view(1, -1).to(DEVICE) + 4
    taken = torch.tensor([61], dtype=torch.int32, device=DEVICE)
    listed = [x[:, members[0, :61].long()].double() for x in (keys, values)]
    exact = oracle.exact(rows.double(), *listed, 0.25)
    for chunk in (16, 32, 64, 128):
        parts, part_lse = decode_attend(rows, keys, values, 0.25, members=members, taken=taken, chunk=chunk)
        assert parts.shape[1] == -(-90 // chunk)
        out, lse = decode_merge(parts, part_lse, torch.float32)
        for name, ours, wanted in zip(("out", "lse"), (out, lse), exact, strict=True):
            assert_close(name, ours, wanted.view(ours.shape), rtol=1e-5, atol=1e-5)


def test_lookup_takes_centroids_of_higher_precision():
    q, state = make(1, 4, 1, 90, 16, 32, (20,))(torch.float32)
    rows, level = q.reshape(1, 4, 16), state.levels[0]
    args = level.keys.flatten(0, 1), level.tokens.flatten(0, 1), 20, 0.25
    half = decode_lookup(rows.half(), *args)
    torch.testing.assert_close(half, decode_lookup(rows, *args), rtol=1e-2, atol=1e-2)


def test_a_second_step_allocates_only_its_result():
    q, state = make(1, 4, 2, 60, 16, 16, (12, 3))(torch.float32)
    work = Work()
    first = decode_step(q, state, scale=0.25, budget=20, lookups=8, work=work)
    held = work.nbytes
    addresses = {name: x.data_ptr() for name, x in work._buffers.items()}
    second = decode_step(q, state, scale=0.25, budget=20, lookups=8, work=work)
    assert work.nbytes == held
    assert {name: x.data_ptr() for name, x in work._buffers.items()} == addresses
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_refuses_what_it_cannot_decode():
    q, state = make(1, 4, 2, 60, 16, 16, (12, 3))(torch.float32)
    with pytest.raises(ValueError, match="2 queries"):
        decode_step(torch.cat([q, q], 2), state, scale=1.0, budget=4)
    with pytest.raises(ValueError, match="3 heads"):
        decode_step(q[:, :3], state, scale=1.0, budget=4)
    with pytest.raises(ValueError, match=r'3 levels.*backend="torch"'):
        decode_step(q, state._replace(levels=(*state.levels, state.levels[1])), scale=1.0, budget=4)

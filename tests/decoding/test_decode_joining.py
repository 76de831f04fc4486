"""Blocks clustered by the kernels are those that torch makes, many at once as one by one; no host waits for them."""

import contextlib

import pytest
import torch
from equal_bits import equal_bits
from fake_gpu import host_reads

from multipole_lab.decoding.settings import Settings
from multipole_lab.decoding.store import joining, kernel_blocks
from multipole_lab.decoding.store.blocks import stand_alone
from multipole_lab.decoding.store.hierarchy import Hierarchy
from multipole_lab.decoding.store.rope import Rotation
from multipole_lab.decoding.store.sketch import codes_of, owners
from multipole_lab.threads import one_thread

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = {
    "block": 32, "interval": 8, "recent": 8, "sinks": 4, "fraction": 1 / 8, "iterations": 2, "branch": 2,
    "dense_until": 0,
}  # fmt: skip
ROTATION = Rotation(10000.0 ** -(torch.arange(0, 16, 2).double() / 16))


@pytest.fixture(autouse=True)
def _quick_and_repeatable():
    torch.manual_seed(0)
    with one_thread():
        yield


def filled(backend, pieces=(76,), hidden=0, reads=None, dtype=torch.float32, filling=None, **settings):
    """A layer's storage that joins after every piece of text; ``hidden`` keys of the second text are padding.

    filling : the number that stands there; None for as random ones as elsewhere.
    """
    g = torch.Generator().manual_seed(1)
    settings, B = {**SMALL, "backend": backend, **settings}, 2 if hidden else 1
    h = Hierarchy(Settings(**settings), ROTATION if settings.get("rope") else None)
    for n in pieces:
        k, v = (torch.randn(B, 2, n, size, generator=g).to(DEVICE, dtype) for size in (16, 24))
        if filling is not None and h.valid is None:
            k[1, :, :hidden], v[1, :, :hidden] = filling, filling
        h.append(k, v)
        if hidden and h.valid is None:
            h.valid = torch.ones(2, n, dtype=torch.bool, device=DEVICE)
            h.valid[1, :hidden] = False
        h.metric.watch(torch.randn(B, 4, 1, 16, generator=g).to(DEVICE), 2)
        with contextlib.nullcontext() if reads is None else host_reads(reads):
            h.join()
    return h


def numbers(h):
    """What a step reads of the clusters."""
    return {
        f"{name} of level {i}": getattr(level, name).view().double()
        for i, level in enumerate(h.levels)
        for name in ("tokens", "first", "members", "keys", "values", "spread")
    }


def residuals(h):
    """What sketches say of the keys in clusters."""
    level = h.levels[0]
    first, tokens = (x.view().flatten(0, 1) for x in (level.first, level.tokens))
    codes, sizes = (x.view().flatten(0, 1)[owners(first, tokens, h.clustered)[1]] for x in h.sketch)
    return codes_of(codes, 16, sizes.dtype) * sizes.unsqueeze(-1)


CASES = {
    "two levels": {},
    "one level": {"levels": 1},
    "no cap": {"cap": None},
    "joins": {"pieces": (36, 8, 20)},
    "padding": {"hidden": 20, "pieces": (60, 16)},
    "keys unrotated": {"rope": "windowed"},
    "clusters that stay empty": {"hidden": 66},
    "outliers": {"outliers": 1 / 8},
    "outliers, one level": {"outliers": 1 / 4, "levels": 1},
    "outliers that join": {"outliers": 1 / 8, "pieces": (36, 8, 20)},
    "fewer keys than outliers": {"outliers": 1 / 4, "hidden": 66},
    "sketches": {"sketch": True, "pieces": (36, 8, 20)},
    "sketches of padded rows": {"sketch": True, "hidden": 20, "levels": 1},
    "sketches, keys unrotated": {"sketch": True, "rope": "windowed"},
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_kernels_make_the_clusters_that_torch_makes(case):
    """In single precision the distances of random keys are never near enough to differ in which is least."""
    ours, theirs = (filled(backend, **CASES[case]) for backend in ("triton", "torch"))
    assert ours.blocks == theirs.blocks
    assert len(ours.blocks) == 2
    assert torch.equal(ours.position.view(), theirs.position.view())
    for name, x in numbers(theirs).items():
        torch.testing.assert_close(
            numbers(ours)[name], x, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert all(torch.equal(a, b) for a, b in zip(ours.dense(), theirs.dense(), strict=True))
    if CASES[case].get("sketch"):
        got, wanted = (residuals(h) for h in (ours, theirs))
        assert ((got - wanted).abs() > 1e-4).double().mean() < 0.01  # a coordinate may lie at a border
        assert wanted.abs().mean() > 0.1


def test_blocks_of_half_precision_are_about_as_tight_as_those_of_torch():
    ours, theirs = (filled(backend, dtype=torch.float16) for backend in ("triton", "torch"))
    spreads = [(h.levels[0].spread.view() * h.levels[0].tokens.view()).sum() for h in (ours, theirs)]
    torch.testing.assert_close(spreads[0], spreads[1], rtol=0.05, atol=0)


@pytest.mark.parametrize(("outliers", "want"), [(2, [0, 2, 1, -1, 3]), (5, [4, 2, 5, -1, 3])])
def test_the_keys_of_largest_distance_get_labels_of_their_own_and_padding_none(outliers, want):
    labels, distances = torch.tensor([[0, 0, 1, -1, 1]]), torch.tensor([[0.2, 5.0, 0.1, 9.0, 3.0]])
    assert stand_alone(labels, distances, 2, outliers).tolist() == [want]


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_outliers_stand_alone_and_every_key_is_in_one_cluster(backend):
    """Also after a join: then the clusters without them are what the block starts from."""
    h = filled(backend, (44, 8), outliers=1 / 8)
    tokens, members = (getattr(h.levels[0], name).view()[0] for name in ("tokens", "members"))
    assert tokens.shape[-1] == 5 + 5
    assert torch.equal(tokens, members)
    assert (tokens.sum(-1) == 40).all()
    assert ((tokens == 1).sum(-1) >= 5).all()
    fine = h.levels[0]
    alone = (tokens == 1).unsqueeze(-1)
    keys = h.keys.view()[0].gather(
        1, fine.first.view()[0].long().unsqueeze(-1).expand(-1, -1, 16).clamp(max=h.length - 1)
    )
    torch.testing.assert_close(fine.keys.view()[0] * alone, keys * alone)
    assert (fine.spread.view()[0].masked_fill(tokens > 1, 0) < 1e-5).all()


@pytest.fixture
def _sums_in_order():
    """On a GPU torch's index_add sums in any order, so that two equal calls differ in their last bits."""
    with equal_bits(warn_only=True):
        yield


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.usefixtures("_sums_in_order")
def test_what_stands_where_padding_is_moves_no_key(backend, poisoned):
    """Its keys may be anything: a query that sees nothing may have no number, and so none the keys behind it."""
    plain, *others = (
        filled(backend, hidden=66, filling=x, dtype=torch.float16) for x in (0.0, torch.nan, torch.inf)
    )
    for other in others:
        assert torch.equal(other.position.view(), plain.position.view())
        assert all(torch.equal(x, numbers(other)[name]) for name, x in numbers(plain).items())


def test_many_blocks_at_once_are_those_that_were_clustered_one_by_one(monkeypatch):
    together = filled("triton", (110,))
    monkeypatch.setattr(joining, "TOGETHER", 0)
    alone = filled("triton", (110,))
    assert together.blocks == alone.blocks
    assert torch.equal(together.position.view(), alone.position.view())
    for name, x in numbers(alone).items():
        torch.testing.assert_close(numbers(together)[name], x, rtol=1e-5, atol=1e-6)


def test_a_clustering_that_stands_for_all_of_its_shape_gives_each_its_own(monkeypatch):
    """As a graph does: what was recorded for the first of a name and a shape is what is done for the others."""
    cases = [
        {"pieces": (36, 8, 20)},
        {"pieces": (36, 8, 20), "cap": None},
        {"hidden": 20, "pieces": (60, 16)},
    ]
    plain = [filled("triton", **case) for case in cases]
    held, calls = {}, []

    def stands(name, function, *tensors):
        calls.append(name)
        function = held.setdefault((name, tuple((x.shape, x.dtype) for x in tensors)), function)
        return tuple(x.clone() for x in function(*(x.clone() for x in tensors)))

    monkeypatch.setattr(kernel_blocks, "replayed", stands)
    for _ in range(2):
        for case, before in zip(cases, plain, strict=True):
            assert torch.equal(filled("triton", **case).position.view(), before.position.view())
    assert len(calls) == 2 * len(held)


@pytest.mark.parametrize("levels", [1, 2])
def test_no_host_waits_for_a_join_by_the_kernels(levels):
    reads = []
    filled("triton", (36, 8, 20), reads=reads, levels=levels)
    assert reads == []


@pytest.mark.parametrize("more", [3, 8, 15, 16])
def test_all_of_a_prompt_joins_and_then_whole_intervals(more):
    h = filled("torch", (12 + 3 * 8 + 3,))
    assert h.waiting() == 0
    before = h.clustered
    h.append(*(torch.randn(1, 2, more, size).to(DEVICE) for size in (16, 24)))
    h.join()
    assert h.clustered == before + more // 8 * 8

"""Two bits a coordinate of every key: what they hold, that sums over members follow them, and who has them."""

import math

import pytest
import torch

from multipole_lab import MultipoleCache
from multipole_lab.attention.expansion import NEVER
from multipole_lab.decoding.settings import Settings
from multipole_lab.decoding.store.hierarchy import Hierarchy
from multipole_lab.decoding.store.sketch import Sketch, codes_of, owners, residual_masses, sketch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = {
    "sinks": 2, "recent": 4, "interval": 8, "block": 64, "iterations": 2, "fraction": 1 / 8, "branch": 3,
    "dense_until": 0,
}  # fmt: skip
D = 16


def near(sketches, D):
    """What sketches say of residuals."""
    return codes_of(sketches.codes, D, torch.float64) * sketches.sizes.unsqueeze(-1)


@pytest.mark.parametrize("D", [1, 7, 16, 66, 128])
def test_two_bits_leave_12_percent_of_normal_numbers(D):
    r = torch.randn(4000, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = sketch(r)
    assert found.codes.shape == (4000, math.ceil(D / 4))
    left = (near(found, D) - r).square().sum() / r.square().sum()
    assert left < 0.125
    best = (r * near(found, D)).sum(-1) / near(found, D).square().sum(-1)
    torch.testing.assert_close(best, torch.ones_like(best))  # no other size is nearer


def test_residuals_of_nothing_and_of_no_number():
    r = torch.tensor([[0.0, 0, 0, 0, 0], [torch.nan, torch.inf, 1, -1, 0]])
    found = sketch(r)
    assert torch.isfinite(found.sizes).all()
    assert torch.equal(near(found, 5)[0], torch.zeros(5, dtype=torch.float64))


def test_the_sum_over_members_is_that_of_a_loop():
    """Empty clusters, places in no cluster, and residuals that differ by more than an exponent holds."""
    g = torch.Generator().manual_seed(0)
    first, tokens = torch.tensor([[2, 5, 5, 9], [2, 2, 4, 10]]), torch.tensor([[3, 0, 4, 2], [0, 2, 3, 1]])
    codes = torch.randint(0, 256, (2, 14, 2), generator=g, dtype=torch.uint8)
    sizes = torch.rand(2, 14, generator=g, dtype=torch.float64)
    sizes[0, 9:] = 900
    q = torch.randn(2, 3, 7, generator=g, dtype=torch.float64)
    found = residual_masses(q, Sketch(codes, sizes), first, tokens, 12, 0.3)
    r = near(Sketch(codes, sizes), 7)
    for row in range(2):
        for head in range(3):
            for j, (start, n) in enumerate(zip(first[row], tokens[row], strict=True)):
                logits = 0.3 * r[row, start : start + n] @ q[row, head]
                wanted = logits.logsumexp(0) if n else torch.tensor(NEVER).double()
                torch.testing.assert_close(found[row, head, j], wanted)


def filled(n=200, hidden=0, pieces=2, **settings):
    g = torch.Generator().manual_seed(1)
    h = Hierarchy(Settings(**{**SMALL, "sketch": True, **settings}))
    for i in range(pieces):
        h.append(*(torch.randn(2, 2, n // pieces, size, generator=g).to(DEVICE) for size in (D, 24)))
        if hidden and i == 0:
            h.valid = torch.ones(2, n // pieces, dtype=torch.bool, device=DEVICE)
            h.valid[1, :hidden] = False
        h.join()
    return h


def check(h):
    """Every key in a cluster is its mean and its sketch, to what two bits leave."""
    state = h.state()
    fine = state.levels[0].rows()
    owner, inside = owners(fine.first[:, : fine.size], fine.tokens[:, : fine.size], h.clustered)
    assert inside.sum() == fine.tokens[:, : fine.size].sum() > 0
    means = fine.keys.gather(1, owner.unsqueeze(-1).expand(-1, -1, D))
    residual = (h.keys.buffer[:, :, : h.clustered].flatten(0, 1) - means)[inside]
    held = Sketch(*(x[:, :, : h.clustered].flatten(0, 1)[inside] for x in state.sketch))
    wanted = sketch(residual)
    torch.testing.assert_close(held.sizes, wanted.sizes)
    assert (held.codes != wanted.codes).double().mean() < 0.01  # a coordinate may lie at a border


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("hidden", [0, 30])
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_sketches_stay_with_their_keys(backend, hidden, levels):
    h = filled(hidden=hidden, levels=levels, backend=backend)
    check(h)
    h.select(torch.tensor([1, 0, 1], device=DEVICE))
    check(h)
    h.truncate(h.length - 75)
    assert h.sketch.codes.length == h.position.length == h.clustered
    check(h)
    h.append(*(torch.randn(3, 2, 40, size, device=DEVICE) for size in (D, 24)))
    h.join()
    check(h)


def test_none_is_sketches_by_the_kernels_and_not_in_torch():
    found = {backend: filled(sketch=None, backend=backend).sketch for backend in ("torch", "triton")}
    assert found["torch"] is None
    assert isinstance(found["triton"], Sketch)
    assert filled(sketch=False, backend="triton").sketch is None
    assert Settings().sketch is False
    with pytest.raises(TypeError, match="sketch is 'yes'; True, False or None is needed"):
        Settings(sketch="yes")


@pytest.mark.parametrize("sketched", [False, True])
def test_a_loaded_cache_has_the_sketches_that_were_saved_whatever_runs_it(tmp_path, sketched):
    cache = MultipoleCache(**SMALL, sketch=sketched)
    cache.update(*(torch.randn(2, 2, 200, size) for size in (D, 24)), 0)
    h = cache.layers[0].hierarchy
    h.join()
    path = cache.save(tmp_path / "cache.safetensors")
    assert ("two bits a coordinate of some" in cache.report()) == sketched
    back = MultipoleCache.load(path).layers[0].hierarchy
    assert (back.sketch is not None) == sketched
    for name, buffer in h.buffers().items():
        assert torch.equal(back.buffers()[name].view(), buffer.view()), name


def test_sketches_cost_7_percent_of_half_precision():
    held = []
    for sketched in (False, True):
        h = Hierarchy(Settings(sketch=sketched, dense_until=0, iterations=0))
        h.append(*(torch.randn(1, 1, 4000, 64).half() for _ in range(2)))
        h.join()
        held.append(sum(part.nbytes for part in h.buffers().values()))
    more = (held[1] - held[0]) / (4000 * 4 * 64)
    assert 0.065 < more < 0.075, more

"""The step that stays in place from join to join gives what torch gives, launched or replayed as a graph is."""

import types

import pytest
import torch
from random_cache import DEVICE
from transformers import LlamaConfig, LlamaForCausalLM

import multipole_lab as ml
from multipole_lab.decoding.step import balance, fixed
from multipole_lab.decoding.store import joining
from multipole_lab.decoding.store.blocks import cluster_block
from multipole_lab.kernels.decode import attend, lookup, merge, select
from multipole_lab.threads import one_thread

SMALL = {
    "block": 16, "interval": 4, "recent": 4, "sinks": 2, "fraction": 1 / 4, "iterations": 1, "branch": 2,
    "budget": 0.3, "dense_until": 0,
}  # fmt: skip
MODULES = lookup, select, attend, merge


@pytest.fixture(autouse=True)
def _quick_and_repeatable(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(fixed, "PLACES", 4)
    # The kernels' clusters are compared elsewhere, and the interpreter takes most of its time for them.
    monkeypatch.setattr(joining, "clusterer", lambda h: (cluster_block, False))
    monkeypatch.setattr(balance, "FIRST", 1)
    monkeypatch.setattr(balance, "EVERY", 3)
    with one_thread():
        yield


@pytest.fixture
def replayed(monkeypatch):
    """Graphs as a CPU can have them: the launches of one step, which are all that is done in the steps behind it."""
    replays = []

    def record(self, work, weighs):
        launches = []
        with pytest.MonkeyPatch.context() as patch:
            for module in MODULES:
                real = module.launch

                def launch(*args, real=real, **more):
                    launches.append(lambda: real(*args, **more))
                    real(*args, **more)

                patch.setattr(module, "launch", launch)
            out, error = self._launch(work, weighs)

        def replay():
            replays.append(self)
            self._count_one_more()
            out.fill_(torch.nan)
            if weighs:  # what torch adds to the launches is in a graph, too
                for held, new in zip((out, error), self._launch(work, True), strict=True):
                    held.copy_(new)
            for one in () if weighs else launches:
                one()

        return fixed.Recorded(types.SimpleNamespace(replay=replay), out, error, work.buffers())

    monkeypatch.setattr(fixed, "records", lambda q: True)
    monkeypatch.setattr(fixed.FixedStep, "_record", record)
    if DEVICE == "cpu":
        import contextlib

        monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    return replays


def outputs(backend, steps, hidden=0, n=18, **settings):
    """What every step of two layers gives, and the cache behind the last one."""
    g = torch.Generator().manual_seed(1)
    sketch = {"sketch": True}
    cache, batch = ml.MultipoleCache(**SMALL | sketch | settings, backend=backend), 2 if hidden else 1

    def vectors(heads, n):
        return torch.randn(batch, heads, n, 16, generator=g).to(DEVICE)

    for i in range(2):
        cache.update(vectors(1, n), vectors(1, n), i)
    outs = []
    for t in range(n + 1, n + 1 + steps):
        mask = None
        if hidden:
            mask = torch.ones(2, 1, 1, t, dtype=torch.bool, device=DEVICE)
            mask[1, ..., :hidden] = False
        for i in range(2):
            cache.update(vectors(1, 1), vectors(1, 1), i)
            outs.append(cache.layers[i].attend(vectors(2, 1), mask, None))
    return torch.stack(outs), cache


CASES = {
    "two levels": {},
    "one level": {"levels": 1},
    "padding": {"hidden": 5},
    "a budget in keys": {"budget": 6, "balance": False},
    "no budget": {"budget": 0},
    "no sketches": {"sketch": False},
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_replayed_steps_give_what_torch_gives(case, replayed):
    """Over weighings, whose shares change the rooms, and a join of each layer."""
    ours, cache = outputs("triton", 7, **CASES[case])
    theirs, same = outputs("torch", 7, **CASES[case])
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert len(replayed) > 3
    assert {id(one) for one in replayed} >= {id(layer.fixed) for layer in cache.layers if layer.fixed.graphs}
    for one, other in zip(cache.layers, same.layers, strict=True):
        assert one.hierarchy.blocks == other.hierarchy.blocks
        if one.portion.share is not None:
            torch.testing.assert_close(one.portion.share, other.portion.share, rtol=1e-3, atol=1e-3)


def test_a_step_is_made_again_only_when_something_moved(monkeypatch):
    made = []
    real = fixed.FixedStep.__init__
    monkeypatch.setattr(
        fixed.FixedStep, "__init__", lambda self, *a, **m: made.append(1) or real(self, *a, **m)
    )
    _, cache = outputs("triton", 3, levels=1, balance=False)
    assert len(made) == 2  # one a layer
    held = cache.layers[0].fixed
    cache.crop(-2)
    g = torch.randn(1, 1, 1, 16).to(DEVICE)
    cache.update(g, g, 0)
    cache.layers[0].attend(torch.cat([g, g], 1), None, None)
    assert len(made) == 3
    assert cache.layers[0].fixed is not held


def test_keys_that_came_together_count_too(replayed):
    """A further message between two steps, too short to join: the device has not counted its keys one by one."""
    outs = []
    for backend in ("triton", "torch"):
        _, cache = outputs(backend, 3, levels=1, interval=8)
        g = torch.Generator().manual_seed(2)
        for n in (1, 3, 1, 1):
            for i in range(2):
                key, query = torch.randn(2, 1, 1, n, 16, generator=g).to(DEVICE)
                cache.update(key, query, i)
                if n == 1:
                    outs.append(cache.layers[i].attend(torch.cat([key, query], 1), None, None))
    ours, theirs = torch.stack(outs).chunk(2)
    assert len(replayed) > 3
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_places_of_the_tail_that_hold_no_key_yet_count_nothing_whatever_lies_there():
    """Memory that was never written may hold anything, NaN too."""
    ours, cache = outputs("triton", 2, levels=1)
    layer = cache.layers[0]
    layer.hierarchy.keys.buffer[:, :, layer.hierarchy.length :] = torch.nan
    layer.hierarchy.changes += 1
    layer.hierarchy.values.buffer[:, :, layer.hierarchy.length :] = torch.nan
    g = torch.randn(1, 1, 1, 16).to(DEVICE)
    cache.update(g, g, 0)
    assert cache.layers[0].attend(torch.cat([g, g], 1), None, None).isfinite().all()


def test_what_a_step_returned_is_not_written_over_by_the_next(replayed):
    g = torch.Generator().manual_seed(1)
    cache = ml.MultipoleCache(**SMALL, backend="triton", levels=1)
    x = torch.randn(1, 1, 18, 16, generator=g).to(DEVICE)
    cache.update(x, x, 0)
    kept, copies = [], []
    for _ in range(4):
        new = torch.randn(1, 1, 1, 16, generator=g).to(DEVICE)
        cache.update(new, new, 0)
        kept.append(cache.layers[0].attend(torch.cat([new, new], 1), None, None))
        copies.append(kept[-1].clone())
    assert len(replayed) >= 2
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="graphs are a GPU's")
def test_a_model_on_a_gpu_generates_by_graphs_what_it_generates_by_torch():
    config = LlamaConfig(
        hidden_size=128, intermediate_size=128, num_hidden_layers=3, vocab_size=99, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, eos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM._from_config(config).eval().to(DEVICE)
    ids = torch.randint(3, 99, (2, 300), device=DEVICE)
    asked = {"max_new_tokens": 60, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    settings = {"block": 64, "interval": 16, "recent": 32, "lookups": 1.0, "budget": 1.0}
    ours = ml.MultipoleCache(**settings)
    assert torch.equal(model.generate(ids, **asked, past_key_values=ours), model.generate(ids, **asked))
    assert all(layer.fixed.graphs for layer in ours.layers)

"""A step by the kernels makes no host wait: not for its choice, the shares of the budget, a mask or a join."""

import pytest
import torch
from fake_gpu import host_reads
from random_cache import make
from transformers import LlamaConfig, LlamaForCausalLM

import multipole_lab as ml
from multipole_lab.decoding.layer import ClusteredLayer
from multipole_lab.decoding.step import balance
from multipole_lab.decoding.step.reference import decode_step as reference
from multipole_lab.decoding.step.trace import Seen
from multipole_lab.kernels.decode.step import decode_step
from multipole_lab.threads import one_thread

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = {
    "block": 32, "interval": 8, "recent": 8, "sinks": 4, "fraction": 1 / 8, "iterations": 1, "branch": 2,
    "budget": 0.2, "backend": "triton", "dense_until": 0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _quick_and_repeatable():
    torch.manual_seed(0)
    with one_thread():
        yield


def filled(layers=2, n=40, batch=1, **settings):
    """A cache that holds a prompt, and a function that takes one step in every layer."""
    cache = ml.MultipoleCache(**SMALL | settings)
    g = torch.Generator().manual_seed(1)

    def vectors(heads, n):
        return torch.randn(batch, heads, n, 16, generator=g).to(DEVICE)

    def step(mask=None):
        outs = []
        for i in range(layers):
            cache.update(vectors(1, 1), vectors(1, 1), i)
            outs.append(cache.layers[i].attend(vectors(2, 1), mask, None))
        return torch.stack(outs)

    for i in range(layers):
        cache.update(vectors(1, n), vectors(1, n), i)
    return cache, step


@pytest.mark.parametrize("settings", [{}, {"levels": 1, "top_p": 0.9}], ids=str)
def test_steps_weighings_and_joins_read_nothing(settings, monkeypatch):
    monkeypatch.setattr(balance, "FIRST", 3)
    monkeypatch.setattr(balance, "EVERY", 2)
    cache, step = filled(n=24, **settings, interval=4)
    found, ends = [], set()
    with host_reads(found):
        for _ in range(5):
            step()
            ends.add(cache.layers[0].hierarchy.clustered)
    assert found == []
    assert len(ends) > 1  # keys have joined
    assert all(one.portion.share is not None for one in cache.layers)


def test_a_model_makes_no_mask_for_a_step_that_hides_nothing(monkeypatch):
    """For a cache that says it can be compiled transformers would write one out for every token."""
    config = LlamaConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, vocab_size=99, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    model, masks = LlamaForCausalLM._from_config(config).eval(), []
    real = ClusteredLayer.attend
    monkeypatch.setattr(
        ClusteredLayer, "attend", lambda self, q, mask, *a: masks.append(mask) or real(self, q, mask, *a)
    )
    cache = ml.MultipoleCache(**SMALL | {"backend": "torch"})
    ids = torch.randint(3, 99, (2, 40))
    with torch.no_grad():
        model(ids, past_key_values=cache)
        model(ids[:, :1], past_key_values=cache)
        assert masks == [None, None]
        assert cache.is_compileable  # to whoever asks outside of a model, as generate does
        shown = torch.ones(2, 42, dtype=torch.long)
        shown[1, :9] = 0
        cache = ml.MultipoleCache(**SMALL | {"backend": "torch"})
        model(ids, past_key_values=cache, attention_mask=shown[:, :40])
        model(ids[:, :1], past_key_values=cache, attention_mask=shown[:, :41])
    assert [mask[1].sum().item() for mask in masks[2:]] == [32, 32]


def test_a_mask_is_asked_for_nothing_once_its_step_is_over():
    """That of a compiled model lies in memory of its graph, which refuses to be asked in the next step."""

    class Once(torch.Tensor):
        over = False

        def data_ptr(self):
            assert not self.over
            return super().data_ptr()

    cache, step = filled(layers=2, batch=2, backend="torch")
    for i in range(3):
        mask = torch.ones(2, 1, 1, 41 + i, dtype=torch.bool, device=DEVICE)
        mask[1, :, :, :9] = False
        mask = mask.as_subclass(Once)
        step(mask)
        mask.over = True
    assert all(one.hierarchy.valid[1].sum() == 34 for one in cache.layers)


def test_a_mask_of_padding_is_read_once_for_all_layers():
    cache, step = filled(layers=3, batch=2, backend="torch")
    for i in range(4):
        mask = torch.ones(2, 1, 1, 41 + i, dtype=torch.bool, device=DEVICE)
        mask[1, :, :, :9] = False
        found = []
        with host_reads(found):
            step(mask)
    assert len(found) == 1, found
    assert "padding.py" in found[0]
    assert all(one.dense_steps == 0 for one in cache.layers)
    assert all(one.hierarchy.valid.equal(mask[:, 0, 0]) for one in cache.layers)


def test_the_step_that_clusters_a_padded_prompt_waits_for_its_mask_and_nothing_else():
    cache, step = filled(layers=3, n=24, batch=2)
    mask = torch.ones(2, 1, 1, 25, dtype=torch.bool, device=DEVICE)
    mask[1, ..., :7] = False
    with host_reads(found := []):
        step(mask)
    assert len(found) == 1, found
    assert "padding.py" in found[0]
    assert all(one.hierarchy.blocks and not one.dense_steps for one in cache.layers)
    assert [int(one.hierarchy.settled) for one in cache.layers] == [11] * 3  # behind the last of 4 sinks


def test_a_mask_that_changed_in_what_is_clustered_is_noticed_in_every_layer():
    cache, step = filled(layers=2, backend="torch")
    for i in range(3):
        mask = torch.ones(1, 1, 1, 41 + i, dtype=torch.bool, device=DEVICE)
        mask[..., : 9 + (i == 2)] = False
        if i < 2:
            step(mask)
    for i, layer in enumerate(cache.layers):
        cache.update(torch.randn(1, 1, 1, 16).to(DEVICE), torch.randn(1, 1, 1, 16).to(DEVICE), i)
        assert layer.attend(torch.randn(1, 2, 1, 16).to(DEVICE), mask, None) is None


def test_layers_join_one_after_the_other_and_none_waits_longer_than_an_interval():
    layers, most = 5, 8 + 8 + 5
    cache, step = filled(layers, backend="torch")
    step()
    assert len({one.hierarchy.clustered for one in cache.layers}) == 1  # the prompt's keys join at once
    for _ in range(40):
        before = [one.hierarchy.clustered for one in cache.layers]
        step()
        after = [one.hierarchy.clustered for one in cache.layers]
        assert sum(a != b for a, b in zip(before, after, strict=True)) <= 1
        assert all(one.hierarchy.length - one.hierarchy.clustered < most for one in cache.layers)


def test_more_layers_than_steps_in_an_interval_share_its_steps():
    cache, step = filled(5, backend="torch", interval=2, block=32)
    for _ in range(20):
        step()
    assert max(one.hierarchy.waiting() for one in cache.layers) < 4


@pytest.mark.parametrize("sizes", [(16,), (40, 6)], ids=["one level", "two levels"])
def test_the_kernels_say_what_they_chose_as_the_reference_does(sizes):
    q, state = make(2, 6, 2, 100, 32, 16, sizes)(torch.float32)
    found = []
    for step in (decode_step, reference):
        seen = Seen()
        step(q, state, scale=0.25, budget=30, lookups=20, seen=seen)
        found.append(seen.parts)
    (ours, *choice, share), (theirs, *chosen, shares) = found
    assert all(torch.equal(a, b) for a, b in zip(choice, chosen, strict=True))  # looked at, opened
    torch.testing.assert_close(share, shares, rtol=1e-4, atol=1e-6, equal_nan=True)
    assert torch.equal(ours.sort(-1).values, theirs.sort(-1).values.to(ours.dtype))

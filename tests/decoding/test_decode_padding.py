"""The padding of a prompt is learnt from its own mask; its clusters are made once, in the first step."""

import contextlib

import pytest
import torch
from exact_cache import EXACT
from fake_gpu import host_reads
from tiny_models import close, tiny
from transformers import DynamicCache

import multipole_lab as ml
from multipole_lab.decoding.layer import ClusteredLayer
from multipole_lab.decoding.store import joining
from multipole_lab.threads import one_thread

ROUGH = EXACT | {"budget": 0, "replacement": False}  # a step over clusters is far from a dense one
PADS, LENGTH = (7, 0, 31), 47  # a text without padding among them; no multiple of anything


@pytest.fixture(autouse=True)
def _quick():
    with one_thread():
        yield


def tokens(n=LENGTH + 9):
    return torch.randint(3, 60, (len(PADS), n), generator=torch.Generator().manual_seed(n))


def shown(n, pads=PADS, right=0):
    """The reference: which keys count, as a model's own two-dimensional mask says; ``right`` hides the prompt's end."""
    place = torch.arange(n)
    mask = torch.stack([place >= pad for pad in pads])
    mask[0, LENGTH - right : LENGTH] = False
    return mask


def additive(mask, n):
    """The mask that a user makes for n new tokens, to add to the logits, [B, 1, n, N]."""
    N = mask.shape[1]
    seen = torch.ones(n, N, dtype=torch.bool).tril(N - n) & mask[:, None]
    return torch.zeros(seen.shape, dtype=torch.double).masked_fill(~seen, -torch.inf)[:, None]


def read(model, cache, ids, mask, pieces, make=None):
    """A model reads pieces of a text, each with the mask up to there; the logits of the last tokens."""
    outs, at = [], cache.get_seq_length()
    for n in pieces:
        at, part = at + n, ids[:, at : at + n]
        given = None if mask is None else mask[:, :at].long()
        given = make(mask[:, :at], n) if make else given
        with torch.no_grad():
            outs.append(model(part, attention_mask=given, past_key_values=cache).logits[:, -1])
    return torch.stack(outs, 1)


def clustered(cache):
    return [layer for layer in cache.layers if isinstance(layer, ClusteredLayer)]


def learnt(cache):
    return [layer.hierarchy.valid for layer in clustered(cache)]


WAYS = {
    "sdpa": {},
    "a context": {"on": True},
    "a context over eager": {"on": True, "eager": True},
    "three pieces": {"pieces": (20, 2, 25)},
    "a piece of one token": {"pieces": (1, 46)},
    "a mask of the user": {"make": additive},
    "right padding": {"right": 5},
    "a window in other layers": {"name": "gemma3", "on": True, "eager": True},
    "inference mode": {"inference": True},
    "a graph": {"compiled": True},
}


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_padding_of_a_prompt_is_known_before_a_step_and_the_steps_are_dense_ones(way):
    how = WAYS[way]
    name, pieces, make = how.get("name", "llama"), how.get("pieces", (LENGTH,)), how.get("make")
    model, ids, mask = tiny(name), tokens(), shown(LENGTH + 9, right=how.get("right", 0))
    dense = read(model, DynamicCache(config=model.config), ids, mask, pieces + (1,) * 9, make)
    cache, run = ml.MultipoleCache(**EXACT, config=model.config if name == "gemma3" else None), model
    if how.get("eager"):
        model.set_attn_implementation("eager")
    if how.get("compiled"):
        torch.compiler.reset()
        run = torch.compile(model, backend="eager", fullgraph=True)
    with (
        torch.inference_mode() if how.get("inference") else contextlib.nullcontext(),
        cache.on(model) if how.get("on") else contextlib.nullcontext(),
    ):
        first = read(run, cache, ids, mask, pieces, make)
        assert len(clustered(cache)) == {"llama": 3, "gemma3": 1}[name]
        assert all(valid.equal(mask[:, :LENGTH]) for valid in learnt(cache))
        assert cache.attends_densely
        steps = read(run, cache, ids, mask, (1,) * 9, make)
    close(torch.cat([first, steps], 1), dense, atol=1e-6)
    assert all(valid.equal(mask) for valid in learnt(cache))
    assert all(one.hierarchy.blocks and not one.dense_steps for one in clustered(cache))


@pytest.mark.parametrize("make", [None, additive], ids=["the model's mask", "a mask of the user"])
def test_the_mask_of_a_prompt_is_read_without_waiting(make):
    cache = ml.MultipoleCache(**EXACT)
    with host_reads(found := []):
        read(tiny("llama"), cache, tokens(), shown(LENGTH), (40, 7), make)
    assert found == []
    assert all(valid.equal(shown(LENGTH)) for valid in learnt(cache))


@pytest.mark.parametrize("on", [False, True], ids=["sdpa", "a context"])
def test_all_layers_wait_once_to_compare_the_first_step_with_the_prompt(on):
    model, cache = tiny("llama"), ml.MultipoleCache(**EXACT)
    with cache.on(model) if on else contextlib.nullcontext():
        read(model, cache, tokens(), shown(LENGTH), (LENGTH,))
        with host_reads(found := []):  # torch's clustering reads too
            read(model, cache, tokens(), shown(LENGTH + 9), (1,))
    assert len([one for one in found if "padding.py" in one]) == 1
    assert not [one for one in found if "hierarchy.py" in one]
    assert all(one.hierarchy.blocks for one in cache.layers)


@pytest.mark.parametrize("pieces", [(LENGTH,), (20, 2, 25)], ids=str)
@pytest.mark.parametrize("on", [False, True], ids=["sdpa", "a context"])
def test_a_padded_prompt_is_clustered_once_when_one_without_padding_is(pieces, on, monkeypatch):
    made, real = [], joining.recluster
    monkeypatch.setattr(joining, "recluster", lambda h, *a: made.append(id(h)) or real(h, *a))
    model, counts = tiny("llama"), []
    for pads in (PADS, (0, 0, 0)):
        cache, mask = ml.MultipoleCache(**EXACT | {"block": 64, "interval": 16}), shown(LENGTH + 9, pads)
        with cache.on(model) if on else contextlib.nullcontext():
            for some in (pieces, (1,), (1, 1)):
                made.clear()
                read(model, cache, tokens(), mask, some)
                counts.append([made.count(id(one.hierarchy)) for one in cache.layers])
    assert counts == [[0, 0, 0], [1, 1, 1], [0, 0, 0]] * 2


def test_a_prompt_whose_written_mask_hides_nothing_has_no_padding():
    """A later piece's mask is written out by transformers, whatever it hides; that of a step too if it is asked to."""
    model, ids = tiny("llama"), tokens()
    dense = read(model, DynamicCache(), ids, None, (30, 17, 1, 1))
    for make in (None, additive):
        cache, mask = ml.MultipoleCache(**EXACT), shown(LENGTH + 9, (0, 0, 0))
        first = read(model, cache, ids, mask, (30, 17), make)
        assert all(valid.all() for valid in learnt(cache))
        close(torch.cat([first, read(model, cache, ids, mask, (1, 1), make)], 1), dense, atol=1e-6)
        assert learnt(cache) == [None] * 3
        assert all(one.hierarchy.blocks and not one.dense_steps for one in cache.layers)


def test_a_step_without_a_mask_sees_what_the_prompt_hid():
    model, ids, outs = tiny("llama"), tokens(), []
    for cache in (DynamicCache(), ml.MultipoleCache(**EXACT)):
        read(model, cache, ids, shown(LENGTH), (LENGTH,))
        outs.append(read(model, cache, ids, None, (1,) * 5))
    close(outs[1], outs[0], atol=1e-6)
    assert learnt(cache) == [None] * 3
    assert all(one.hierarchy.blocks and not one.dense_steps for one in cache.layers)


def test_a_window_is_no_padding_and_is_never_clustered():
    """Without the configuration the cache keeps all keys; it took a window for padding in the first step before."""
    model, ids = tiny("mistral", sliding_window=16), tokens()
    for pads in (PADS, (0, 0, 0)):
        mask, outs = shown(LENGTH + 9, pads), []
        for cache in (DynamicCache(config=model.config), ml.MultipoleCache(**ROUGH)):
            outs.append(read(model, cache, ids, mask, (LENGTH, *(1,) * 9)))
        close(outs[1], outs[0], atol=1e-6)
        assert cache.attends_densely
        assert all(one.dense_steps == 9 for one in cache.layers)


def bias(mask, n):
    return additive(mask, n) - 0.5 * (torch.arange(mask.shape[1]) == 20)


def of_every_head(mask, n):
    return additive(mask, n).expand(-1, 4, -1, -1)


@pytest.mark.parametrize("prompt", [bias, "other padding"], ids=["a bias", "other padding"])
def test_a_step_that_does_not_go_on_with_the_prompts_mask_is_dense_and_the_next_one_clusters(prompt):
    model, ids, mask, outs = tiny("llama"), tokens(), shown(LENGTH + 9), []
    for cache in (DynamicCache(), ml.MultipoleCache(**ROUGH)):
        given, make = (mask, prompt) if callable(prompt) else (shown(LENGTH, (3, 9, 0)), None)
        read(model, cache, ids, given, (LENGTH,), make)
        outs.append(read(model, cache, ids, mask, (1,)))
    close(outs[1], outs[0], atol=1e-6)
    assert [one.dense_steps for one in cache.layers] == [1] * 3
    assert cache.attends_densely
    read(model, cache, ids, mask, (1,))
    assert [one.dense_steps for one in cache.layers] == [1] * 3
    assert not cache.attends_densely
    assert all(valid.equal(mask[:, : LENGTH + 2]) for valid in learnt(cache))


def test_a_mask_of_every_head_teaches_nothing_and_the_first_step_does():
    model, cache, mask = tiny("llama"), ml.MultipoleCache(**EXACT), shown(LENGTH + 9)
    read(model, cache, tokens(), mask, (LENGTH,), of_every_head)
    assert learnt(cache) == [None] * 3
    read(model, cache, tokens(), mask, (1,))
    assert all(valid.equal(mask[:, : LENGTH + 1]) for valid in learnt(cache))
    assert all(one.hierarchy.blocks for one in cache.layers)


@pytest.mark.parametrize("pads", [(46, 0, 45), (1, 46, 46), (47, 0, 3)], ids=str)
def test_texts_of_one_token_or_none_beside_longer_ones(pads):
    model, ids, mask, outs = tiny("llama"), tokens(), shown(LENGTH + 9, pads), []
    for cache in (DynamicCache(), ml.MultipoleCache(**EXACT)):
        outs.append(read(model, cache, ids, mask, (LENGTH, *(1,) * 9)))
    rows = [i for i, pad in enumerate(pads) if pad < LENGTH]  # what a token sees that sees none is nobody's
    close(outs[1][rows], outs[0][rows], atol=1e-6)
    assert all(valid.equal(mask) for valid in learnt(cache))
    assert all(one.hierarchy.blocks and not one.dense_steps for one in cache.layers)


CHANGES = {
    "reorder": (lambda cache: cache.reorder_cache(torch.tensor([2, 0, 0])), (2, 0, 0)),
    "select": (lambda cache: cache.batch_select_indices(torch.tensor([2, 1])), (2, 1)),
    "repeat": (lambda cache: cache.batch_repeat_interleave(2), (0, 0, 1, 1, 2, 2)),
    "crop": (lambda cache: cache.crop(-6), (0, 1, 2)),
}


@pytest.mark.parametrize("how", [*CHANGES, "save"])
def test_padding_goes_with_the_texts_between_the_prompt_and_the_first_step(how, tmp_path):
    model, outs = tiny("llama"), []
    change, rows = CHANGES.get(how, (None, (0, 1, 2)))
    ids, mask = tokens()[list(rows)], shown(LENGTH + 9)[list(rows)]
    for cache in (DynamicCache(), ml.MultipoleCache(**EXACT)):
        read(model, cache, tokens(), shown(LENGTH), (LENGTH,))
        if change is not None:
            change(cache)
        elif isinstance(cache, ml.MultipoleCache):
            cache = ml.MultipoleCache.load(cache.save(tmp_path / "cache.safetensors"))
        outs.append(read(model, cache, ids, mask, (1,) * 8))
        if isinstance(cache, ml.MultipoleCache):
            assert all(valid.equal(mask[:, : cache.get_seq_length()]) for valid in learnt(cache))
            assert all(one.hierarchy.blocks and not one.dense_steps for one in cache.layers)
    close(outs[1], outs[0], atol=1e-6)


@pytest.mark.parametrize("pads", [(0, 0, 0), PADS], ids=["the first without", "the first too"])
def test_padding_between_two_turns_is_honoured_over_clusters(pads):
    """Of the second turn, in the tail; nothing that is clustered changes."""
    model, ids, mask, outs = tiny("llama"), tokens(LENGTH + 30), shown(LENGTH + 30, pads), []
    mask[0, LENGTH + 2 : LENGTH + 7], mask[2, LENGTH + 2 : LENGTH + 4] = False, False
    for cache in (DynamicCache(), ml.MultipoleCache(**EXACT)):
        outs.append(read(model, cache, ids, mask, (LENGTH, 1, 1, 9, *(1,) * 18)))
    close(outs[1], outs[0], atol=1e-6)
    assert all(valid.equal(mask[:, :-1]) for valid in learnt(cache))
    assert all(one.dense_steps == 0 and one.hierarchy.clustered > LENGTH + 7 for one in cache.layers)
    mask[1, 20] = False  # is in a cluster
    outs = [read(model, c, ids, mask, (1,)) for c in (DynamicCache(cache), cache)]
    close(outs[1], outs[0], atol=1e-6)
    assert all(one.dense_steps == 1 for one in cache.layers)


def test_a_short_text_learns_its_padding_from_the_prompt_and_clusters_later():
    model, ids, mask, outs = tiny("llama"), tokens(), shown(LENGTH + 9), []
    for cache in (DynamicCache(), ml.MultipoleCache(**EXACT | {"dense_until": LENGTH + 4})):
        outs.append(read(model, cache, ids, mask, (LENGTH, *(1,) * 9)))
    close(outs[1], outs[0], atol=1e-6)
    assert all(one.hierarchy.blocks and not one.dense_steps for one in cache.layers)
    assert all(valid.equal(mask) for valid in learnt(cache))

"""The trace of a clustered cache says what its steps read, and nothing else."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from multipole_lab.decoding import MultipoleCache, decode_step, labels
from multipole_lab.decoding.settings import Settings
from multipole_lab.decoding.step.trace import Seen, traced
from multipole_lab.decoding.store.hierarchy import Hierarchy
from multipole_lab.threads import one_thread

SMALL = {
    "fraction": 1 / 8,
    "dense_until": 0,
    "recent": 8,
    "sinks": 4,
    "interval": 8,
    "block": 32,
    "budget": 12,
}


@pytest.fixture(autouse=True)
def _quick_and_repeatable():
    torch.manual_seed(0)
    with one_thread():
        yield


def model():
    config = LlamaConfig(
        vocab_size=99, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


def generate(cache, padding=0, tokens=6):
    ids, mask = torch.randint(2, 99, (2, 60)), torch.ones(2, 60, dtype=torch.int64)
    mask[1, :padding] = 0
    return model().generate(
        ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, past_key_values=cache
    )


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("padding", [0, 15])
def test_a_step_read_its_sinks_its_tail_and_the_members_of_opened_clusters(levels, padding):
    cache = MultipoleCache(**SMALL, levels=levels, balance=False)
    with cache.trace() as trace:
        generate(cache, padding)
    assert len(trace.steps) == 3 * 5  # the prompt gives the first of six tokens
    assert {step.layer for step in trace.steps} == {0, 1, 2}
    last = trace.of(2)[-1]
    h = cache.layers[2].hierarchy
    assert last.length == h.length
    cluster, read = labels(h), last.exact()
    assert read.shape == cluster.shape == (2, 2, last.length)
    assert read[..., last.tail :].all()
    assert np.take_along_axis(read, np.broadcast_to(last.sinks[:, None], (2, 2, 4)), -1).all()
    for b in range(2):
        for head in range(2):
            opened = np.flatnonzero(last.opened[b, head])
            members = np.flatnonzero(np.isin(cluster[b, head], opened))
            chosen = last.chosen[b, head][last.chosen[b, head] >= 0]
            assert sorted(chosen) == members.tolist()
            assert len(chosen) == last.tokens[b, head][opened].sum() <= 12
            assert read[b, head].sum() == len(chosen) + 4 + last.length - last.tail
    assert (last.opened <= last.looked).all()
    assert np.isfinite(last.share[last.looked]).all()
    assert np.isnan(last.share[~last.looked]).all()
    assert levels == 2 or last.looked.all()
    if padding:
        assert not read[1, :, :padding].any()
        assert (cluster[1, :, :padding] == -1).all()


@pytest.mark.parametrize("level", [0, 1])
def test_labels_count_the_tokens_of_every_cluster(level):
    cache = MultipoleCache(**SMALL)
    generate(cache, tokens=20)
    h = cache.layers[0].hierarchy
    found, tokens = labels(h, level), h.levels[level].tokens.view().numpy()
    for b in range(2):
        for head in range(2):
            held = found[b, head][found[b, head] >= 0]
            counted = np.bincount(held, minlength=tokens.shape[-1])
            assert np.array_equal(counted, tokens[b, head])
    assert (found >= 0).sum(-1).tolist() == [[h.clustered - h.sinks] * 2] * 2


def test_a_trace_is_off_by_default_ends_and_takes_only_the_layers_asked_for():
    cache = MultipoleCache(**SMALL)
    with cache.trace(layers=[1]) as trace:
        text = generate(cache)
    assert {step.layer for step in trace.steps} == {1}
    before = len(trace.steps)
    more = torch.cat([text, text[:, :1]], 1)
    model().generate(more, max_new_tokens=4, do_sample=False, past_key_values=cache)
    assert len(trace.steps) == before


def test_a_trace_changes_no_token():
    plain = generate(MultipoleCache(**SMALL))
    torch.manual_seed(0)
    cache = MultipoleCache(**SMALL)
    with cache.trace():
        assert torch.equal(generate(cache), plain)


def test_before_anything_is_clustered_everything_is_tail():
    cache = MultipoleCache()
    with cache.trace() as trace:
        generate(cache, tokens=3)
    assert all(step.exact().all() and step.opened.shape[-1] == 0 for step in trace.steps)
    assert (labels(cache.layers[0].hierarchy) == -1).all()


def test_all_that_is_within_the_budget_is_exact():
    h = Hierarchy(Settings(**SMALL, levels=2))
    h.append(torch.randn(1, 2, 300, 16), torch.randn(1, 2, 300, 16))
    h.join()
    seen = Seen()
    decode_step(torch.randn(1, 4, 1, 16), h.state(), scale=0.25, budget=300, seen=seen)
    assert traced(0, h, seen, group=2).exact().all()


def test_a_level_that_is_not_there_is_named():
    h = Hierarchy(Settings(**SMALL, levels=1))
    h.append(torch.randn(1, 2, 300, 16), torch.randn(1, 2, 300, 16))
    h.join()
    with pytest.raises(ValueError, match="level is 1"):
        labels(h, 1)

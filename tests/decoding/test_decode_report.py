"""``MultipoleCache.report``: every number in it is one that the cache can be asked for in another way."""

import copy
import inspect
import re

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import multipole_lab as ml
from multipole_lab.decoding.settings import Settings
from multipole_lab.threads import one_thread

SMALL = {
    "recent": 8,
    "dense_until": 0,
    "sinks": 4,
    "interval": 8,
    "block": 32,
    "fraction": 1 / 8,
    "budget": 12,
}


def read(cache, n, attention="sdpa"):
    """A small model reads n tokens, the last nine one by one."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, vocab_size=99, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    model = LlamaForCausalLM._from_config(config, attn_implementation=attention).eval()
    ids = torch.randint(3, 99, (1, n))
    with torch.no_grad():
        for part in (ids[:, :-9], *ids[:, -9:].split(1, 1)):
            model(part, past_key_values=cache)


@pytest.fixture(scope="module")
def used():
    """A cache behind a prompt and some steps, in which keys have joined."""
    cache = ml.MultipoleCache(**SMALL)
    with one_thread():
        read(cache, 60)
        read(cache, 12)
    return cache


def numbers(text, pattern):
    found = re.search(pattern, text)
    assert found, text
    return [float(x.replace(",", "")) for x in found.groups()]


def test_it_says_what_is_held_and_what_a_step_reads(used):
    text, h = used.report(), used.layers[0].hierarchy
    held = numbers(
        text, r"Held: (\S+) keys a head in (\d+) layers; (\S+) lie in (\d+) clusters, these in (\d+)"
    )
    fine, coarse = (level.keys.length for level in h.levels)
    assert held == [h.length, 2, h.clustered - h.sinks, fine, coarse]
    read, centroids, exact, budget = numbers(
        text, r"reads (\d+) keys or .*: (\d+) centroids, (\d+) keys that are always exact, and up to (\d+) of"
    )
    assert read == centroids + exact + budget
    assert exact == h.sinks + h.length - h.clustered
    assert budget == 12
    assert centroids == coarse + fine
    assert "run by torch" in text


def test_it_says_where_the_time_of_the_prompt_and_of_the_steps_went(used):
    text = used.report()
    prompt, spent, share = numbers(
        text, r"Prompt: (\S+) ms in the model.*then (\S+) ms to cluster.*\((\d+)% of"
    )
    assert share == pytest.approx(100 * spent / prompt, abs=100 * spent / prompt * 0.05 + 1)
    middle, most = numbers(text, r"Last \d+ steps: (\S+) ms in the middle, (\S+) at most")
    assert 0 < middle <= most
    assert numbers(text, r"joined clusters in (\S+) ms")[0] > 0


def test_it_says_that_nothing_is_held_or_nothing_clustered_or_that_steps_were_dense():
    cache = ml.MultipoleCache(**SMALL)
    assert cache.report() == "The cache holds nothing yet."
    read(cache, 15)
    assert "none is in a cluster yet, so every step is dense and exact" in cache.report()
    assert cache.attends_densely
    read(cache, 30)
    assert not cache.attends_densely
    bias = torch.full((1, 1, 1, 46), -0.5)
    cache.update(torch.randn(1, 2, 1, 16), torch.randn(1, 2, 1, 16), 0)
    assert cache.layers[0].attend(torch.randn(1, 4, 1, 16), bias, None) is None
    assert "1 step of a layer had a mask that hides more than padding" in cache.report()


@pytest.mark.filterwarnings("ignore:the model's attention calls")
def test_it_says_that_the_attention_function_took_the_keys_themselves():
    cache, why = ml.MultipoleCache(**SMALL), "takes the keys themselves, as every function but sdpa does"
    read(cache, 60, "eager")
    assert f"so every step is dense and exact, for the model's attention {why}" in cache.report()
    assert "with cache.on(model):" in cache.report()
    cache.reset()
    read(cache, 15)
    assert cache.attends_densely
    assert why not in cache.report()


def test_a_copy_and_a_cache_that_was_reset_have_no_past(used):
    copied = copy.deepcopy(used)
    assert "Prompt:" not in copied.report()
    copied.reset()
    read(copied, 60)
    assert "Prompt:" in copied.report()


def test_the_signature_shows_every_setting_with_its_default():
    shown = inspect.signature(ml.MultipoleCache).parameters
    fields = Settings.__dataclass_fields__
    assert set(shown) == {*fields, "config"}
    assert all(shown[name].default == field.default for name, field in fields.items())

"""A text too short to gain is attended densely, and nothing of it is clustered before it is long enough."""

import math
from pathlib import Path

import pytest
import torch
from exact_cache import EXACT
from tiny_models import tiny
from transformers import DynamicCache

import multipole_lab as ml
from multipole_lab.decoding.settings import Settings
from multipole_lab.decoding.store import short
from multipole_lab.threads import one_thread

# Everything but the sinks and the last keys would be dropped, if anything were in clusters.
ROUGH = EXACT | {"budget": 0, "replacement": False}


@pytest.fixture(autouse=True)
def _quick():
    with one_thread():
        yield


def logits(model, cache, ids, prompt):
    with torch.no_grad():
        parts = ids[:, :prompt], *ids[:, prompt:].split(1, 1)
        return torch.cat([model(part, past_key_values=cache).logits for part in parts if part.numel()], 1)


def test_steps_are_dense_and_nothing_is_clustered_until_there_are_so_many_keys():
    model, ids = tiny("llama"), torch.randint(3, 60, (2, 66), generator=torch.Generator().manual_seed(0))
    dense = logits(model, DynamicCache(), ids, 40)
    cache = ml.MultipoleCache(**ROUGH | {"dense_until": 60})
    ours = logits(model, cache, ids[:, :59], 40)
    torch.testing.assert_close(ours, dense[:, :59], atol=1e-4, rtol=1e-4)
    assert cache.attends_densely
    assert cache.nbytes["centroids"] == 0
    assert "dense and exact, as long as there are fewer than 60 keys" in cache.report()
    clusters = []
    for t in range(59, 66):
        more = logits(model, cache, ids[:, t : t + 1], 1)
        clusters.append([bool(layer.hierarchy.blocks) for layer in cache.layers])
    # One layer a step begins with clusters, so that no step has all of them to make.
    assert clusters[:4] == [[True, False, False], [True, True, False], [True, True, True], [True, True, True]]
    assert not torch.allclose(more, dense[:, -1:], atol=1e-3)
    assert not cache.attends_densely


def test_a_prompt_that_is_long_enough_is_clustered_in_its_first_step_in_all_layers():
    model, ids = tiny("llama"), torch.randint(3, 60, (1, 61), generator=torch.Generator().manual_seed(0))
    cache = ml.MultipoleCache(**ROUGH | {"dense_until": 60})
    logits(model, cache, ids, 60)
    assert all(layer.hierarchy.blocks for layer in cache.layers)
    cache.crop(40)  # what has clusters keeps them
    assert not cache.attends_densely


def test_padding_and_masks_are_honoured_while_a_text_is_short():
    model, ids = tiny("llama"), torch.randint(3, 60, (2, 50), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 50, dtype=torch.int64)
    mask[0, :7] = 0
    asked = {"attention_mask": mask, "max_new_tokens": 20, "do_sample": False}
    cache = ml.MultipoleCache(**EXACT | {"dense_until": 60})
    assert torch.equal(model.generate(ids, **asked, past_key_values=cache), model.generate(ids, **asked))
    assert not cache.attends_densely  # the padding was learnt when clusters were made


def test_without_a_number_the_bytes_of_a_layer_decide():
    def least(batch, dtype=torch.float32, **settings):
        cache = ml.MultipoleCache(**settings)
        cache.update(torch.zeros(batch, 2, 5, 16, dtype=dtype), torch.zeros(batch, 2, 5, 48, dtype=dtype), 0)
        return short.dense_until(cache.layers[0].hierarchy)

    keys = short.LEAST_BYTES["cpu"] / (2 * (16 + 48) * 4)
    assert least(1) == pytest.approx(keys, abs=1)
    assert least(4) == pytest.approx(keys / 4, abs=1)
    assert least(1, torch.bfloat16) == pytest.approx(keys * 2, abs=1)
    assert least(1, dense_until=7) == 7


def test_a_number_below_none_is_refused():
    with pytest.raises(ValueError, match="dense_until is -1"):
        Settings(dense_until=-1)


def test_the_guide_says_from_which_text_on_a_cpu_clusters():
    token = 3 * (64 + 64) * 4  # SmolLM2's key heads, keys and values of 64, float32
    least = math.ceil(short.LEAST_BYTES["cpu"] / token)
    text = " ".join((Path(__file__).parents[2] / "docs/guides/uses.md").read_text(encoding="utf-8").split())
    assert (
        f"take {short.LEAST_BYTES['cpu'] // 10**6} MB** (SmolLM2, one text in float32: {least:,} tokens)"
        in text
    )

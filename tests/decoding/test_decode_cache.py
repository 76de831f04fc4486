"""``MultipoleCache`` inside transformers: generation, turns, beams, padding, crop, saving, accounting."""

import importlib.resources
import warnings

import pytest
import torch
from exact_cache import EXACT
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from multipole_lab.bench.decode.baselines import Clustered, Dense, Pages, TopKeys, WindowSinks
from multipole_lab.decoding import MultipoleCache
from multipole_lab.decoding.layer import ClusteredLayer
from multipole_lab.decoding.settings import Settings
from multipole_lab.threads import one_thread

CONFIGS = [LlamaConfig, Qwen2Config, Qwen3Config, MistralConfig, Gemma2Config, Gemma3TextConfig]


@pytest.fixture(autouse=True)
def _quick():
    """Tiny models are slower on two threads than on one, and much slower beside other work."""
    with one_thread():
        yield


def model_of(config_class, **more):
    torch.manual_seed(0)
    window = config_class in (Gemma2Config, Gemma3TextConfig)
    config = config_class(
        vocab_size=99, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=8192, pad_token_id=0, eos_token_id=None,
        bos_token_id=1, **({"sliding_window": 16} if window else {}), **more,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3 if p.ndim > 1 else 1)  # peaked attention, so that a mistake changes the tokens
    return model


def prompt(padding=0):
    torch.manual_seed(1)
    ids = torch.randint(2, 99, (2, 50))
    mask = torch.ones_like(ids)
    if padding:
        ids[1, :padding], mask[1, :padding] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def blocks(cache):
    return [len(one.hierarchy.blocks) for one in cache.layers if isinstance(one, ClusteredLayer)]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("padding", [0, 20])
def test_greedy_with_all_keys_exact_is_dense(config, padding):
    model = model_of(config)
    asked = {**prompt(padding), "max_new_tokens": 24, "do_sample": False}
    dense = model.generate(**asked)
    cache = MultipoleCache(**EXACT, config=model.config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gemma 2 cannot use sdpa, and is told so: see below
        assert torch.equal(model.generate(**asked, past_key_values=cache), dense)
    inside = MultipoleCache(**EXACT, config=model.config)
    before = model.config._attn_implementation
    with inside.on(model):
        assert torch.equal(model.generate(**asked, past_key_values=inside), dense)
    assert model.config._attn_implementation == before
    assert all(one > 0 for one in blocks(inside))
    assert all(one.dense_steps == 0 for one in inside.layers if isinstance(one, ClusteredLayer))


@pytest.mark.parametrize("config", [LlamaConfig, Qwen3Config], ids=lambda c: c.__name__)
@pytest.mark.parametrize("padding", [0, 20])
def test_beam_search_is_dense(config, padding):
    model = model_of(config)
    asked = {**prompt(padding), "max_new_tokens": 24, "do_sample": False, "num_beams": 3}
    cache = MultipoleCache(**EXACT)
    assert torch.equal(model.generate(**asked, past_key_values=cache), model.generate(**asked))
    assert min(blocks(cache)) > 0


def test_sampling_is_dense_with_one_seed():
    model = model_of(LlamaConfig)
    outs = []
    for cache in (DynamicCache(), MultipoleCache(**EXACT)):
        torch.manual_seed(3)
        outs.append(model.generate(**prompt(), max_new_tokens=24, do_sample=True, past_key_values=cache))
    assert torch.equal(*outs)


@pytest.mark.parametrize("config", [Qwen2Config, MistralConfig, Gemma3TextConfig], ids=lambda c: c.__name__)
def test_sampling_beams_and_turns_of_other_models_are_dense(config):
    model = model_of(config)
    outs = []
    for cache in (DynamicCache(config=model.config), MultipoleCache(**EXACT, config=model.config)):
        torch.manual_seed(3)
        text = model.generate(**prompt(), max_new_tokens=12, do_sample=True, past_key_values=cache)
        more = torch.cat([text, text[:, :5]], 1)
        outs.append(model.generate(more, max_new_tokens=12, do_sample=False, past_key_values=cache))
    assert torch.equal(*outs)
    asked = {**prompt(20), "max_new_tokens": 12, "do_sample": False, "num_beams": 2}
    beams = MultipoleCache(**EXACT, config=model.config)
    assert torch.equal(model.generate(**asked, past_key_values=beams), model.generate(**asked))


def test_a_real_model_with_all_keys_exact_is_dense_and_with_few_stays_close():
    """SmolLM2 after 300 tokens of the lab's text, where its weights are on this machine."""
    from multipole_lab.models.loading import is_cached, load_model

    if not is_cached("smollm2"):
        pytest.skip(
            "the weights of SmolLM2 are not on this machine: multipole-lab doctor says how to get them"
        )
    model, tokenizer = load_model("smollm2")
    text = (importlib.resources.files("multipole_lab.data") / "reading.txt").read_text(encoding="utf-8")
    ids = tokenizer(text, truncation=True, max_length=300, return_tensors="pt")["input_ids"]
    asked = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 6, "do_sample": False}
    dense = model.generate(ids, **asked)
    whole = MultipoleCache(budget=1.0, recent=32, interval=64, lookups=1.0, dense_until=0)
    assert torch.equal(model.generate(ids, **asked, past_key_values=whole), dense)
    assert min(blocks(whole)) > 0
    with torch.no_grad():
        logs = []
        for cache in (DynamicCache(), MultipoleCache(budget=64, recent=32, interval=64, dense_until=0)):
            model(ids[:, :-4], past_key_values=cache, logits_to_keep=1)
            steps = [model(ids[:, t : t + 1], past_key_values=cache).logits[0, -1] for t in range(296, 300)]
            logs.append(torch.stack(steps).log_softmax(-1))
    assert float((logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean()) < 0.02


def test_several_turns_crop_and_reset():
    model = model_of(LlamaConfig)
    ids = prompt()["input_ids"]
    caches = DynamicCache(), MultipoleCache(**EXACT)
    turns = [ids]
    for turn in range(3):
        outs = [
            model.generate(turns[-1], max_new_tokens=12, do_sample=False, past_key_values=c) for c in caches
        ]
        assert torch.equal(*outs), turn
        torch.manual_seed(turn)
        turns.append(torch.cat([outs[0], torch.randint(2, 99, (2, 9))], 1))
    for cache in caches:
        cache.crop(-40)
    assert caches[0].get_seq_length() == caches[1].get_seq_length()
    again = [model.generate(turns[-1], max_new_tokens=12, do_sample=False, past_key_values=c) for c in caches]
    assert torch.equal(*again)
    caches[1].reset()
    assert caches[1].get_seq_length() == 0
    fresh = model.generate(ids, max_new_tokens=12, do_sample=False, past_key_values=caches[1])
    assert torch.equal(fresh, model.generate(ids, max_new_tokens=12, do_sample=False))


def test_another_batch_is_refused_until_reset():
    model = model_of(LlamaConfig)
    cache = MultipoleCache(**EXACT)
    model.generate(**prompt(), max_new_tokens=2, do_sample=False, past_key_values=cache)
    with torch.no_grad(), pytest.raises(ValueError, match="batch"):
        model(prompt()["input_ids"][:1], past_key_values=cache)


def test_gradients_are_refused():
    with pytest.raises(RuntimeError, match="inference"):
        model_of(LlamaConfig)(prompt()["input_ids"], past_key_values=MultipoleCache())


def test_a_sliding_window_without_the_configuration_stays_exact():
    model = model_of(MistralConfig, sliding_window=16)
    asked = {**prompt(), "max_new_tokens": 24, "do_sample": False}
    cache = MultipoleCache(**EXACT | {"budget": 0})
    assert torch.equal(model.generate(**asked, past_key_values=cache), model.generate(**asked))
    assert all(one.dense_steps > 0 for one in cache.layers)


def test_eager_attention_is_exact_and_says_so():
    model = model_of(LlamaConfig)
    model.set_attn_implementation("eager")
    asked = {**prompt(), "max_new_tokens": 24, "do_sample": False}
    dense = model.generate(**asked)
    with pytest.warns(UserWarning, match="cache.on"):
        assert torch.equal(
            model.generate(**asked, past_key_values=MultipoleCache(**EXACT | {"budget": 0})), dense
        )


def test_a_changed_mask_is_honoured():
    model = model_of(LlamaConfig)
    ids = prompt()["input_ids"]
    hidden = torch.ones(2, 63, dtype=torch.int64)
    hidden[:, 20:30] = 0
    place = torch.full((2, 1), 62)
    outs = []
    for cache in (DynamicCache(), MultipoleCache(**EXACT | {"budget": 0})):
        with torch.no_grad():
            text = model.generate(ids, max_new_tokens=13, do_sample=False, past_key_values=DynamicCache())
            for part in (text[:, :50], *text[:, 50:62].split(1, 1)):
                model(part, past_key_values=cache)
            step = model(text[:, 62:63], attention_mask=hidden, position_ids=place, past_key_values=cache)
        outs.append(step.logits)
    # The last step is exact for both; what came before was approximate in one.
    assert outs[0].shape == outs[1].shape
    assert cache.layers[0].dense_steps == 1


@pytest.mark.parametrize("more", [{}, {"outliers": 1 / 8}, {"sketch": True}], ids=str)
@pytest.mark.parametrize("rope", ["rotated", "windowed"])
@pytest.mark.parametrize("levels", [1, 2])
def test_saving_and_loading_continues_the_same(tmp_path, rope, levels, more):
    model = model_of(LlamaConfig)
    settings = {**EXACT, "budget": 8, "rope": rope, "levels": levels, **more}
    cache = MultipoleCache(**settings, config=model.config)
    text = model.generate(**prompt(20), max_new_tokens=24, do_sample=False, past_key_values=cache)
    back = MultipoleCache.load(cache.save(tmp_path / "cache.safetensors"), config=model.config)
    assert back.settings == cache.settings
    mask = torch.cat([prompt(20)["attention_mask"], torch.ones(2, 24, dtype=torch.int64)], 1)
    more = [
        model.generate(text, attention_mask=mask, max_new_tokens=16, do_sample=False, past_key_values=c)
        for c in (cache, back)
    ]
    assert torch.equal(*more)


def test_loading_something_else_names_the_file(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors"):
        MultipoleCache.load(tmp_path / "other.safetensors")


def fed(tokens, **settings):
    """A one-layer cache fed token by token after a prompt; bytes of a dense cache and of this one along the way."""
    torch.manual_seed(0)
    layer = ClusteredLayer(Settings(iterations=1, dense_until=0, **settings))
    cache = MultipoleCache()
    cache.layers.append(layer)
    layer.update(*(torch.randn(1, 2, 500, 64) for _ in range(2)))
    sizes = []
    for i in range(tokens):
        layer.update(*(torch.randn(1, 2, 1, 64) for _ in range(2)))
        if i % 16 == 0:  # joins happen here
            assert layer.attend(torch.randn(1, 4, 1, 64), None, None).shape == (1, 4, 1, 64)
        sizes.append((layer.get_seq_length() * 2 * 2 * 64 * 4, cache.nbytes["total"]))
    return cache, sizes


def test_memory_grows_linearly_and_stays_within_15_percent_of_dense():
    cache, sizes = fed(4000)
    dense, ours = (torch.tensor(x, dtype=torch.float64) for x in zip(*sizes, strict=True))
    assert float((ours / dense)[500:].max()) < 1.15
    parts = cache.nbytes
    assert parts["total"] == sum(parts[name] for name in ("keys", "values", "centroids", "index", "scratch"))
    assert parts["total"] - parts["scratch"] == sum(
        b.buffer.untyped_storage().nbytes() for b in cache.layers[0].hierarchy.buffers().values()
    )


def test_baselines_with_everything_are_dense():
    torch.manual_seed(0)
    k, v, q = torch.randn(1, 2, 400, 16), torch.randn(1, 2, 400, 24), torch.randn(1, 6, 1, 16)
    sides = [
        Dense(), WindowSinks(10, 390), TopKeys(1.0, 10, 32), Pages(1.0, 10, 32),
        Clustered(Settings(budget=1.0, interval=32, recent=32, lookups=1.0)),
    ]  # fmt: skip
    outs = []
    for side in sides:
        side.append(k[:, :, :399], v[:, :, :399])
        side.append(k[:, :, 399:], v[:, :, 399:])
        outs.append(side.step(q, 0.25))
        assert side.touched() > 0
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0], atol=1e-5, rtol=1e-4)


def test_windowed_rope_needs_a_model_it_can_undo():
    with pytest.raises(ValueError, match="config"):
        MultipoleCache(rope="windowed")
    config = LlamaConfig(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    with pytest.raises(ValueError, match="dynamic"):
        MultipoleCache(rope="windowed", config=config)


def test_unknown_parameters_are_named():
    with pytest.raises(TypeError, match="buget"):
        MultipoleCache(buget=3)

"""What transformers does with a cache works with ``MultipoleCache`` as with ``DynamicCache``, or is refused by name."""

import contextlib
import copy
import inspect
import warnings

import numpy as np
import pytest
import torch
from exact_cache import EXACT
from tiny_models import close
from torch.nn.functional import scaled_dot_product_attention
from transformers import DynamicCache, Lfm2Config, Lfm2ForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import repeat_kv

import multipole_lab as ml
from multipole_lab.decoding.layer import ClusteredLayer
from multipole_lab.decoding.settings import Settings
from multipole_lab.decoding.step import running
from multipole_lab.decoding.step.reference import decode_step
from multipole_lab.decoding.store import joining
from multipole_lab.decoding.store.blocks import cluster_block
from multipole_lab.interface.handle import Handle
from multipole_lab.threads import one_thread

CHANGES = {
    "activate_past_recording": (),
    "batch_repeat_interleave": (2,),
    "batch_select_indices": (torch.tensor([2, 0]),),
    "crop": (-20,),
    "early_initialization": (3, 2, 16, torch.float32, torch.device("cpu")),
    "reorder_cache": (torch.tensor([2, 0, 1]),),
    "reset": (),
}
QUESTIONS = {
    "get_mask_sizes": (3, 0),
    "get_max_cache_shape": (),
    "get_max_length": (),
    "get_query_offset": (),
    "get_seq_length": (),
    "is_recording_past": (0,),
}
STATES = [
    "get_conv_state", "get_recurrent_state", "has_previous_state", "update_conv_state", "update_indexer",
    "update_recurrent_state",
]  # fmt: skip
NOT_OFFERED = ["offload", "prefetch"]
THERE = {name for name, _ in inspect.getmembers(DynamicCache, callable) if not name.startswith("_")}


@pytest.fixture(autouse=True)
def _quick():
    with one_thread():
        yield


def llama(**more):
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "vocab_size": 99,
        "head_dim": 16,
    }
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, eos_token_id=None, **more)
    model = LlamaForCausalLM._from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3 if weight.ndim > 1 else 1)
    return model


def tokens(n, batch=3, seed=1):
    return torch.randint(3, 99, (batch, n), generator=torch.Generator().manual_seed(seed))


def read(model, cache, ids):
    """A few tokens at once, then one by one."""
    with torch.no_grad():
        parts = [ids[:, :-9], *ids[:, -9:].split(1, 1)]
        return torch.cat([model(part, past_key_values=cache).logits for part in parts if part.numel()], 1)


def both(model, n=59):
    """The two caches after the same text."""
    caches = DynamicCache(), ml.MultipoleCache(**EXACT)
    for cache in caches if n else ():
        read(model, cache, tokens(n))
    assert not n or min(len(one.hierarchy.blocks) for one in caches[1].layers) > 0
    return caches


def test_every_method_of_a_cache_is_looked_at_here():
    assert {*CHANGES, *QUESTIONS, *STATES, *NOT_OFFERED, "update"} >= THERE


@pytest.mark.parametrize("inference", [False, True], ids=["no grad", "inference mode"])
@pytest.mark.parametrize("name", sorted(THERE & set(CHANGES)))
def test_a_changed_cache_goes_on_as_a_dense_one(name, inference):
    model = llama()
    with torch.inference_mode() if inference else contextlib.nullcontext():
        caches = both(model, 0 if name == "early_initialization" else 59)
        for cache in caches:
            getattr(cache, name)(*CHANGES[name])
    if name == "reset":  # that of transformers 5.4 and 5.17 forgets the numbers and keeps its length
        caches = DynamicCache(), caches[1]
    held = caches[0].layers[0].keys if caches[0].layers else None
    rows = 3 if held is None else held.shape[0]
    outs = [read(model, cache, tokens(30, rows, 2)) for cache in caches]  # and outside of inference mode
    close(outs[1], outs[0], atol=1e-3)
    assert caches[0].get_seq_length() == caches[1].get_seq_length()


@pytest.mark.parametrize("filled", [True, False])
@pytest.mark.parametrize("name", sorted(THERE & set(QUESTIONS)))
def test_questions_are_answered_as_by_a_dense_cache(name, filled):
    if name == "get_max_length" and not filled:
        pytest.skip("a dense cache without layers has no answer")
    if name == "is_recording_past" and not filled:
        pytest.skip("a dense cache without layers has no answer")
    dense, ours = both(llama(), 59 if filled else 0)
    if name == "get_max_cache_shape" and not filled:
        pytest.skip("a dense cache without layers has no answer")
    assert getattr(ours, name)(*QUESTIONS[name]) == getattr(dense, name)(*QUESTIONS[name])


@pytest.mark.parametrize("name", STATES)
def test_states_are_refused_in_our_words(name):
    with pytest.raises(ValueError, match="layers that keep a state and no keys and values"):
        getattr(ml.MultipoleCache(), name)(0)


def test_a_hybrid_model_is_refused_with_and_without_its_configuration():
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 99}
    types = ["conv", "full_attention"]
    model = Lfm2ForCausalLM(
        Lfm2Config(**sizes, num_attention_heads=4, num_key_value_heads=2, layer_types=types)
    ).eval()
    with pytest.raises(ValueError, match="keep a state"), torch.no_grad():
        model(tokens(9), past_key_values=ml.MultipoleCache())
    with pytest.raises(ValueError, match="does not know layers of type conv"):
        ml.MultipoleCache(config=model.config)


@pytest.mark.parametrize("name", NOT_OFFERED)
def test_offloading_is_refused_in_our_words(name):
    for cache in both(llama())[1:]:
        with pytest.raises(NotImplementedError, match="stays on the model's device"):
            getattr(cache, name)(0)


@pytest.mark.parametrize(
    "indices",
    [
        [2, 0], (0, 2), (1,), range(2), slice(1, None), np.array([2, 1]), np.array([True, False, True]),
        torch.tensor([-1]), torch.tensor([True, False, True]), [False, True, True],
    ],
    ids=repr,
)  # fmt: skip
def test_texts_are_chosen_by_all_that_indexes_a_tensor(indices):
    model = llama()
    dense, ours = both(model)
    for cache in (dense, ours):
        cache.batch_select_indices(indices)
    close(ours.layers[1].keys, dense.layers[1].keys)
    ids = tokens(30, len(dense.layers[0].keys), 2)
    close(read(model, ours, ids), read(model, dense, ids), atol=1e-3)


def test_a_copy_goes_on_by_itself_and_a_cache_becomes_a_dense_one():
    model = llama()
    dense, ours = both(model)
    copied, before = copy.deepcopy(ours), ours.get_seq_length()
    again = read(model, copied, tokens(30, 3, 2))
    assert ours.get_seq_length() == before
    assert copied.layers[0].shared.layers is copied.layers
    close(read(model, DynamicCache(ours), tokens(30, 3, 2)), again, atol=1e-3)
    close(read(model, ours, tokens(30, 3, 2)), again)
    close(read(model, dense, tokens(30, 3, 2)), again, atol=1e-3)


def test_a_saved_cache_that_is_loaded_in_inference_mode_goes_on_outside(tmp_path):
    model = llama()
    _, ours = both(model)
    path = ours.save(tmp_path / "cache.safetensors")
    with torch.inference_mode():
        back = ml.MultipoleCache.load(path)
    close(read(model, back, tokens(30, 3, 2)), read(model, ours, tokens(30, 3, 2)))


@pytest.mark.parametrize(
    "how",
    [
        {"num_beams": 3}, {"prompt_lookup_num_tokens": 3}, {"prefill_chunk_size": 16},
        {"num_beams": 2, "num_return_sequences": 2},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("padded", [False, True], ids=["", "padded"])
def test_every_way_of_generating_is_dense(how, padded):
    model = llama()
    batch = 1 if "prompt_lookup_num_tokens" in how else 2
    ids = tokens(50, batch)
    mask = torch.ones_like(ids)
    if padded and batch > 1:
        mask[0, :20] = 0
    asked = {"attention_mask": mask, "max_new_tokens": 20, "do_sample": False, "pad_token_id": 0, **how}
    if "prompt_lookup_num_tokens" in how:
        asked["eos_token_id"] = 0  # transformers 5.7 looks prompts up only where there is one
    cache = ml.MultipoleCache(**EXACT)
    assert torch.equal(model.generate(ids, **asked, past_key_values=cache), model.generate(ids, **asked))
    assert cache.layers[0].hierarchy.blocks


@pytest.mark.parametrize("implementation", ["sdpa", "eager", "flex_attention"])
def test_other_attention_functions_are_exact_and_say_so(implementation, monkeypatch):
    # The compiler's part, minutes on a CPU, is to take true tensors for granted.
    monkeypatch.setattr(torch, "compile", lambda function=None, **_: function or (lambda f: f))
    model = llama(attn_implementation=implementation)
    asked = {"max_new_tokens": 4, "do_sample": False}
    dense = model.generate(tokens(40), **asked)
    cache = ml.MultipoleCache(**EXACT | ({} if implementation == "sdpa" else {"budget": 0}))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert torch.equal(model.generate(tokens(40), **asked, past_key_values=cache), dense)
    told = [str(one.message) for one in said if "cache.on(model)" in str(one.message)]
    assert bool(told) == (implementation != "sdpa")
    assert implementation != "flex_attention" or "calls flex_attention" in told[0]


def one_layer(batch=2):
    torch.manual_seed(0)
    layer = ClusteredLayer(Settings(**EXACT))
    layer.update(torch.randn(batch, 2, 60, 16), torch.randn(batch, 2, 60, 8))
    return layer, layer.update(torch.randn(batch, 2, 1, 16), torch.randn(batch, 2, 1, 8))


def test_repeated_heads_still_reach_the_decode_step():
    """Transformers 5.17 repeats key/value heads itself wherever there is a mask."""
    layer, (keys, values) = one_layer()
    q, mask = torch.randn(2, 6, 1, 16), torch.ones(2, 1, 1, 61, dtype=torch.bool)
    repeated = repeat_kv(keys, 3), repeat_kv(values, 3)
    assert [type(x) for x in repeated] == [Handle, Handle]
    assert repeated[0].shape == (2, 6, 61, 16)
    got = scaled_dot_product_attention(q, *repeated, attn_mask=mask)
    true = [x.repeat_interleave(3, 1) for x in (layer.keys, layer.values)]
    close(got, scaled_dot_product_attention(q, *true))
    assert layer.hierarchy.blocks
    assert layer.dense_steps == 0


def test_other_views_of_the_keys_are_true_tensors():
    layer, (keys, _) = one_layer()
    with pytest.warns(UserWarning, match="exact dense attention"):
        others = [
            keys[:, None].expand(2, 3, 2, 61, 16).reshape(2, 6, 61, 16),  # in another order of heads
            keys[:, :, None, 1:],
            keys[:, :, None].expand(2, 2, 3, 61, 16).flatten(1, 2),
            keys[:, :, None, :, :].expand(2, 2, 3, 61, 16).sum(2),
            keys[:, :, None, :, :].expand(-1, -1, 3, -1, -1),
        ]
    k = layer.keys
    wanted = [
        k[:, None].expand(2, 3, 2, 61, 16).reshape(2, 6, 61, 16), k[:, :, None, 1:], k.repeat_interleave(3, 1),
        3 * k, k[:, :, None].expand(-1, -1, 3, -1, -1),
    ]  # fmt: skip
    for got, expected in zip(others, wanted, strict=True):
        assert not isinstance(got, Handle)
        close(got, expected)


@pytest.mark.parametrize("traced", [False, True])
def test_the_output_of_every_step_is_the_backends(monkeypatch, traced):
    """Also of the steps whose error is weighed, or that are recorded, which take no second one."""
    asked, outs = [], []

    def kernel(*arguments, **named):
        out, lse = decode_step(*arguments, **named)
        outs.append(out + 1)
        return outs[-1], lse

    monkeypatch.setattr(
        joining, "clusterer", lambda h: (cluster_block, False)
    )  # the interpreter takes long for it
    monkeypatch.setattr(running, "step_function", lambda backend, q, v: asked.append(backend) or kernel)
    cache = ml.MultipoleCache(**EXACT | {"budget": 16, "backend": "triton"})
    for layer in range(2):
        cache.update(torch.randn(1, 2, 60, 16), torch.randn(1, 2, 60, 16), layer)
    with cache.trace() if traced else contextlib.nullcontext() as trace:
        for step in range(20):
            for layer in range(2):
                cache.update(torch.randn(1, 2, 1, 16), torch.randn(1, 2, 1, 16), layer)
                out = cache.layers[layer].attend(torch.randn(1, 4, 1, 16), None, None)
                assert out.data_ptr() == outs[-1].data_ptr(), step
    assert set(asked) == {"triton"}
    assert len(outs) == 40
    assert cache.layers[0].portion.seen > 1
    assert trace is None or len(trace.steps) == 40

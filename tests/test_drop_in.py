"""A method inside a model: exact ones change nothing, approximations are undone, what cannot be done is named."""

import copy
import threading
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from transformers import (
    BartConfig,
    BartModel,
    BertConfig,
    BertModel,
    DynamicCache,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    StaticCache,
    T5Config,
    T5EncoderModel,
)

import multipole_lab as ml
from multipole_lab.models import capture

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 64,
    "max_position_embeddings": 256,
}
GROUPED = {"num_key_value_heads": 2}
SLIDING = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
EXPERTS = {
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}

TINY = {
    "llama": (LlamaForCausalLM, LlamaConfig, GROUPED),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, GROUPED),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {**GROUPED, "head_dim": 8}),
    "mistral": (MistralForCausalLM, MistralConfig, {**GROUPED, "sliding_window": 128}),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig, {**GROUPED, **SLIDING, "head_dim": 16}),
    "gpt-neox": (GPTNeoXForCausalLM, GPTNeoXConfig, {}),
    "gpt-oss": (GptOssForCausalLM, GptOssConfig, {**GROUPED, **SLIDING, **EXPERTS, **TOKENS, "head_dim": 8}),
    "bert": (BertModel, BertConfig, {}),
    "modernbert": (ModernBertModel, ModernBertConfig, {**TOKENS, "local_attention": 16}),
}
DECODERS = [name for name in TINY if "bert" not in name]


def tiny(name: str, **changes: object) -> PreTrainedModel:
    """A seeded random model of three layers in evaluation mode, its weights large enough that attention matters."""
    kind, config, own = TINY[name]
    torch.manual_seed(0)
    model = kind(config(**{**SIZES, **own, **changes})).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(6)
    return model


def ids_of(batch: int = 2, length: int = 60, seed: int = 0) -> torch.Tensor:
    """Random token ids without special ones."""
    return torch.randint(3, 64, (batch, length), generator=torch.Generator().manual_seed(seed))


SMALL = ml.MuSe(clusters=8, leaf=16)
FULL = ["llama", "qwen2", "qwen3", "mistral", "gpt-neox", "bert"]  # every layer attends to the whole text


def read(model, ids, **arguments):
    """The first output: logits of a decoder, hidden states of an encoder."""
    with torch.no_grad():
        return model(ids, **arguments)[0]


def close(got, expected, **tolerance):
    torch.testing.assert_close(got, expected, **{"rtol": 1e-4, "atol": 1e-4, **tolerance})


def differ(a, b):
    return (a - b).abs().max().item() > 1e-3


@pytest.mark.parametrize("side", ["none", "left", "right"])
@pytest.mark.parametrize("name", TINY)
def test_exact_attention_dropped_in_changes_nothing(name, side):
    model, ids = tiny(name), ids_of()
    kept = torch.ones_like(ids)
    if side != "none":
        kept[0, slice(0, 23) if side == "left" else slice(41, None)] = 0
    expected = read(model, ids, attention_mask=kept)
    with ml.Exact().on(model) as drop_in:
        got = read(model, ids, attention_mask=kept)
    close(got[kept.bool()], expected[kept.bool()])
    local = {layer for layer, reason in drop_in.exact}
    assert sorted([*drop_in.approximated, *local]) == [0, 1, 2]
    assert (set(drop_in.approximated) == {0, 1, 2}) == (name in FULL)


@pytest.mark.parametrize("name", TINY)
def test_an_approximation_has_an_effect_and_is_undone(name):
    model, ids = tiny(name), ids_of()
    before = model.config._attn_implementation
    exact = read(model, ids)
    with SMALL.on(model):
        approximate = read(model, ids)
    assert differ(approximate, exact)
    assert model.config._attn_implementation == before
    assert torch.equal(read(model, ids), exact)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_it_is_undone_after_an_exception(name):
    model, ids = tiny(name), ids_of()
    exact = read(model, ids)
    hook = model.base_model.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), SMALL.on(model):
        read(model, ids)
    hook.remove()
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(read(model, ids), exact)


def test_what_eager_attention_computed_before_stays_eager():
    model, ids = tiny("llama"), ids_of()
    model.set_attn_implementation("eager")
    exact = read(model, ids)
    with SMALL.on(model, layers=[1]) as drop_in:
        assert differ(read(model, ids), exact)
    assert dict(drop_in.approximated) == {1: 1}
    assert model.config._attn_implementation == "eager"


def test_layers_are_chosen_one_by_one():
    model, ids = tiny("llama"), ids_of()
    seen = {}
    for i, layer in enumerate(model.model.layers):
        layer.self_attn.o_proj.register_forward_pre_hook(lambda _, x, i=i: seen.update({i: x[0].clone()}))
    read(model, ids)
    exact = dict(seen)
    with ml.Window(size=4, sinks=0).on(model, layers=1):
        read(model, ids)
    assert torch.equal(seen[0], exact[0])
    assert differ(seen[1], exact[1])
    with SMALL.on(model, layers={2: ml.Window(size=4, sinks=0), 0: ml.Exact()}) as drop_in:
        read(model, ids)
    close(seen[1], exact[1])
    assert differ(seen[2], exact[2])
    assert dict(drop_in.approximated) == {0: 1, 2: 1}


def test_uses_inside_each_other_add_up():
    model, ids = tiny("llama"), ids_of()
    both = {0: ml.Window(size=4), 1: SMALL, 2: SMALL}
    with SMALL.on(model, layers=both):
        expected = read(model, ids)
    with SMALL.on(model):
        outer = read(model, ids)
        with ml.Window(size=4).on(model, layers=[0]):
            close(read(model, ids), expected)
        assert torch.equal(read(model, ids), outer)
    assert model.config._attn_implementation == "sdpa"


def test_ends_in_any_order():
    model, ids = tiny("llama"), ids_of()
    exact = read(model, ids)
    first, second = SMALL.on(model, layers=[0]), ml.Window(size=4).on(model, layers=[2])
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    only_second = read(model, ids)
    second.__exit__(None, None, None)
    with ml.Window(size=4).on(model, layers=[2]):
        assert torch.equal(read(model, ids), only_second)
    assert torch.equal(read(model, ids), exact)


def test_threads_have_their_own_models():
    results, methods = {}, {"muse": SMALL, "window": ml.Window(size=4), "exact": ml.Exact()}
    models = {name: tiny("llama") for name in methods}
    inside = threading.Barrier(len(methods))

    def work(name):
        model = models[name]
        with methods[name].on(model):
            inside.wait(timeout=60)
            results[name] = read(model, ids_of())

    threads = [threading.Thread(target=work, args=(name,)) for name in methods]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    model = tiny("llama")
    for name, method in methods.items():
        with method.on(model):
            close(results[name], read(model, ids_of()), msg=name)


def test_a_worker_thread_uses_the_method_and_another_with_is_refused():
    """Streamed generation runs ``generate`` in a thread: it must not fall back to exact attention there."""
    model, ids, found = tiny("llama"), ids_of(), {}

    def work():
        found["out"] = read(model, ids)
        try:
            with ml.Exact().on(model):
                pass
        except RuntimeError as error:
            found["error"] = str(error)

    with SMALL.on(model):
        expected = read(model, ids)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert torch.equal(found["out"], expected)
    assert "in another thread" in found["error"]


@pytest.mark.parametrize("name", ["llama", "gpt-neox", "bert"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_for_the_text_beside_it(name, side):
    """With as many clusters as keys or a window, what padded positions hold reaches nobody."""
    model, ids = tiny(name), ids_of(1, 40)
    method = ml.Window(size=8, sinks=0) if name != "bert" else ml.TopK(keys=5)
    position = torch.arange(40)[None]
    arguments = {} if name == "bert" else {"position_ids": position}
    with method.on(model):
        alone = read(model, ids, **arguments)
    pad = torch.full((1, 13), 5)
    kept = torch.cat([torch.zeros_like(pad), torch.ones_like(ids)], 1)
    padded = torch.cat([pad, ids], 1)
    position = torch.cat([torch.zeros_like(pad), position], 1)
    if side == "right":
        padded, kept, position = (torch.roll(x, -13, 1) for x in (padded, kept, position))
    arguments = {"position_ids": position}
    with method.on(model):
        got = read(model, padded, attention_mask=kept, **arguments)
    close(got[kept.bool()], alone[0])


@pytest.mark.parametrize("same", [True, False], ids=["same cuts", "own cuts"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt-neox"])
@pytest.mark.parametrize("method", [ml.Exact(), SMALL], ids=str)
def test_packed_texts_do_not_see_each_other(name, same, method):
    model, ids = tiny(name), ids_of(2, 60)
    cuts = [[25, 35], [25, 35] if same else [40, 20]]
    position = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in cuts])
    with method.on(model) as drop_in:
        got = read(model, ids, position_ids=position, use_cache=False)
        for i, row in enumerate(cuts):
            for part, text in zip(got[i].split(row), ids[i].split(row), strict=True):
                close(part, read(model, text[None], use_cache=False)[0])
    assert set(drop_in.approximated) == {0, 1, 2}
    if method == ml.Exact():
        close(got, read(model, ids, position_ids=position, use_cache=False))


def test_cu_seq_lens_must_agree_with_the_positions():
    model, ids = tiny("llama"), ids_of(1, 60)
    position = torch.cat([torch.arange(25), torch.arange(35)])[None]
    lengths = torch.tensor([0, 25, 60], dtype=torch.int32)
    with SMALL.on(model):
        read(model, ids, position_ids=position, cu_seq_lens_q=lengths, use_cache=False)
        with pytest.raises(ValueError, match="cu_seq_lens_q packs texts that position_ids do not show"):
            read(model, ids, cu_seq_lens_q=lengths, use_cache=False)


@pytest.mark.parametrize("implementation", ["dynamic", "static"])
@pytest.mark.parametrize("name", DECODERS)
def test_decoding_from_a_cache(name, implementation):
    """A prompt, two tokens at once, one token: the queries are the last positions."""
    model, ids = tiny(name), ids_of(2, 50)
    steps = ids.split([40, 2, 1, 7], 1)

    def run():
        config = model.config
        cache = (
            DynamicCache(config=config)
            if implementation == "dynamic"
            else StaticCache(config, max_cache_len=64)
        )
        return torch.cat([read(model, part, past_key_values=cache) for part in steps], 1)

    expected = run()
    with ml.Exact().on(model) as drop_in:
        close(run(), expected)
    assert drop_in.approximated[1] == 4
    with ml.Window(size=5, sinks=1).on(model):
        assert differ(run(), expected)


@pytest.mark.parametrize("cache", [None, "static"])
def test_generation_with_exact_attention_is_the_same(cache):
    model, ids = tiny("llama"), ids_of(2, 30)
    kept = torch.ones_like(ids)
    kept[0, :9] = 0
    arguments = {
        "attention_mask": kept,
        "max_new_tokens": 8,
        "do_sample": False,
        "cache_implementation": cache,
    }
    expected = model.generate(ids, **arguments)
    with ml.Exact().on(model):
        assert torch.equal(model.generate(ids, **arguments), expected)


def test_single_queries_are_exact_under_muse_and_counted():
    model, ids = tiny("llama"), ids_of(1, 30)
    with SMALL.on(model) as drop_in:
        model.generate(ids, max_new_tokens=4, do_sample=False)
    assert dict(drop_in.approximated) == {0: 1, 1: 1, 2: 1}
    assert drop_in.exact == {(i, "a single query is its own expansion point"): 3 for i in range(3)}


def test_a_clustered_cache_decodes_after_a_prompt_by_muse():
    model, ids = tiny("llama"), ids_of(1, 100)
    cache = ml.MultipoleCache(budget=16, sinks=2, recent=8, interval=8)
    with cache.on(model), SMALL.on(model) as drop_in:
        read(model, ids, past_key_values=cache)
        read(model, ids[:, :1], past_key_values=cache)
    assert dict(drop_in.approximated) == {0: 1, 1: 1, 2: 1}
    assert drop_in.exact == {(i, "MultipoleCache attends for single tokens"): 1 for i in range(3)}
    assert cache.layers[0].dense_steps == 0


@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("causal", [True, False])
def test_a_mask_that_the_user_wrote_out(causal, additive):
    model, ids = tiny("llama"), ids_of(2, 40)
    mask = torch.ones(2, 1, 40, 40, dtype=torch.bool)
    mask[0, :, :, :7] = False
    if causal:
        mask = mask.tril()
    seen = mask[:, 0].any(-1)
    if additive:
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    expected = read(model, ids, attention_mask=mask)
    with ml.Exact().on(model) as drop_in:
        got = read(model, ids, attention_mask=mask)
    close(got[seen], expected[seen])
    assert set(drop_in.approximated) == {0, 1, 2}


def test_masks_that_no_method_can_honour_are_refused():
    model, ids = tiny("llama"), ids_of(1, 40)
    holes = torch.ones(1, 1, 40, 40, dtype=torch.bool).tril()
    holes[..., 30, 3] = False
    bias = torch.randn(1, 1, 40, 40)
    heads = torch.ones(1, 4, 40, 40, dtype=torch.bool).tril()
    heads[:, 1, 20:, 3] = False
    for mask, message in (
        (holes, "neither causal nor full"),
        (bias, "bias on the logits"),
        (heads, "between heads"),
    ):
        with SMALL.on(model), pytest.raises(ValueError, match=message):
            read(model, ids, attention_mask=mask)
    assert model.config._attn_implementation == "sdpa"


def test_a_sliding_window_stays_exact_unless_it_is_named_or_longer_than_the_text():
    model, ids = tiny("gemma3"), ids_of()
    exact = read(model, ids)
    with ml.Window(size=4).on(model) as drop_in:
        assert differ(read(model, ids), exact)
    assert dict(drop_in.approximated) == {1: 1}
    assert drop_in.exact == {(i, "sliding window or chunk of 16 tokens"): 1 for i in (0, 2)}
    with ml.Window(size=4).on(model, layers=[0]):
        with pytest.raises(
            ValueError, match=r"layer 0 \(Gemma3Attention\) has a sliding window .* leave it out"
        ):
            read(model, ids)
        assert differ(read(model, ids[:, :15]), exact[:, :15])


def test_the_sinks_of_gpt_oss_join_the_denominator():
    model, ids = tiny("gpt-oss"), ids_of()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.sinks.copy_(torch.tensor([3.0, -2.0, 0.0, 8.0]))
    expected = read(model, ids)
    with ml.Exact().on(model) as drop_in:
        close(read(model, ids), expected)
    assert dict(drop_in.approximated) == {1: 1}


def test_soft_capped_logits_are_refused():
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "vocab_size": 64,
        "head_dim": 8,
    }
    model = Gemma2ForCausalLM(Gemma2Config(**sizes, num_attention_heads=4, num_key_value_heads=2)).eval()
    with (
        SMALL.on(model),
        pytest.raises(ValueError, match=r"caps its logits \(softcap=50.0\), which MuSe cannot"),
    ):
        read(model, ids_of())


def test_position_biases_are_refused():
    model = T5EncoderModel(
        T5Config(d_model=16, d_kv=4, d_ff=16, num_layers=2, num_heads=2, vocab_size=64)
    ).eval()
    try:
        with SMALL.on(model):
            read(model, ids_of())
    except ValueError as error:
        assert "position bias" in str(error) or "attention interface" in str(error)  # noqa: PT017
    else:
        pytest.fail("nothing was refused")


def test_attention_weights_are_refused():
    model, ids = tiny("llama"), ids_of()
    with SMALL.on(model), pytest.raises(ValueError, match="output_attentions is set, but MuSe makes no"):
        read(model, ids, output_attentions=True)


def test_dropout_is_refused_and_training_without_it_has_gradients():
    ids = ids_of()
    model = tiny("bert").train()
    with (
        SMALL.on(model),
        pytest.raises(ValueError, match=r"drops attention weights in training \(dropout 0.1\)"),
    ):
        model(ids)
    for name in ("bert", "llama"):
        changes = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0} if name == "bert" else {}
        model = tiny(name, **changes).train()
        gradients = []
        for method in (None, ml.Exact(), SMALL):
            model.zero_grad()
            with method.on(model) if method else nullcontext():
                model(ids)[0].square().mean().backward()
            gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        close(gradients[1], gradients[0], rtol=1e-3)
        assert gradients[2].isfinite().all()
        assert (gradients[2] - gradients[0]).norm() > 1e-3 * gradients[0].norm()


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_recomputes_the_same(reentrant):
    model, ids = tiny("llama").train(), ids_of()

    def gradients(checkpointed):
        model.zero_grad()
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        with SMALL.on(model):
            model(ids, labels=ids, use_cache=False).loss.backward()
        model.gradient_checkpointing_disable()
        return [p.grad.clone() for p in model.parameters()]

    for plain, checkpointed in zip(gradients(False), gradients(True), strict=True):
        close(checkpointed, plain)


def test_a_compiled_model_follows_the_method():
    model, ids = tiny("llama"), ids_of(1, 48)
    methods = (ml.Window(size=4), ml.Window(size=9), SMALL)
    expected = []
    for method in methods:
        with method.on(model):
            expected.append(read(model, ids, use_cache=False))
    exact = read(model, ids, use_cache=False)
    compiled = torch.compile(model, backend="eager")
    close(read(compiled, ids, use_cache=False), exact)
    for method, wanted in zip(methods, expected, strict=True):
        with method.on(compiled):
            close(read(compiled, ids, use_cache=False), wanted)
    close(read(compiled, ids, use_cache=False), exact)


def test_a_copy_made_inside_says_what_to_do():
    model, ids = tiny("llama"), ids_of()
    exact = read(model, ids)
    with SMALL.on(model):
        copied = copy.deepcopy(model)
    with pytest.raises(RuntimeError, match="was copied inside"):
        read(copied, ids)
    copied.set_attn_implementation("sdpa")
    assert torch.equal(read(copied, ids), exact)


def test_a_capture_inside_sees_what_the_method_makes():
    class Letters:
        def __call__(self, text, **_):
            return {"input_ids": [ord(c) % 64 for c in text]}

        def decode(self, ids, **_):
            return str(ids)

    model, text = tiny("llama"), "one lamp afar " * 5
    outside = capture(model, Letters(), text, layers=[0, 2], dtype=torch.float32)
    with ml.Window(size=4).on(model):
        inside = capture(model, Letters(), text, layers=[0, 2], dtype=torch.float32)
    assert torch.equal(inside[0].k, outside[0].k)
    assert differ(inside[2].k, outside[2].k)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"layers": [3]}, ValueError, "layers contains 3; LlamaForCausalLM has layers 0 to 2"),
        ({"layers": []}, ValueError, "layers is empty"),
        ({"layers": ["first"]}, TypeError, "integers are needed"),
        ({"layers": {0: "muse"}}, TypeError, r"layers\[0\] is 'muse'; an attention method"),
        ({"layers": {7: ml.Exact()}}, ValueError, "layers contains 7"),
        ({"model": nn.Linear(2, 2)}, TypeError, "model is a Linear"),
    ],
)
def test_bad_input_is_named_on_entry(arguments, error, message):
    with pytest.raises(error, match=message):
        SMALL.on(**{"model": tiny("llama"), **arguments}).__enter__()


def test_an_encoder_with_a_decoder_is_refused_and_its_encoder_taken():
    sizes = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 64}
    heads = {
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
    }
    model = BartModel(BartConfig(**sizes, **heads)).eval()
    with pytest.raises(ValueError, match="an encoder and a decoder; give one of the two"):
        SMALL.on(model).__enter__()
    ids = ids_of()
    exact = read(model.get_encoder(), ids)
    with ml.Exact().on(model.get_encoder()) as drop_in:
        close(read(model.get_encoder(), ids), exact)
        read(model, ids)  # the decoder, which shares the configuration, stays as it was
    assert dict(drop_in.approximated) == {0: 2, 1: 2}


def test_a_model_without_the_attention_interface_is_named():
    from transformers import BloomConfig, BloomForCausalLM

    model = BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=64)).eval()
    with pytest.raises(
        ValueError, match="BloomForCausalLM does not go through transformers' attention interface"
    ):
        SMALL.on(model).__enter__()

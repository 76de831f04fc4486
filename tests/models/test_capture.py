"""A capture holds what the attention layer was given, and leaves the model as it found it."""

import threading
from pathlib import Path

import nbformat
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    BertConfig,
    BertModel,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertModel,
    T5Config,
    T5Model,
)

from multipole_lab.models import Sample, attention_implementation, capture

TEXT = "eleven lamps seen from afar are one lamp " * 4


class Letters:
    """One token a letter."""

    def __call__(self, text, truncation=False, max_length=None):
        return {"input_ids": [ord(c) % 64 for c in text][: max_length if truncation else None]}

    def decode(self, ids, **_):
        return "".join(chr(64 + i) for i in ids)


def llama(**changes):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "vocab_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **heads, **changes})).eval()


@pytest.fixture(scope="module")
def model():
    return llama()


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_the_capture_reproduces_the_attention_output(kv_heads):
    model = llama(num_key_value_heads=kv_heads)
    sample = capture(model, Letters(), TEXT, layers=[2, 0], dtype=torch.float32)
    seen = {}
    for layer in (0, 2):
        projection = model.model.layers[layer].self_attn.o_proj
        projection.register_forward_pre_hook(lambda _, args, layer=layer: seen.update({layer: args[0]}))
    with torch.no_grad():
        model(sample.token_ids[None])

    n = len(TEXT)
    assert sample.layers == [0, 2]
    assert sample.scale == pytest.approx(8**-0.5)
    assert sample.tokens[0] == Letters().decode(Letters()("e")["input_ids"])
    for layer in (0, 2):
        q, k, v = sample[layer].q, sample[layer].k, sample[layer].v
        assert q.shape == (1, 4, n, 8)
        assert k.shape == v.shape == (1, kv_heads, n, 8)
        out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=sample.scale, enable_gqa=True)
        out = out.transpose(1, 2).flatten(2)  # [1, N, Hq D]
        torch.testing.assert_close(out, seen[layer], rtol=1e-4, atol=1e-5)


def test_queries_and_keys_are_rotated(model):
    """Equal tokens have equal keys in layer 0 before RoPE; after it they differ by a rotation."""
    sample = capture(model, Letters(), "aaaa", layers=[0], dtype=torch.float32)
    k, v = sample[0].k[0, 0], sample[0].v[0, 0]
    torch.testing.assert_close(v, v[:1].expand_as(v))
    assert not torch.allclose(k[0], k[3])
    torch.testing.assert_close(k.norm(dim=-1), k[0].norm().expand(4))
    assert sample.rope["rope_theta"] == 10000.0
    assert sample.provenance["after_rope"] is True


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_model_is_as_before(model, implementation):
    with attention_implementation(model, implementation):
        model.train()
        capture(model, Letters(), TEXT, layers=[1])
        assert model.config._attn_implementation == implementation
        assert model.training
    model.eval()


def test_the_model_is_as_before_after_an_exception(model, monkeypatch):
    before = model.config._attn_implementation

    def fail(*_):
        raise RuntimeError("the lamp is out")

    hook = model.model.layers[1].mlp.register_forward_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="the lamp is out"):
            capture(model, Letters(), TEXT, layers=[2])
    finally:
        hook.remove()
    assert model.config._attn_implementation == before
    assert not model.training
    assert len(capture(model, Letters(), TEXT, layers=[2])) == len(TEXT)


def test_a_capture_changes_nothing_in_what_the_model_says(model):
    ids = torch.arange(40)[None]
    with torch.no_grad():
        before = model(ids).logits
        capture(model, Letters(), TEXT, layers=[0])
        after = model(ids).logits
    assert torch.equal(before, after)


def test_streamed_and_kept_captures_agree(model, tmp_path):
    kept = capture(model, Letters(), TEXT, layers=[0, 2])
    streamed = capture(
        model, Letters(), TEXT, layers=[0, 2], to=tmp_path / "a.b", note={"text_file": "x.txt"}
    )
    opened = Sample.load(tmp_path / "a.b.safetensors")
    assert streamed.path == tmp_path / "a.b.safetensors"
    assert opened.provenance["text_file"] == "x.txt"
    for other in (streamed, opened):
        assert torch.equal(kept.token_ids, other.token_ids)
        assert kept.tokens == other.tokens
        for layer in (0, 2):
            for part in "qkv":
                assert torch.equal(getattr(kept[layer], part), getattr(other[layer], part)), part


def test_a_failed_capture_leaves_no_file(model, tmp_path):
    hook = model.model.layers[1].register_forward_hook(lambda *_: 1 / 0)
    try:
        with pytest.raises(ZeroDivisionError):
            capture(model, Letters(), TEXT, layers=[0], to=tmp_path / "half")
    finally:
        hook.remove()
    assert list(tmp_path.iterdir()) == []


def test_max_tokens_is_a_cap(model):
    assert len(capture(model, Letters(), TEXT, layers=[0], max_tokens=7)) == 7
    assert len(capture(model, Letters(), "four", layers=[0], max_tokens=7)) == 4


def test_the_model_s_positions_are_a_cap_too():
    with pytest.warns(UserWarning, match="32 positions"):
        sample = capture(llama(max_position_embeddings=32), Letters(), TEXT, layers=[0])
    assert len(sample) == 32


def test_an_encoder_can_be_captured():
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=64
    )
    sample = capture(BertModel(config), Letters(), TEXT, layers=[1])
    assert sample[1].k.shape == (1, 4, len(TEXT), 8)
    assert sample.rope == {}
    assert sample.provenance["after_rope"] is False


SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
SLIDING = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}


def gpt_neox():
    return GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, vocab_size=64))


def gemma3():
    heads = {"num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 64}
    return Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, **SLIDING, **heads, vocab_size=64))


def modern_bert():
    special = dict.fromkeys(
        ("pad_token_id", "cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id"), 0
    )
    return ModernBertModel(ModernBertConfig(**SIZES, **special, vocab_size=64, local_attention=16))


@pytest.mark.parametrize(
    ("make", "causal", "windows", "shapes", "scale"),
    [
        (gpt_neox, True, {}, [(4, 8)] * 2, 8**-0.5),
        (gemma3, True, {"0": 16, "2": 16}, [(4, 16), (2, 16)], 64**-0.5),
        (modern_bert, False, {"1": 8, "2": 8}, [(4, 8)] * 2, 8**-0.5),
    ],
)
def test_what_the_layers_see_is_recorded(make, causal, windows, shapes, scale):
    """ModernBERT's window of 16 reaches 8 tokens to each side."""
    torch.manual_seed(0)
    sample = capture(make().eval(), Letters(), TEXT, layers=[0, 1, 2])
    assert sample.provenance["causal"] is causal
    assert sample.provenance["sliding_window"] == windows
    assert sample.scale == pytest.approx(scale)
    for layer in (0, 1, 2):
        got = [(x.shape[1], x.shape[3]) for x in (sample[layer].q, sample[layer].k)]
        assert got == shapes
        assert sample[layer].q.shape[2] == len(TEXT)


def test_the_capture_of_an_encoder_reproduces_its_attention_output():
    torch.manual_seed(0)
    model = BertModel(BertConfig(**SIZES, vocab_size=64)).eval()
    seen = {}
    output = model.encoder.layer[1].attention.output.dense
    output.register_forward_pre_hook(lambda _, args: seen.update({1: args[0]}))
    sample = capture(model, Letters(), TEXT, layers=[1], dtype=torch.float32)
    out = scaled_dot_product_attention(sample[1].q, sample[1].k, sample[1].v, scale=sample.scale)
    torch.testing.assert_close(out.transpose(1, 2).flatten(2), seen[1], rtol=1e-4, atol=1e-5)


def test_two_threads_capture_for_themselves():
    texts = {"a": "a" * 50, "b": "b" * 60}
    samples = {}
    models = {name: llama() for name in texts}

    def work(name):
        samples[name] = capture(models[name], Letters(), texts[name], layers=[0, 1])

    threads = [threading.Thread(target=work, args=(name,)) for name in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert samples["a"][1].q.shape[2] == 50
    assert samples["b"][1].q.shape[2] == 60


def test_what_does_not_fit_fp16_is_refused(model):
    model = llama()
    with torch.no_grad():
        model.model.layers[0].self_attn.v_proj.weight.mul_(1e7)
    with pytest.raises(ValueError, match=r"v of layer 0 reaches .* pass dtype=torch\.float32"):
        capture(model, Letters(), TEXT, layers=[0])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"text": ""}, ValueError, "text is empty"),
        ({"text": " \n"}, ValueError, "text is empty"),
        ({"text": 3}, TypeError, "text is a int"),
        ({"layers": [3]}, ValueError, "layers contains 3; LlamaForCausalLM has layers 0 to 2"),
        ({"layers": [-1]}, ValueError, "layers contains -1"),
        ({"layers": ["first"]}, TypeError, "integers are needed"),
        ({"layers": []}, ValueError, "layers is empty"),
        ({"max_tokens": 0}, ValueError, "max_tokens is 0; at least 1"),
        ({"max_tokens": 2.5}, TypeError, "max_tokens is 2.5"),
        ({"dtype": torch.int8}, ValueError, "dtype is torch.int8"),
        ({"model": torch.nn.Linear(2, 2)}, TypeError, "model is a Linear"),
    ],
)
def test_bad_input_is_named(model, changes, error, message):
    arguments = {"model": model, "tokenizer": Letters(), "text": TEXT, "layers": [0], **changes}
    with pytest.raises(error, match=message):
        capture(**arguments)


def test_an_encoder_decoder_is_refused():
    config = T5Config(d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=64)
    with pytest.raises(ValueError, match="an encoder and a decoder"):
        capture(T5Model(config), Letters(), TEXT, layers=[0])


def test_a_tokenizer_may_answer_with_a_batch_of_one_and_not_cut(model):
    class Batch(Letters):
        def __call__(self, text, **_):
            return {"input_ids": [super().__call__(text)["input_ids"]]}

    one = capture(model, Letters(), TEXT, layers=[1], max_tokens=50, dtype=torch.float32)
    other = capture(model, Batch(), TEXT, layers=[1], max_tokens=50, dtype=torch.float32)
    assert torch.equal(one.token_ids, other.token_ids)
    assert torch.equal(one[1].k, other[1].k)

    class Two(Letters):
        def __call__(self, text, **_):
            return {"input_ids": [[1, 2], [3, 4]]}

    with pytest.raises(ValueError, match=r"token ids of shape \(2, 2\); one row is needed"):
        capture(model, Two(), TEXT, layers=[1])


def test_a_capture_in_inference_mode_can_be_learned_with(model):
    with torch.inference_mode():
        sample = capture(model, Letters(), TEXT, layers=[1], dtype=torch.float32)
    q = sample[1].q.requires_grad_()
    scaled_dot_product_attention(q, q, q).sum().backward()
    assert q.grad is not None


NOTEBOOKS = [  # those that capture, and ask first whether there are weights
    path
    for path in sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
    if all(call in path.read_text(encoding="utf-8") for call in ("is_cached(", "ml.capture("))
]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_model_that_stands_in_without_weights_is_captured(path, monkeypatch):
    """The cells of a notebook up to its capture, as on a machine without weights."""
    import multipole_lab.models as models

    monkeypatch.setattr(models, "is_cached", lambda name: False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    names: dict = {}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, path.name, "exec"), names)
            if "capture(" in cell.source:
                break
    assert isinstance(names["mine"], Sample)
    assert "".join(names["mine"].tokens) == names["text"][: len(names["mine"].tokens)]

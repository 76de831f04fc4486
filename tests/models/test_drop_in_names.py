"""Methods by name: configured in the model's configuration, which survives saving and loading."""

import json
import re

import pytest
import torch
from tiny_models import gemma2, t5
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

import multipole_lab as ml
from multipole_lab.attention.method import Method
from multipole_lab.models.drop_in_names import NAMES, configure_attention, configured_method

IDS = torch.randint(0, 64, (2, 60), generator=torch.Generator().manual_seed(0))


def llama():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "vocab_size": 64}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(6)
    return model


def read(model, **arguments):
    with torch.no_grad():
        return model(IDS, **arguments)[0]


def test_muse_by_name_is_what_on_computes():
    model = llama()
    exact = read(model)
    with ml.MuSe(clusters=8, near=2, leaf=16).on(model, layers=[0, 2]):
        expected = read(model)
    model.config.muse = {"clusters": 8, "near": 2, "leaf": 16, "layers": [0, 2]}
    model.set_attn_implementation("muse")
    assert torch.equal(read(model), expected)
    model.config.muse["layers"] = []
    assert torch.equal(read(model), exact)
    model.set_attn_implementation("sdpa")
    assert torch.equal(read(model), exact)


@pytest.mark.parametrize(
    "method",
    [
        ml.MuSe(clusters=8, leaf=16),
        ml.Centroid(clusters=8, leaf=16, budget=4, cap=None),
        ml.Window(size=5),
        ml.TopK(keys=4),
        ml.Exact(),
    ],
    ids=lambda m: type(m).__name__,
)
def test_every_method_has_a_name_and_survives_saving(method, tmp_path):
    model = llama()
    name = configure_attention(model, method)
    assert NAMES[name] is type(method)
    expected = read(model)
    with method.on(llama()) as drop_in:
        torch.testing.assert_close(read(drop_in.model), expected)
    model.save_pretrained(tmp_path)
    assert name in json.loads((tmp_path / "config.json").read_text())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=name).eval()
    assert configured_method(loaded.config, name) == (method, None, False)
    assert torch.equal(read(loaded), expected)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(read(plain), read(llama()))


def test_what_is_saved_inside_the_with_is_the_ordinary_model(tmp_path):
    model = llama()
    model.save_pretrained(tmp_path / "before")
    with ml.MuSe(clusters=8, leaf=16).on(model):
        model.save_pretrained(tmp_path / "inside")
    before, inside = ((tmp_path / name / "config.json").read_text() for name in ("before", "inside"))
    assert inside == before
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "inside").eval()
    assert torch.equal(read(plain), read(llama()))
    configure_attention(model, ml.MuSe(clusters=8, leaf=16))
    model.save_pretrained(tmp_path / "named")
    named = json.loads((tmp_path / "named/config.json").read_text())
    assert named.keys() - json.loads(before).keys() == {"muse"}


def test_without_a_configuration_a_method_has_its_defaults():
    model = llama()
    exact = read(model)
    model.set_attn_implementation("muse")
    assert torch.equal(read(model), exact)  # 60 tokens are less than the leaf
    assert configured_method(model.config, "muse") == (ml.MuSe(), None, False)


def test_on_stacks_on_a_name():
    model = llama()
    configure_attention(model, ml.Window(size=5), layers=[1])
    before = read(model)
    with ml.Window(size=5).on(model, layers={0: ml.Exact(), 2: ml.Exact()}):
        torch.testing.assert_close(read(model), before, rtol=1e-4, atol=1e-4)
    assert model.config._attn_implementation == "multipole_window"
    assert torch.equal(read(model), before)


def test_padding_and_generation_by_name():
    model = llama()
    kept = torch.ones_like(IDS)
    kept[0, :20] = 0
    expected, text = (
        read(model, attention_mask=kept),
        model.generate(IDS, attention_mask=kept, max_new_tokens=5),
    )
    configure_attention(model, ml.Exact())
    torch.testing.assert_close(
        read(model, attention_mask=kept)[kept.bool()], expected[kept.bool()], rtol=1e-4, atol=1e-4
    )
    assert torch.equal(model.generate(IDS, attention_mask=kept, max_new_tokens=5), text)


def test_an_encoder_by_name():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64}
    model = BertModel(BertConfig(**sizes, num_attention_heads=4)).eval()
    exact = read(model)
    model.config.multipole_topk = {"keys": 60}
    model.set_attn_implementation("multipole_topk")
    torch.testing.assert_close(read(model), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"clusters": 0}, ValueError, "model.config.muse: clusters is 0"),
        (
            {"cluster": 8},
            ValueError,
            "model.config.muse has cluster, which MuSe does not take; allowed are clusters",
        ),
        ({"layers": "all"}, TypeError, "layers 'all'; a list of integers"),
        ({"strict": "yes"}, TypeError, "strict 'yes'; True or False"),
        (64, TypeError, "model.config.muse is 64; a dictionary such as {'clusters': 64}"),
    ],
)
def test_a_wrong_configuration_is_named_when_the_model_runs(settings, error, message):
    model = llama()
    model.config.muse = settings
    model.set_attn_implementation("muse")
    with pytest.raises(error, match=re.escape(message)):
        read(model)


def test_what_cannot_be_configured_is_refused():
    class Own(Method):
        pass

    for method in (Own(), "muse"):
        with pytest.raises(TypeError, match=r"Any method works with method\.on"):
            configure_attention(llama(), method)
    with pytest.raises(ValueError, match="layers contains 3; LlamaForCausalLM has layers 0 to 2"):
        configure_attention(llama(), ml.MuSe(), layers=[3])
    with pytest.raises(TypeError, match="a transformers PreTrainedModel"):
        configure_attention(torch.nn.Linear(2, 2), ml.MuSe())


@pytest.mark.parametrize("make", [llama, gemma2, t5], ids=lambda make: make.__name__)
def test_an_implementation_is_set_back_and_forth(make):
    """What transformers' own tests ask of it; a name that is unknown changes nothing."""
    model = make()
    first = model.config._attn_implementation
    exact = read(model)
    for name in (*NAMES, first, "multipole_exact", "eager", "muse", first):
        model.set_attn_implementation(name)
        parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
        assert {part.config._attn_implementation for part in parts} == {name}
        with pytest.raises(ValueError, match='Specified `attn_implementation="foo"` is not supported'):
            model.set_attn_implementation("foo")
        assert model.config._attn_implementation == name
        if name in (first, "eager", "multipole_exact"):
            torch.testing.assert_close(read(model), exact, rtol=1e-4, atol=1e-4)
        with ml.Exact().on(model):
            torch.testing.assert_close(read(model), exact, rtol=1e-4, atol=1e-4)
        assert {part.config._attn_implementation for part in parts} == {name}

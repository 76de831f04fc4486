"""A saved choice of ``tune`` is in a model with one line."""

import pytest
import torch
from random_sample import random_sample
from tiny_models import differ, ids_of, read, tiny

import multipole_lab as ml
from multipole_lab.search.space import suggest_methods


def test_a_saved_choice_is_put_into_the_layers_that_it_was_measured_on(tmp_path):
    found = ml.tune(random_sample(), 10.0, methods=[ml.Window(size=20)], repeats=1, device="cpu")
    path = found.save(tmp_path / "choice.json")
    choice = ml.load_choice(path)
    assert (choice.method, choice.layers, choice.error) == (found.method, [1, 4], found.error)
    assert str(choice).startswith(f"{found.method} in layers 1, 4: error")
    model, ids = tiny("llama", num_hidden_layers=6), ids_of()
    with found.method.on(model, layers=[1, 4]):
        expected = read(model, ids)
    with choice.on(model) as drop_in:
        assert torch.equal(read(model, ids), expected)
        model.generate(ids, max_new_tokens=2, do_sample=False)
    assert sorted(drop_in.methods) == [1, 4]
    with choice.on(model, layers=0) as drop_in:
        read(model, ids)
    assert sorted(drop_in.methods) == [0]
    with pytest.raises(ValueError, match="layers contains 4; LlamaForCausalLM has layers 0 to 2"):
        choice.on(tiny("llama")).__enter__()


def test_an_approximation_that_was_chosen_reaches_the_output(tmp_path):
    choice = ml.load_choice(_saved(tmp_path, '"method": "Window(size=4, sinks=0)"'))
    model, ids = tiny("llama"), ids_of()
    exact = read(model, ids)
    with choice.on(model):
        assert differ(read(model, ids), exact)


@pytest.mark.parametrize("text", ["", "[]", '{"format": "another"}', "no JSON"])
def test_what_is_no_choice_is_named(text, tmp_path):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ValueError, match=r"other\.json is no choice of tune; ml\.tune\(\.\.\.\)\.save"):
        ml.load_choice(tmp_path / "other.json")


@pytest.mark.parametrize("causal", [False, True])
def test_no_cap_is_among_what_tune_tries(causal):
    tried = suggest_methods(4096, causal)
    free = [method for method in tried if isinstance(method, ml.MuSe) and method.cap is None]
    assert {method.partition for method in free} == {"kmeans"}
    assert {method.near for method in free} >= {0, 4}
    assert len(set(tried)) == len(tried)


def _saved(folder, method):
    facts = '"layers": [0, 2], "causal": true, "length": 60, "error": 0.01, "max_error": 0.02'
    path = folder / "made.json"
    path.write_text(f'{{"format": "multipole_lab tuned 1", {method}, {facts}}}')
    return path

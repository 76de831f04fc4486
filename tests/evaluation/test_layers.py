"""A whole model's layers get methods under a limit on its loss, and the choice is in a model with one line."""

import json

import pytest
import torch
from tiny_models import ids_of, read, save_byte_llama, tiny

import multipole_lab as ml
from multipole_lab import cli
from multipole_lab.evaluation.layers.choosing import Effect, _moves, choose_layers

METHODS = [ml.Window(size=40), ml.Window(size=4)]


@pytest.fixture(scope="module")
def model():
    return tiny("llama", num_hidden_layers=4)


def chosen(model, **limits):
    return choose_layers(model, ids_of(2), ids_of(2, seed=1), METHODS, **limits)


def test_more_is_saved_where_more_is_allowed_and_limits_are_kept_to(model):
    most = max(chosen(model, max_kl=1e9).tuned.kl, 1e-9)
    tight, middle, loose = (chosen(model, max_kl=x) for x in (0.0, most / 3, 1e9))
    assert tight.methods == {}
    assert (tight.share, tight.tuned, tight.holds) == (1.0, Effect(0.0, 0.0), True)
    assert set(loose.methods.items()) == {(layer, METHODS[1]) for layer in range(4)}
    assert 1 > middle.share > loose.share
    assert 0 < middle.tuned.kl <= most / 3 < loose.tuned.kl


def test_what_is_told_of_a_choice_is_what_it_does(model, tmp_path):
    found = chosen(model, max_above=1e9)
    ids = ids_of(2, seed=1)
    choice = ml.load_choice(found.save(tmp_path / "choice.json"))
    assert choice.methods == found.methods
    assert "on held-out text" in str(choice)
    dense = model(ids).logits[:, :-1].log_softmax(-1)
    with choice.on(model) as drop_in:
        ours = model(ids).logits[:, :-1].log_softmax(-1)
        model.generate(ids, max_new_tokens=2, do_sample=False)
    assert sorted(drop_in.approximated) == list(range(4))
    assert found.held_out.kl == pytest.approx((dense.exp() * (dense - ours)).sum(-1).mean().item(), rel=1e-3)
    loss, ours = (-x.gather(-1, ids[:, 1:, None]).mean().item() for x in (dense, ours))
    assert found.held_out.above == pytest.approx(100 * (ours / loss - 1), rel=1e-3, abs=1e-4)
    assert torch.equal(read(model, ids), read(model, ids))  # and nothing of it stays
    assert json.loads((tmp_path / "choice.json").read_text())["limit"] == {"kl": None, "above": 1e9}


def test_a_choice_names_the_leaf_that_auto_is_here(model):
    methods = [ml.MuSe(clusters=4), ml.MuSe(clusters=4, leaf=1024)]
    found = choose_layers(model, ids_of(1), ids_of(1, seed=1), methods, max_kl=1e9)
    assert {row["method"] for row in found.alone} == {"MuSe(clusters=4, leaf=1024)"}
    assert len(found.alone) == 4  # one method, in every layer


def test_a_layer_moves_along_its_lower_hull():
    # Saved 0.1, 0.5 and 0.8 at a divergence of 3, 1 and 2: the first is worse than the second in both.
    a, b, c = ml.Window(size=1), ml.Window(size=2), ml.Window(size=3)
    alone = {(7, a): Effect(3.0, 0), (7, b): Effect(1.0, 0), (7, c): Effect(2.0, 0)}
    moves = _moves(7, alone, {a: 0.9, b: 0.5, c: 0.2})
    assert [(layer, method) for _, layer, method in moves] == [(7, b), (7, c)]
    assert [price for price, *_ in moves] == pytest.approx([2.0, 1 / 0.3])


@pytest.mark.parametrize(
    ("limits", "methods", "words"),
    [
        ({}, METHODS, "max_above and max_kl are both None"),
        ({"max_kl": -1}, METHODS, "max_kl is -1; at least 0"),
        ({"max_kl": 1}, [], "methods is empty"),
    ],
)
def test_what_cannot_be_chosen_by_is_refused(model, limits, methods, words):
    with pytest.raises(ValueError, match=words):
        choose_layers(model, ids_of(), ids_of(), methods, **limits)


def test_the_command_prints_a_choice_and_writes_it(tmp_path, capsys):
    folder, file = save_byte_llama(tmp_path / "tiny"), tmp_path / "choice.json"
    asked = ["--model", folder, "--max-tokens", "96", "--method", "Window(size=8)", "--json", str(file)]
    assert cli.main(["eval", "layers", *asked, "--max-above", "1000"]) == 0
    assert "with ml.load_choice" in capsys.readouterr().out
    assert ml.load_choice(file).holds
    assert cli.main(["eval", "layers", *asked]) == 1
    assert "max_above and max_kl are both None" in capsys.readouterr().err

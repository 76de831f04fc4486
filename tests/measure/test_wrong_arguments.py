"""What is of the wrong kind is refused by name before anything is computed, not by whatever breaks on it later."""

import traceback
from functools import partial

import numpy as np
import pytest
import torch
from random_sample import random_sample

import multipole_lab as ml
from multipole_lab.clustering import induced_metric, inertia, silhouette, sizes
from multipole_lab.measure import (
    cosine,
    interleaved,
    loss_difference,
    mass_overlap,
    mass_recall,
    next_token_kl,
    operations,
)
from multipole_lab.models import is_cached
from multipole_lab.parallel import parallel_reference
from multipole_lab.search import fit_cost_model, recommended

SAMPLE = random_sample()
Q, K, V = SAMPLE[1].q.float(), SAMPLE[1].k.float(), SAMPLE[1].v.float()
LOGITS = torch.zeros(3, 5)
MUSE = ml.MuSe(clusters=4)
FIGURES = ml.figures
DRAWN = partial(FIGURES.lines, {"MuSe": ((1, 2), (3, 4))}, "Found", x="x", y="y")

WRONG = {
    # a word that Python counts as True
    "causal of a method": (lambda: MUSE(Q, K, V, causal="no"), TypeError, "causal is 'no'; True or False"),
    "causal=1": (lambda: ml.Exact()(Q, K, V, causal=1), TypeError, "causal is 1; True or False"),
    "return_lse": (lambda: MUSE(Q, K, V, return_lse="no"), TypeError, "return_lse is 'no'; True or False"),
    "causal of compare": (lambda: ml.compare(SAMPLE, MUSE, causal="yes"), TypeError, "causal is 'yes'"),
    "causal of tune": (lambda: ml.tune(SAMPLE, causal="full"), TypeError, "causal is 'full'"),
    "causal of sweep": (lambda: ml.sweep(SAMPLE, causal=0), TypeError, "causal is 0"),
    # tensors
    "merge of a pair": (lambda: ml.merge((V, Q)), TypeError, "partials has a Tensor; pairs of tensors"),
    "merge of a number": (lambda: ml.merge(5), TypeError, "partials has a int; pairs of tensors"),
    "merge without lse": (lambda: ml.merge([(V, 4)]), TypeError, "partials has a tuple; pairs of tensors"),
    "error of arrays": (lambda: ml.relative_squared_error(Q, Q.numpy()), TypeError, "exact is a ndarray;.*as_tensor"),
    "error of None": (lambda: ml.relative_squared_error(None, Q), TypeError, "approx is a NoneType; a torch tensor"),
    "cosine": (lambda: cosine(Q, 3), TypeError, "exact is a int; a torch tensor"),
    "next_token_kl": (lambda: next_token_kl(3, LOGITS), TypeError, "approx is a int; a torch tensor of logits"),
    "targets as a list": (lambda: loss_difference(LOGITS, LOGITS, [1, 2, 3]), TypeError, "targets is a list"),
    "targets as floats": (lambda: loss_difference(LOGITS, LOGITS, torch.ones(3)), TypeError, "targets has dtype"),
    "targets too large": (
        lambda: loss_difference(LOGITS, LOGITS, torch.tensor([1, 2, 5])), ValueError, "targets has .* beyond 0 to 4",
    ),
    "metric": (lambda: ml.balanced(K, size=4, metric="x"), TypeError, "metric is a str; a torch tensor"),
    "heads=0": (lambda: induced_metric(Q, heads=0), ValueError, "heads is 0; at least 1"),
    "heads=3": (lambda: induced_metric(Q, heads=3), ValueError, "heads is 3; a multiple or a divisor of .* 4 heads"),
    "other": (lambda: induced_metric(5, heads=2), TypeError, "other is a int; a torch tensor"),
    "inertia": (lambda: inertia(K, K), TypeError, "clusters is a Tensor; a Clusters is needed"),
    "sizes": (lambda: sizes([3]), TypeError, "clusters is a list; a Clusters is needed"),
    "silhouette": (lambda: silhouette(K, ml.kmeans(K, 4), seed="x"), TypeError, "seed is 'x'; an integer"),
    "queries of floats": (lambda: mass_overlap(MUSE, Q, K, torch.ones(2)), TypeError, "queries is torch.float32"),
    "queries of two rows": (lambda: mass_overlap(MUSE, Q, K, [[1]]), TypeError, r"queries is .* shape \(1, 1\)"),
    "a method's name": (lambda: mass_recall("MuSe", Q, K), TypeError, "method is 'MuSe'; an attention method"),
    "tolerance": (lambda: mass_recall(MUSE, Q, K, tolerance=-1), ValueError, "tolerance is -1; at least 0"),
    # numbers
    "repeats of compare": (lambda: ml.compare(SAMPLE, MUSE, repeats=1.5), TypeError, "repeats is 1.5; an integer"),
    "tokens of compare": (lambda: ml.compare(SAMPLE, MUSE, tokens="12"), TypeError, "tokens is '12'; an integer"),
    "repeats of tune": (lambda: ml.tune(SAMPLE, repeats="5"), TypeError, "repeats is '5'; an integer"),
    "length of tune": (lambda: ml.tune(SAMPLE, length=99.0), TypeError, "length is 99.0; an integer"),
    "max_error of tune": (lambda: ml.tune(SAMPLE, "0.1"), TypeError, "max_error is '0.1'; a number above 0"),
    "seed of tune": (lambda: ml.tune(SAMPLE, seed="x"), TypeError, "seed is 'x'; an integer"),
    "lengths of sweep": (lambda: ml.sweep(SAMPLE, lengths=128), TypeError, "lengths is 128; a list of"),
    "one length of sweep": (lambda: ml.sweep(SAMPLE, lengths=[99.5]), TypeError, "lengths has 99.5; integers"),
    "groups of sweep": (lambda: ml.sweep(SAMPLE, groups="a"), TypeError, "groups is 'a'; an integer"),
    "draws of sweep": (lambda: ml.sweep(SAMPLE, draws="a"), TypeError, "draws is 'a'; an integer"),
    "queries of operations": (lambda: operations(MUSE, "10"), TypeError, "queries is '10'; an integer"),
    "heads of operations": (lambda: operations(MUSE, 10, heads=0), ValueError, "heads is 0; at least 1"),
    "repeats of interleaved": (lambda: interleaved({"a": int}, repeats="3"), TypeError, "repeats is '3'; an integer"),
    "warmup of interleaved": (lambda: interleaved({"a": int}, warmup=-1), ValueError, "warmup is -1; at least 0"),
    "no call": (lambda: interleaved({"a": 3}), TypeError, r"sides\['a'\] is 3; a call"),
    "no sides": (lambda: interleaved([int]), TypeError, "sides is a list; names with calls"),
    "max_error of recommended": (lambda: recommended(None, "a"), TypeError, "max_error is 'a'; a number above 0"),
    # methods, layers, tables
    "a class": (lambda: ml.compare(SAMPLE, ml.MuSe), TypeError, "methods is <class .*; attention methods such as"),
    "text for methods": (lambda: ml.tune(SAMPLE, methods="MuSe()"), TypeError, r"methods is 'MuSe\(\)'; attention"),
    "texts for methods": (lambda: ml.tune(SAMPLE, methods=["MuSe()"]), TypeError, r"methods has 'MuSe\(\)'; attention"),
    "text for a grid": (lambda: ml.sweep(SAMPLE, "MuSe()"), TypeError, "grid is .*, or names with lists of values"),
    "layers as text": (lambda: ml.compare(SAMPLE, MUSE, layers="15"), TypeError, r"layers is '15'; .* are \[1, 4\]"),
    "layers as a float": (lambda: ml.tune(SAMPLE, layers=1.0), TypeError, "layers is 1.0; a list of numbers"),
    "held_out": (lambda: ml.tune(SAMPLE, held_out="x"), TypeError, "held_out is a str; a Sample is needed"),
    "table": (lambda: fit_cost_model([1]), TypeError, "table is a list; a table of ml.sweep"),
    "a table's columns": (lambda: recommended(ml.compare(SAMPLE, MUSE, repeats=1), 0.1), ValueError, "no column"),
    "a colour's name": (lambda: DRAWN(colours={"muse": "red"}), ValueError, "colours has 'muse'; there are MuSe; did"),
    "a note's name": (lambda: DRAWN(notes={"b": ["1"]}), ValueError, "notes has 'b'; there are MuSe"),
    "too few notes": (lambda: DRAWN(notes={"MuSe": ["1"]}), ValueError, r"notes\['MuSe'\] has 1 notes for 2 marks"),
    "a method of parts": (lambda: parallel_reference("MuSe", Q, K, V, 2), TypeError, "method is 'MuSe'; a MuSe is"),
    "no parts": (lambda: parallel_reference(MUSE, Q, K, V, 0), ValueError, "ranks is 0; at least 1"),
    "points of a sweep": (
        lambda: FIGURES.sweep([1, 2], [1, 2], [3, 3], ["a"], 0.1, "m"), ValueError, "have 2, 2, 2 and 1 numbers",
    ),
    "a choice of no method": (
        lambda: FIGURES.tuner(np.ones(2), np.ones(2), ["a", "b"], 0.1, 7, "m"), ValueError, "chosen is 7; there are 2",
    ),
    "a head that is not there": (
        lambda: FIGURES.error(np.ones(2), 5, np.ones(1), np.ones(1), ["a"]), ValueError, "head is 5; .* 0 to 1",
    ),
    "no errors": (lambda: FIGURES.fields(np.ones(3), {}, np.ones((2, 2)), np.ones(2)), ValueError, "errors is empty"),
    "steps of a panel": (lambda: ml.panels.expansion(steps=0), ValueError, "steps is 0; at least 2"),
    "one panel of a desk": (lambda: ml.panels.lab(SAMPLE, "lens"), ValueError, "show: 'lens' is one name"),
    # devices and paths
    "device of compare": (lambda: ml.compare(SAMPLE, MUSE, device="gpu"), ValueError, "device is 'gpu'; 'cpu', 'cuda'"),
    "device of tune": (lambda: ml.tune(SAMPLE, device=[]), ValueError, r"device is \[\]; 'cpu', 'cuda'"),
    "device of a clock": (lambda: interleaved({"a": int}, device="gpu"), ValueError, "device is 'gpu'"),
    "device of a model": (lambda: ml.load_model("smollm2", device="gpu"), ValueError, "device is 'gpu'"),
    "positions": (lambda: ml.load_model("smollm2", positions="a"), TypeError, "positions is 'a'; an integer"),
    "name of a model": (lambda: ml.load_model(5), TypeError, "name is 5; a name or a path"),
    "name of a sample": (lambda: ml.load_sample(5), TypeError, "name is 5; a name or a path"),
    "path of a choice": (lambda: ml.load_choice(5), TypeError, "path is 5; a name or a path"),
    "unknown model": (lambda: is_cached("smolm2"), ValueError, "name is 'smolm2'; .*did you mean 'smollm2'"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_argument_is_named_by_the_library_itself(call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert "multipole_lab" in traceback.extract_tb(caught.value.__traceback__)[-1].filename


def test_one_method_is_as_good_as_a_list_of_one():
    for measured in (ml.compare(SAMPLE, MUSE, repeats=1), ml.sweep(SAMPLE, MUSE, repeats=1)):
        assert set(measured["method"]) == {"MuSe(clusters=4)"}
    assert ml.tune(SAMPLE, 9.0, methods=MUSE, repeats=1).tried == 1

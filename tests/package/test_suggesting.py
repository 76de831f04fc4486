"""A misspelt name, argument or word is answered with the nearest right one: every public name, by enumeration."""

import copy
import dataclasses
import importlib
import inspect
import pickle
from typing import get_type_hints

import numpy as np
import pytest
import torch

import multipole_lab as ml
from multipole_lab.attention import Method
from multipole_lab.decoding.settings import Settings
from multipole_lab.method_text import method_names
from multipole_lab.suggesting import _words, nearest

PACKAGES = ("", *(f".{name}" for name in ml._SUBPACKAGES))
METHODS = [getattr(ml.attention, name) for name in method_names() if name != "MultipoleCache"]


def public(package):
    module = importlib.import_module(f"multipole_lab{package}")
    return module, list(module.__all__)


def callables():
    """Every public function, and what makes a public method or cache."""
    for package in PACKAGES:
        module, names = public(package)
        if package == ".course":  # what a student calls; its functions say in their own words what they need
            continue
        for name in names:
            one = getattr(module, name)
            made = inspect.isclass(one) and (issubclass(one, Method) or one is ml.MultipoleCache)
            takes_all = not inspect.isclass(one) and inspect.isfunction(one) and any(
                p.kind is p.VAR_KEYWORD for p in inspect.signature(one).parameters.values()
            )  # fmt: skip
            if (made and one is not Method) or (inspect.isfunction(one) and not takes_all):
                yield pytest.param(one, id=f"{package.lstrip('.') or 'ml'}.{name}")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_misspelt_name_of_a_package_is_answered_with_the_nearest(package):
    module, names = public(package)
    for name in names:
        for typed in (name + "s", name[:-1], name.swapcase()):
            if len(name) > 3 and not hasattr(module, typed):
                with pytest.raises(
                    AttributeError, match=f"has no attribute '{typed}'; did you mean"
                ) as error:
                    getattr(module, typed)
                assert any(repr(one) in str(error.value) for one in names)


def test_dir_lists_what_is_for_users_and_nothing_of_how_it_is_found():
    assert set(dir(ml)) >= {*ml.__all__, "__version__", "__doc__"}
    assert [name for name in dir(ml) if name.startswith("_") and not name.startswith("__")] == []
    assert not {"annotations", "importlib", "lazy_names"} & set(dir(ml))
    assert all(hasattr(ml, name) for name in dir(ml))


def test_what_python_asks_for_is_refused_without_a_guess():
    with pytest.raises(AttributeError, match=r"has no attribute '__wrapped__'$"):
        ml.__wrapped__  # noqa: B018
    assert not hasattr(ml, "_repr_html_")


@pytest.mark.parametrize("one", list(callables()))
def test_a_misspelt_argument_is_answered_with_the_nearest(one):
    known = [p.name for p in inspect.signature(one).parameters.values() if p.kind is not p.VAR_KEYWORD]
    for name in known:
        typed = name[:-1] + "_" + name[-1]
        with pytest.raises(TypeError, match=f"has no argument '{typed}'") as error:
            one(**{typed: 1})
        assert name in str(error.value).partition("It takes: ")[2].split(", ")
        if len(name) > 4:
            assert f"did you mean '{nearest(typed, known)}'" in str(error.value)


@pytest.mark.parametrize("one", list(callables()))
def test_too_many_values_are_answered_with_what_is_taken(one):
    parameters = inspect.signature(one).parameters.values()
    most = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    if one is not ml.MultipoleCache and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        with pytest.raises(TypeError, match=f"got {most + 1} argument"):
            one(*[1] * (most + 1))


def test_the_answer_names_the_argument_and_all_that_there_are():
    with pytest.raises(
        TypeError, match=r"MuSe has no argument 'cluster'; did you mean 'clusters'. It takes: clusters, cap"
    ):
        ml.MuSe(cluster=3)
    with pytest.raises(TypeError, match="MultipoleCache has no argument 'bugdet'; did you mean 'budget'"):
        ml.MultipoleCache(bugdet=3)
    with pytest.raises(TypeError, match="has no argument 'casual'; did you mean 'causal'"):
        ml.MuSe()(*[torch.zeros(1, 1, 4, 4)] * 3, casual=True)


@pytest.mark.parametrize("kind", [*METHODS, Settings])
def test_a_wrong_word_is_answered_with_the_nearest(kind):
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        for word in _words(hints[field.name]):
            if word == "auto" and field.name == "clusters":
                continue
            with pytest.raises(
                ValueError, match=f"{field.name} is '{word[:-1]}'; allowed are .* did you mean '{word}'"
            ):
                kind(**{field.name: word[:-1]})


@pytest.mark.parametrize("kind", METHODS)
def test_a_word_in_another_ones_place_is_answered_with_its_name(kind):
    hints = get_type_hints(kind)
    first, *others = [field.name for field in dataclasses.fields(kind)] or [None]
    for name in others:
        for word in _words(hints[name]):
            if word not in _words(hints[first]):
                with pytest.raises(
                    TypeError, match=f"takes {first} here, and '{word}' came; did you mean {name}="
                ):
                    kind(word)


def test_words_of_functions_are_checked_too():
    x = torch.zeros(1, 1, 4, 2)
    with pytest.raises(ValueError, match=r"init is 'kmeans..'; .* did you mean 'k-means..'"):
        ml.kmeans(x, 2, init="kmeans++")
    with pytest.raises(ValueError, match=r"source is 'hubb'; .* did you mean 'hub'"):
        ml.load_model("smollm2", source="hubb")
    with pytest.raises(ValueError, match=r"no sample 'smolm2'; there are smollm2, .* did you mean 'smollm2'"):
        ml.load_sample("smolm2")


@pytest.mark.parametrize("made", [np.zeros((1, 1, 8, 4), np.float32), [[[[0.0] * 4] * 8]]])
def test_what_is_no_tensor_is_answered_with_how_to_make_one(made):
    x = torch.zeros(1, 1, 8, 4)
    for call in (
        *(lambda kind=kind: kind()(made, x, x) for kind in METHODS),
        *(lambda one=one: one(made) for one in (ml.kmeans, ml.balanced, ml.runs)),
    ):
        with pytest.raises(TypeError, match=r"a torch tensor .* is needed: torch.as_tensor makes one"):
            call()


@pytest.mark.parametrize("kind", METHODS)
def test_methods_are_copied_pickled_and_replaced(kind):
    method = kind()
    assert pickle.loads(pickle.dumps(method)) == copy.copy(method) == copy.deepcopy(method) == method
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(method, protocol)) == method
    for field in dataclasses.fields(kind):
        if field.default == 0:
            assert getattr(dataclasses.replace(method, **{field.name: 7}), field.name) == 7
    with pytest.raises(TypeError, match="has no argument 'no_such'"):
        dataclasses.replace(method, no_such=1)
    assert list(inspect.signature(kind).parameters) == [field.name for field in dataclasses.fields(kind)]


def test_a_method_may_be_made_inside_what_is_compiled():
    q = torch.randn(1, 2, 64, 16, generator=torch.Generator().manual_seed(0))

    def attend(q):
        return ml.MuSe(clusters=4)(q, q, q)

    compiled = torch.compile(attend, backend="eager", fullgraph=True)
    assert torch.equal(compiled(q), attend(q))


def test_a_method_of_ones_own_with_its_own_arguments_is_let_alone():
    class Near(ml.MuSe):
        def __init__(self, distance):
            super().__init__(near=distance)

    assert Near(distance=3).near == 3

"""A method written as text is read back as itself, and nothing but plain values is read."""

import dataclasses

import pytest

import multipole_lab as ml
from multipole_lab.method_text import as_python, as_text, check_method, method_names, parse_method


@pytest.mark.parametrize(
    "method",
    [
        ml.Exact(),
        ml.Window(size=64, sinks=0),
        ml.TopK(keys=7),
        ml.Centroid(clusters="auto", cap=None, budget=32),
        ml.MuSe(),
        ml.MuSe(clusters=32, order="dipole", dipole_rank=None, near=4, cap=2.5, partition="balanced", seed=3),
    ],
)
def test_a_method_survives_being_written(method):
    assert parse_method(as_text(method)) == method
    assert parse_method(as_python(method)) == method
    assert eval(as_python(method), {"ml": ml}) == method
    assert check_method(repr(method)) == as_text(method)


def test_a_cache_survives_being_written():
    cache = ml.MultipoleCache(fraction=1 / 32, budget=0.05, levels=1)
    again = parse_method(as_text(cache))
    assert isinstance(again, ml.MultipoleCache)
    assert again.settings == cache.settings
    assert check_method("MultipoleCache(fraction=1/32, budget=0.05, levels=1)") == as_text(cache)
    assert as_text(ml.MultipoleCache()) == "MultipoleCache()"


def test_the_shortest_text_names_what_was_chosen():
    assert as_text(ml.MuSe(clusters=64, near=4)) == "MuSe(clusters=64, near=4)"
    assert check_method(" ml.Window( sinks=4,size=512 ) ") == "Window(size=512)"
    assert check_method("Exact") == "Exact()"


def test_every_exported_method_can_be_typed():
    assert {"Exact", "Window", "TopK", "Centroid", "MuSe", "MultipoleCache"} <= set(method_names())
    for name in method_names():
        assert check_method(f"{name}()").startswith(name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("muse(clusters=64)", "Did you mean 'MuSe'"),
        ("Windows()", "Did you mean 'Window'"),
        ("Flash()", "There are "),
        ("MuSe(cluster=64)", "Did you mean 'clusters'"),
        ("MultipoleCache(bugdet=3)", "Did you mean 'budget'"),
        ("MuSe(64)", "by name"),
        ("MuSe(**{'clusters': 64})", "by name"),
        ("MuSe(order=dipole)", "needs quotes"),
        ("MuSe(clusters=len('x'))", "plain value"),
        ("MuSe(clusters=1/0)", "plain value"),
        ("MuSe(clusters=0)", "clusters is 0"),
        ("MuSe(clusters='many')", "clusters is 'many'"),
        ("MultipoleCache(budget=-1)", "budget is -1"),
        ("MuSe(clusters=64", "not of the form"),
        ("MuSe(clusters=64, clusters=32)", "clusters is given twice"),
        ("", "not of the form"),
        ("__import__('os').system('true')", "not of the form"),
        ("os.MuSe()", "not of the form"),
        ("MuSe()()", "not of the form"),
        ("(" * 5000, "not of the form"),
    ],
)
def test_what_is_wrong_is_named_and_never_run(text, words):
    with pytest.raises(ValueError, match="method") as caught:
        check_method(text)
    assert words in str(caught.value)
    with pytest.raises(ValueError, match="method"):
        parse_method(text)


def test_a_windowed_cache_is_checked_without_a_model_and_built_with_one():
    text = check_method("MultipoleCache(rope='windowed')")
    with pytest.raises(ValueError, match="config"):
        parse_method(text)


def test_what_is_no_method_is_refused():
    @dataclasses.dataclass
    class Other:
        x: int = 1

    with pytest.raises(TypeError, match="Other"):
        as_text(Other())
    with pytest.raises(TypeError, match="int"):
        parse_method(3)

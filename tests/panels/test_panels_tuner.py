"""The tuner panel around a search that is made up: what it asks, shows, copies, drops and explains."""

import asyncio
import sys
import threading
from types import SimpleNamespace

import pandas
import pytest
import torch

from multipole_lab import panels, search
from multipole_lab.attention import MuSe
from multipole_lab.models.samples.sample import Sample

TABLE = pandas.DataFrame({"method": ["MuSe(clusters=64)", "MuSe(clusters=64, near=4)", "Window(size=9)"],
                          "rse": [0.1, 0.01, 0.3],
                          "seconds": [1.0, 2.0, 1.0], "speedup": [4.0, 2.0, 9.0]})  # fmt: skip
BEST = SimpleNamespace(method=MuSe(near=4), error=0.01, seconds=2.0, speedup=2.0, table=TABLE,
                       code="# 2.0 times faster\nattend = ml.MuSe(clusters=64, near=4)")  # fmt: skip


@pytest.fixture
def sample():
    tensors = {f"layer.1.{part}": torch.zeros(1, 1, 32, 4).half() for part in "qkv"}
    return Sample([1], torch.arange(32), ["x"] * 32, scale=0.5, rope={}, provenance={}, tensors=tensors)


@pytest.fixture
def asked(monkeypatch):
    """What the search was asked for."""
    calls = []

    def tune(sample, max_error, progress):
        calls.append((sample, max_error))
        progress(1, 2)
        progress(2, 2)
        return BEST

    monkeypatch.setattr(search, "tune", tune, raising=False)
    return calls


def words(panel):
    return panel.summary


def test_nothing_is_searched_before_it_is_asked_for(sample, asked):
    panel = panels.tuner(sample)
    assert "Press Tune" in words(panel)
    assert panel.code == ""
    assert not asked


def test_the_search_gets_sample_and_error_and_its_line_is_shown(sample, asked):
    panel = panels.tuner(sample)
    assert panel.tune() is BEST
    assert asked == [(sample, 0.02)]
    assert "2.0 times faster" in words(panel)
    assert panel.code == BEST.code
    assert "MuSe(clusters=64, near=4)" in panel._code.value
    sent = []
    panel._porter.send = lambda content, *_: sent.append(content)
    next(b for b in panel._buttons() if b.description == "Copy").click()
    assert sent == [{"kind": "copy", "text": BEST.code}]


def test_another_error_chooses_from_what_was_measured_without_a_search(sample, asked):
    panel = panels.tuner(sample)
    panel.tune()
    panel.set(max_error=0.1)
    assert panel.code == "attend = ml.MuSe(clusters=64)"
    panel.set(max_error=0.001)
    assert panel.code == ""
    assert "None of 3 has an error below 0.0010" in words(panel)
    assert len(asked) == 1


def test_exact_attention_is_recommended_where_nothing_allowed_is_faster(sample, asked, monkeypatch):
    slow = SimpleNamespace(**{**vars(BEST), "table": TABLE.assign(speedup=[4.0, 0.5, 9.0])})
    monkeypatch.setattr(search, "tune", lambda *args, **kwargs: slow)
    panel = panels.tuner(sample)
    panel.tune()
    assert "2.0 times slower" in words(panel)
    assert panel.code.endswith("\nattend = ml.Exact()")


def test_a_search_that_fails_is_explained_and_can_be_tried_again(sample, asked, monkeypatch):
    panel = panels.tuner(sample)
    good = search.tune

    def fail(*args, **kwargs):
        raise ValueError("the sample has no layers")

    monkeypatch.setattr(search, "tune", fail)
    panel.tune()
    assert "the sample has no layers" in panel.message
    monkeypatch.setattr(search, "tune", good)
    panel.tune()
    assert panel.message == ""


def test_an_installation_without_the_search_says_so(sample, monkeypatch):
    monkeypatch.setitem(sys.modules, "multipole_lab.search", None)
    panel = panels.tuner(sample)
    panel.tune()
    assert "The search is not part of this installation" in panel.message


def test_moving_the_slider_ends_a_search_under_way(sample, monkeypatch):
    ended, begun = threading.Event(), threading.Event()

    def tune(sample, max_error, progress):
        begun.set()
        try:
            for i in range(10_000):
                progress(i, 10_000)
                threading.Event().wait(0.005)
        finally:
            ended.set()

    monkeypatch.setattr(search, "tune", tune, raising=False)

    async def interrupt():
        panel = panels.tuner(sample)
        panel._tune()
        while not begun.is_set():
            await asyncio.sleep(0.02)
        panel.controls["max_error"].value = 0.1
        while not ended.is_set():
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.1)
        return panel

    panel = asyncio.run(asyncio.wait_for(interrupt(), 20))
    assert "Press Tune" in words(panel)
    assert panel.message == ""

"""A text of the reader's own in a panel: read by a model while they wait, refused in words, undone."""

import asyncio
import threading

import pytest
from tiny_models import save_byte_llama

import multipole_lab as ml
from multipole_lab import panels
from multipole_lab.models import loading
from multipole_lab.panels.tools import own_text

TEXT = "The keeper of the lamp wrote the names of the ships into her book. " * 2


@pytest.fixture(scope="module")
def sample():
    return ml.load_sample("smollm2").crop(256)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_byte_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def model(folder, monkeypatch):
    """A tiny model in the place of SmolLM2, whose tokens are bytes."""
    monkeypatch.setattr(loading, "is_cached", lambda name: True)
    monkeypatch.setattr(own_text, "_model", lambda: ml.load_model(folder))


def paste(panel, text):
    panel._own.text.value = text
    panel._own.button.click()


def test_a_text_is_read_shown_and_taken_back(model, sample):
    panel = panels.lens(sample)
    paste(panel, TEXT)
    assert panel.message == ""
    assert "".join(panel.sample.tokens).strip().endswith(TEXT.strip()[-20:])
    assert "".join(panel._story.words).strip().endswith(TEXT.strip()[-20:])
    assert panel.controls["context"].value == len(panel.sample)
    panel.undo()
    assert panel.sample is sample


def test_a_text_that_is_too_short_and_a_missing_model_are_said(model, sample, monkeypatch):
    panel = panels.lens(sample)
    paste(panel, "Too short.")
    assert "at least 64 are needed" in panel.message
    assert "text was not read" in panel.message
    assert panel.sample is sample
    monkeypatch.setattr(loading, "is_cached", lambda name: False)
    paste(panel, TEXT)
    assert "ml.load_model('smollm2') brings one" in panel.message
    panel.reset()
    assert panel.message == ""


def test_in_a_notebook_the_panel_is_heard_while_the_model_reads(sample, monkeypatch):
    go_on = threading.Event()
    monkeypatch.setattr(own_text, "read_text", lambda text, layers: go_on.wait(60) and sample.crop(100))

    async def wait():
        panel = panels.clusters(sample)
        paste(panel, TEXT)
        panel.controls["seed"].value = 3
        await asyncio.sleep(0.3)
        assert panel._own.button.disabled
        assert "reading" in panel._own._words.value
        assert len(panel.sample) == 256
        go_on.set()
        while panel._own.button.disabled:
            await asyncio.sleep(0.05)
        assert len(panel.sample) == 100
        assert panel._own._words.value == ""

    asyncio.run(wait())

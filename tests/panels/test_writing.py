"""Writing over a clustered cache: the words against the model's own, what was read, and moves while it writes."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import ids_of, tiny

import multipole_lab as ml
from multipole_lab import figures, panels
from multipole_lab.decoding.settings import Settings
from multipole_lab.lessons.decode_trace import decode_trace
from multipole_lab.lessons.writing import Author, Replay, Word, parting

SMALL = {"sinks": 2, "recent": 8, "interval": 8, "block": 64, "fraction": 1 / 4, "dense_until": 0}
ALL = Settings(budget=1.0, **SMALL)


class Letters:
    """A tokenizer: the text's first words stand for tokens 3 to 63."""

    def __call__(self, text, return_tensors):
        return SimpleNamespace(input_ids=ids_of(1, max(len(text.split()), 0)))

    def decode(self, ids):
        return f" t{ids[0]}"


def author(name="llama", tokens=60):
    return Author(tiny(name), Letters(), "word " * tokens, tokens)


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "gpt-neox"])
def test_with_every_key_read_both_sides_write_the_models_own_words_whatever_changes(name):
    written, ids = author(name), ids_of(1, 60)
    for settings in (
        ALL,
        Settings(budget=1.0, levels=1, **SMALL),
    ):  # the second goes on with the first's keys
        written.use(1, settings)
        for _ in range(5):
            word = written.next()
            with torch.no_grad():
                best = written.model(ids).logits[:, -1:].argmax(-1)
            ids = torch.cat([ids, best], 1)
            assert word.text == word.dense == f" t{best.item()}"
    assert parting(written.words) is None
    assert [word.length for word in written.words] == list(range(60, 70))
    read = written.words[-1].read(0)
    assert read.shape == (69,)
    assert read.all()


def test_a_small_budget_reads_little_and_may_write_other_words():
    written = author("gpt-neox")
    written.use(2, Settings(budget=4, replacement=False, **SMALL))
    for _ in range(12):
        word = written.next()
        opened = word.opened(1)
        assert opened.sum() <= 12  # heads share the budget
        assert not opened[:2].any()
        assert word.read(1)[:2].all()
        assert word.read(1)[-8:].all()
        assert 10 <= word.read(1).sum() < word.length
    first = parting(written.words)
    assert first is not None
    texts = [(word.text, word.dense) for word in written.words]
    assert all(one == other for one, other in texts[:first])
    assert texts[first][0] != texts[first][1]


def test_a_prompt_needs_two_tokens():
    with pytest.raises(ValueError, match="text: two tokens are needed to begin with, got 1"):
        author(tokens=1)


def test_a_replay_reads_what_decoding_the_sample_reads():
    sample = ml.load_sample("smollm2").crop(300)
    settings = Settings(budget=32, recent=16, interval=16, dense_until=0)
    replay = Replay(sample, 300, 6)
    replay.use(15, settings)
    words = [replay.next() for _ in range(6)]
    assert [word.text for word in words] == sample.tokens[-6:]
    layer = sample[15]
    q, k, v = layer.q[:, 3:6, :-1], layer.k[:, 1:2, :-1], layer.v[:, 1:2, :-1]
    records = decode_trace(q, k, v, settings, 6, sample.scale)
    for word, record in zip(words, records, strict=True):
        np.testing.assert_array_equal(np.flatnonzero(word.opened(1)), record.chosen)
        assert word.read(1).sum() == record.read
        assert word.length == record.position + 1
        assert 0 < word.error < 1


@pytest.fixture(scope="module")
def sample():
    return ml.load_sample("smollm2").crop(400)


def test_the_page_lights_what_the_chosen_word_read_and_a_click_chooses(sample):
    panel = panels.writing(sample)
    panel.set(head=1)
    page, last = panel._page, panel._pen.words[-1]
    assert page.prompt == sample.tokens[:376]
    (side,) = page.sides
    assert (side["words"], side["parted"]) == (sample.tokens[376:], -1)
    assert "Replayed, not written" in panel.summary
    lit = np.frombuffer(page.lit, np.uint8)
    np.testing.assert_array_equal(lit > 0, last.read(1))
    np.testing.assert_array_equal(lit == 3, last.opened(1))
    page.chosen = 4
    assert panel.state()["word"] == 5
    assert len(page.lit) == panel._pen.words[4].length == 380
    assert "For word 5, key head 1 of layer 15" in panel.summary.replace("<br>", " ")


def test_a_model_writes_and_what_it_writes_is_in_the_table_with_its_machine(sample):
    model = tiny("llama")
    panel = panels.writing(sample, model, Letters())
    table = panel.table()
    assert len(table["word"]) == 24
    assert table["keys"] == list(range(table["keys"][0], table["keys"][0] + 24))
    assert set(table["measured_on"]) == {panel.machine}
    assert "float64" in panel.machine
    assert [side["title"] for side in panel._page.sides] == ["clustered cache", "dense cache"]
    assert panel.controls["layer"].max == 2
    for kwargs, error in (({"model": model}, ValueError), ({"model": 1, "tokenizer": 2}, TypeError)):
        with pytest.raises(error, match="model"):
            panels.writing(sample, **kwargs)


def test_a_move_while_it_writes_counts_from_the_next_word_on_and_afterwards_begins_again(sample):
    async def move():
        panel = panels.writing(sample)
        while panel._pen is None or len(panel._pen.words) < 3:
            await asyncio.sleep(0.001)
        before = list(panel._pen.words)
        panel.set(budget=16, levels="one")
        await asyncio.sleep(0.05)
        panel.figure()
        return before, panel

    before, panel = asyncio.run(move())
    assert len(panel._pen.words) == 24
    assert panel._pen.words[: len(before)] == before
    kept = panel._pen
    panel.set(word=2)
    assert panel._pen is kept
    panel.set(budget=32)
    assert panel._pen is not kept
    assert len(panel._pen.words) == 24


def test_the_title_says_where_the_texts_part():
    def titled(words, dense, **more):
        count = np.full(len(words), 5)
        figure = figures.writing(
            words, dense, 4 * count, count, count, count, 1.0 * count, 2.0 * count, np.full(len(words), np.nan),
            where="key head 0 of layer 1", machine="a machine", **more,
        )  # fmt: skip
        return figure.layout.title.text.replace("<br>", " "), figure

    text, figure = titled([" a", " b", " c"], [" a", " x", " y"], word=1)
    assert "leaves the dense one at word 2: “␣b” / “␣x”" in text
    assert "For word 2, key head 0 of layer 1 read 10 of 20 keys exactly" in text
    assert "5.0 ms a word, dense 10 ms, measured just now on a machine" in text
    assert figure.layout.shapes[0].x0 == 1.5
    assert "3 words written, the same over both caches" in titled(3 * [" a"], 3 * [" a"])[0]
    assert "Replayed, not written" in titled([" a"], [" a"], live=False)[0]
    assert "The model reads the prompt" in titled([], [])[0]


def test_a_layer_that_leaves_no_record_reads_every_key():
    word = Word(" a", " a", 7, None, 1.0, 1.0, float("nan"))
    assert word.read(0).sum() == 7
    assert word.opened(0).sum() == 0

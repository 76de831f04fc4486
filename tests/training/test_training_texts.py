"""What a model is trained on: documents, their tokens and splits, and the order in which they are read."""

import sys
import types

import numpy as np
import pytest

from multipole_lab.training import Corpus
from multipole_lab.training.texts import preparation as preparing
from multipole_lab.training.texts.corpus import Sequences
from multipole_lab.training.texts.preparation import prepare_corpus
from multipole_lab.training.texts.sources import documents, is_heldout


def test_tokens_give_the_text_back_and_splits_share_no_document(corpus, text):
    end = corpus.tokenizer.eos_token
    whole = {path.read_text(encoding="utf-8") for path in (text / "deep").iterdir()}
    found = {}
    for split in ("train", "heldout"):
        row = corpus.tokenizer.decode(corpus.tokens(split).tolist())
        found[split] = row.split(end)[:-1]
        count = corpus.record["splits"][split]
        assert len(found[split]) == count["documents"] > 0
        assert len(corpus.tokens(split)) == count["tokens"]
    assert set(found["train"]) | set(found["heldout"]) == whole
    assert not set(found["train"]) & set(found["heldout"])
    assert corpus.tokens("train").dtype == np.uint16


def test_one_document_in_twenty_is_held_out():
    share = np.mean([is_heldout(f"file{i}.txt", 0) for i in range(4000)])
    assert 0.04 < share < 0.06
    assert is_heldout("a", 0) == is_heldout("a", 0)


def test_prepared_text_is_opened_again_and_changed_text_is_not(text, tmp_path, corpus):
    said = []
    first = prepare_corpus(str(text), 300, None, folder=tmp_path, say=said.append)
    made = len(said)
    assert made > 0
    assert prepare_corpus(str(text), 300, None, folder=tmp_path, say=said.append) == first
    assert len(said) == made
    assert first.record["text_sha256"] == corpus.record["text_sha256"]  # the same text gives the same tokens
    assert np.array_equal(first.tokens("train"), corpus.tokens("train"))
    (text / "late.txt").write_text("a late document " * 100)
    try:
        other = prepare_corpus(str(text), 300, None, folder=tmp_path, say=said.append)
    finally:
        (text / "late.txt").unlink()
    assert other.folder != first.folder


def test_interrupted_preparation_leaves_nothing_behind(text, tmp_path, monkeypatch):
    def interrupted(name, seed):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(preparing, "is_heldout", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare_corpus(str(text), 300, None, folder=tmp_path, say=lambda words: None)
    assert list(tmp_path.iterdir()) == []
    assert (
        prepare_corpus(str(text), 300, None, folder=tmp_path, say=lambda words: None).blocks("train", 64) > 0
    )


def test_text_that_is_not_there_or_too_little_is_refused(tmp_path, corpus):
    with pytest.raises(ValueError, match="nowhere', which is no folder; allowed are 'python', 'pg19'"):
        next(documents(str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match="there is no text file"):
        list(documents(str(tmp_path)))
    (tmp_path / "one.txt").write_text("one document " * 100)
    with pytest.raises(ValueError, match="no document fell to the"):
        prepare_corpus(str(tmp_path), 300, folder=tmp_path / "made", say=lambda words: None)
    with pytest.raises(ValueError, match=r"context is 1,000,000, but the heldout text has"):
        corpus.blocks("heldout", 1_000_000)
    with pytest.raises(FileNotFoundError, match=r"holds no corpus\.json"):
        Corpus.open(tmp_path)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"source": 5}, TypeError, "source is 5; a name or a path"),
        ({"vocab": 10}, ValueError, "vocab is 10; at least 300"),
        ({"vocab": "many"}, ValueError, "vocab is 'many'; a positive integer"),
        ({"megabytes": "all"}, ValueError, "megabytes is 'all'; a positive number, or None for all text"),
        ({"seed": 0.5}, TypeError, "seed is 0.5; an integer"),
    ],
)
def test_wrong_settings_of_a_corpus_are_named_before_any_text_is_read(changes, error, says, tmp_path):
    with pytest.raises(error, match=says):
        prepare_corpus(**{"folder": tmp_path / "made", **changes})
    assert not (tmp_path / "made").exists()


def test_python_text_has_code_and_prose_in_one_order():
    names = [name for name, _ in documents("python", megabytes=1)]
    assert names == [name for name, _ in documents("python", megabytes=1)]
    assert any(name.startswith("topic/") for name in names)
    assert any(name.endswith(".py") for name in names)
    assert not any("site-packages" in name for name in names)


def test_pg19_streams(monkeypatch):
    asked = []

    def load_dataset(name, split, streaming):
        asked.append((name, split, streaming))
        for i in range(3):
            yield {"short_book_title": f"Book {i}", "publication_date": 1800 + i, "text": f"{split} " * 100}

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    names = [name for name, _ in documents("pg19")]
    assert len(set(names)) == 9
    assert all(streaming for _, _, streaming in asked)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match="pip install datasets"):
        next(documents("pg19"))


def test_every_pass_over_the_text_is_another_permutation(corpus):
    n = corpus.blocks("train", 64)
    data = Sequences(corpus, "train", 64, 3 * n, seed=1)
    order = [data.block(i) for i in range(3 * n)]
    for turn in range(3):
        assert sorted(order[turn * n : (turn + 1) * n]) == list(range(n))
    assert order[:n] != order[n : 2 * n]
    again = Sequences(corpus, "train", 64, 3 * n, seed=1)
    assert again.block(2 * n + 1) == order[2 * n + 1]  # asked for out of order, as on resumption
    assert [Sequences(corpus, "train", 64, n, seed=2).block(i) for i in range(n)] != order[:n]
    first = order[0] * 64
    assert np.array_equal(data[0]["input_ids"].numpy(), corpus.tokens("train")[first : first + 64])

"""A text that several tests prepare and train on."""

from pathlib import Path

import pytest

from multipole_lab.training import Corpus, prepare_corpus


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """Sixty documents, each of one word that no other has; and what is no text."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "deep").mkdir()
    for i in range(60):
        (folder / "deep" / f"{i}.txt").write_text(f"word{i:02d} is here, été {i * i} " * 40, encoding="utf-8")
    (folder / "picture.png").write_bytes(b"\x89PNG\0" + bytes(1000))
    (folder / "latin.txt").write_bytes("été ".encode("latin-1") * 100)
    (folder / ".hidden").write_text("hidden " * 100)
    return folder


@pytest.fixture(scope="module")
def corpus(text, tmp_path_factory) -> Corpus:
    """The text in 300 tokens."""
    return prepare_corpus(
        str(text), 300, None, folder=tmp_path_factory.mktemp("made"), say=lambda words: None
    )

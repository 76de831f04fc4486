"""From text to a ``Corpus``: a tokenizer trained on the spot, then tokens written as they come.

All is made in a folder with another name, which gets its own name when it is whole: what was interrupted is never taken
for a corpus.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from multipole_lab.clustering.checks import check_seed
from multipole_lab.files import check_path, new_folder
from multipole_lab.folders import cache_folder, make_cache_folder
from multipole_lab.suggesting import suggesting
from multipole_lab.training.limits import check_megabytes, check_vocab
from multipole_lab.training.texts.corpus import RECORD, SPLITS, TOKENIZER, Corpus
from multipole_lab.training.texts.sources import Document, documents, is_heldout

END = "<|endoftext|>"
# The tokenizer learns its pairs from the first part of the text: more changes hardly any pair.
LEARN_FROM = 20e6
# Characters that are tokenized at a time.
PORTION = 4_000_000

Say = Callable[[str], None]


@suggesting
def prepare_corpus(
    source: str = "python",
    vocab: int = 8192,
    megabytes: float | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    say: Say = print,
) -> Corpus:
    """Open the corpus of these settings; make it first, where it is not there yet.

    Parameters
    ----------
    source, megabytes : see ``texts.documents``.
    vocab : tokens of the tokenizer, bytes and the end of a text included.
    seed : chooses the held-out documents, one in twenty.
    folder : where corpora are kept; ``corpora`` in the lab's cache folder by default.

    Raises
    ------
    ValueError : for a source without text, or too little of it for two splits; fewer than 300 tokens.
    TypeError : what is no name, no number.
    OSError : the lab's cache folder cannot be written.
    """
    check_path("source", source)
    check_vocab(vocab)
    check_megabytes(megabytes)
    check_seed(seed)
    home = Path(folder) if folder is not None else cache_folder() / "corpora"
    settings = {"source": _identity(source), "vocab": vocab, "megabytes": megabytes, "seed": seed}
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    label = source if source in ("python", "pg19") else Path(source).name or "text"
    place = home / f"{label}-{key}"
    if (place / RECORD).is_file():
        return Corpus.open(place)
    if folder is None:
        make_cache_folder("corpora")
    else:
        home.mkdir(parents=True, exist_ok=True)
    with new_folder(place, lambda place: (place / RECORD).is_file()) as new:
        _make(new, source, vocab, megabytes, seed, settings, say)
    return Corpus.open(place)


def _identity(source: str) -> str:
    """What tells one source from another: the Python's version, or a folder's files with their sizes and times."""
    if source == "python":
        return f"python {platform.python_version()}"
    root = Path(source).expanduser()
    if source == "pg19" or not root.is_dir():
        return source
    files = sorted(
        (p.relative_to(root).as_posix(), p.stat().st_size, p.stat().st_mtime_ns) for p in root.rglob("*")
    )
    return f"{root.resolve()} {hashlib.sha256(json.dumps(files).encode(errors='replace')).hexdigest()}"


def _make(new: Path, source, vocab, megabytes, seed, settings, say: Say) -> None:
    say(f"learning {vocab:,} byte pairs from {source}")
    tokenizer = train_tokenizer((text for _, text in documents(source, megabytes)), vocab)
    tokenizer.save_pretrained(new / TOKENIZER)
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32)
    counts = {split: {"documents": 0, "characters": 0, "tokens": 0} for split in SPLITS}
    digest = hashlib.sha256()
    files = {split: (new / f"{split}.bin").open("wb") for split in SPLITS}
    try:
        for portion in _portions(documents(source, megabytes)):
            encoded = tokenizer.backend_tokenizer.encode_batch_fast([text for _, text in portion])
            for (name, text), one in zip(portion, encoded, strict=True):
                split = "heldout" if is_heldout(name, seed) else "train"
                ids = np.array([*one.ids, tokenizer.eos_token_id], dtype=dtype)
                files[split].write(ids.tobytes())
                counts[split]["documents"] += 1
                counts[split]["characters"] += len(text)
                counts[split]["tokens"] += len(ids)
                digest.update(name.encode(errors="replace") + b"\0" + text.encode(errors="replace") + b"\0")
            done = sum(c["tokens"] for c in counts.values())
            say(f"{done / 1e6:.1f}M tokens of {sum(c['documents'] for c in counts.values()):,} documents")
    finally:
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
    for split, count in counts.items():
        if count["tokens"] == 0:
            raise ValueError(
                f"data is {source!r}, too little text: no document fell to the {split} split "
                f"(of {sum(c['documents'] for c in counts.values())}; one in twenty is held out). Add documents, or "
                "cut long ones into files"
            )
    record = {
        **settings,
        "dtype": dtype.name,
        "splits": counts,
        "text_sha256": digest.hexdigest(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    }
    (new / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")


def train_tokenizer(texts: Iterator[str], vocab: int):
    """A byte-level byte-pair tokenizer of ``vocab`` tokens, from the first 20 million characters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    def first() -> Iterator[str]:
        seen = 0
        for text in texts:
            yield text
            seen += len(text)
            if seen > LEARN_FROM:
                return

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(first(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END, pad_token=END)


def _portions(found: Iterator[Document]) -> Iterator[list[Document]]:
    portion, size = [], 0
    for name, text in found:
        portion.append((name, text))
        size += len(text)
        if size >= PORTION:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion

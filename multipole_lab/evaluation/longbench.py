"""`multipole-lab eval longbench`: LongBench v2 (2412.15204), multiple-choice questions on long documents.

The prompt and the truncation in the middle are those of its authors; instead of parsing an answer that the model
writes, the four letters are scored after "The correct answer is (".
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from multipole_lab.evaluation.engine import Evaluation, Item
from multipole_lab.evaluation.options import accuracies, choice_table, score_options
from multipole_lab.evaluation.texts import token_ids

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go

    from multipole_lab.evaluation.reader import Reader

HUB_ID = "THUDM/LongBench-v2"
FIELDS = ("_id", "domain", "sub_domain", "difficulty", "length", "question", "choice_A", "choice_B", "choice_C",
          "choice_D", "answer", "context")  # fmt: skip
LETTERS = "ABCD"
PROMPT = """Please read the following text and answer the question below.

<text>
{context}
</text>

What is the correct answer to this question: {question}
Choices:
(A) {choice_A}
(B) {choice_B}
(C) {choice_C}
(D) {choice_D}

Format your response as follows: "The correct answer is (insert answer here)"."""
LEAD = "The correct answer is ("
READING_HELP = (
    "Multiple-choice questions on long documents. A prompt longer than --max-tokens loses its middle, as its authors "
    "have it. The model picks the likeliest of the letters A to D after 'The correct answer is ('; guessing gets a "
    "quarter right. 'as dense' is how often the choice is that of dense attention, KL the divergence from its "
    "distribution over the letters, p(right) the mean probability of the right one."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``eval longbench`` besides those of every evaluation."""
    parser.add_argument(
        "--data", type=Path, metavar="FILE",
        help=f"JSON lines with the fields of LongBench v2; default: {HUB_ID} through the package datasets",
    )  # fmt: skip


def prepare(args: argparse.Namespace, model: object, tokenizer: Callable) -> Evaluation:
    """All questions.

    Raises
    ------
    ValueError : a file that cannot be read, with its line.
    ImportError, OSError : without a file, when ``datasets`` is missing or the hub does not answer.
    """
    records = list(from_hub() if args.data is None else read_records(args.data))

    def score(item: Item, reader: Reader) -> dict:
        context, question = build_prompt(item.content, tokenizer, args.max_tokens)
        answer = LETTERS.index(item.content["answer"])
        return score_options(reader, tokenizer, context, question, LETTERS, answer)

    facts = ("domain", "sub_domain", "difficulty", "length")
    whole = json.dumps([[record[name] for name in FIELDS] for record in records])
    return Evaluation(
        name="longbench",
        title="LongBench v2",
        reading=READING_HELP,
        settings={
            "data": hashlib.sha256(whole.encode()).hexdigest(),
            "max_tokens": args.max_tokens,
            "chat": bool(getattr(tokenizer, "chat_template", None)),
        },
        items=[Item(record["_id"], {name: record[name] for name in facts}, record) for record in records],
        score=score,
        table=lambda rows, methods: choice_table(rows, methods, ["difficulty", "length", "domain"]),
        figures=figures,
    )


def read_records(path: Path) -> Iterable[dict]:
    """Records of a file of JSON lines.

    Raises
    ------
    ValueError : a missing or empty file; a line that is no JSON, lacks a field, repeats an ``_id`` or answers with
        something other than A to D. File and line are named.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder; a file of JSON lines is needed") from None
    seen = {}
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where} is no JSON: {error}") from None
        record = check_record(record, where)
        if record["_id"] in seen:
            raise ValueError(f"{where}: _id {record['_id']!r} stands in line {seen[record['_id']]} too")
        seen[record["_id"]] = number
        yield record
    if not seen:
        raise ValueError(f"{path} is empty; JSON lines with the fields {', '.join(FIELDS)} are needed")


def check_record(record: object, where: str) -> dict:
    """The fields of one record, as text; raises ValueError naming ``where``."""
    if not isinstance(record, Mapping):
        raise ValueError(
            f"{where} is a {type(record).__name__}; an object with the fields of LongBench v2 is needed"
        )
    missing = [name for name in FIELDS if name not in record]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    wrong = [name for name in FIELDS if not isinstance(record[name], str)]
    if wrong:
        raise ValueError(f"{where}: {wrong[0]} is a {type(record[wrong[0]]).__name__}; a string is needed")
    if record["answer"] not in tuple(LETTERS):
        raise ValueError(f"{where}: answer is {record['answer']!r}; one of A, B, C, D is needed")
    if not record["context"].strip():
        raise ValueError(f"{where}: context is empty")
    return {name: record[name] for name in FIELDS}


def from_hub() -> Iterable[dict]:
    """Records from the Hugging Face hub or its cache."""
    try:
        import datasets
    except ImportError:
        raise ImportError(
            f"{HUB_ID} comes through the package datasets: pip install datasets; or give a file with --data"
        ) from None
    try:
        found = datasets.load_dataset(HUB_ID, split="train")
    except Exception as error:  # whatever the hub's client raises offline, and it raises many things
        raise OSError(
            f"{HUB_ID} could not be loaded ({error}); give a file of JSON lines with --data"
        ) from error
    for i, record in enumerate(found):
        yield check_record(dict(record), f"{HUB_ID}, record {i}")


def build_prompt(record: Mapping[str, str], tokenizer: Callable, max_tokens: int) -> tuple[str, str]:
    """What stands before the letters, cut in the middle to fit, in two parts: the document, the question.

    Raises
    ------
    ValueError : no space for anything.
    """
    before, after = _chat(tokenizer)
    after += LEAD
    # A letter, its bracket, and what tokens where parts meet may take.
    left = max_tokens - sum(len(token_ids(tokenizer, part, special=False)) for part in (before, after)) - 8
    if left < 2:
        raise ValueError(f"--max-tokens is {max_tokens}; there is no space for the question")
    text = truncate_middle(PROMPT.format(**record), tokenizer, left)
    cut = text.rfind("</text>")
    cut = max(0, len(text) - 1000) if cut < 0 else cut
    return before + text[:cut], text[cut:] + after


def truncate_middle(text: str, tokenizer: Callable, tokens: int) -> str:
    """The first and the last half of ``tokens`` tokens, where a text has more."""
    ids = token_ids(tokenizer, text, special=False)
    if len(ids) <= tokens:
        return text
    half = tokens // 2
    first, last = (tokenizer.decode(part, skip_special_tokens=True) for part in (ids[:half], ids[-half:]))
    return first + last


def _chat(tokenizer: Callable) -> tuple[str, str]:
    """What a chat model wants before and after a user's message; for others nothing and a line's end."""
    if not getattr(tokenizer, "chat_template", None):
        return "", "\n"
    mark = "MESSAGE"
    whole = tokenizer.apply_chat_template(
        [{"role": "user", "content": mark}], tokenize=False, add_generation_prompt=True
    )
    before, _, after = whole.rpartition(mark)
    begin = getattr(tokenizer, "bos_token", None)
    if begin and before.startswith(begin) and token_ids(tokenizer, "")[:1] == [tokenizer.bos_token_id]:
        before = before.removeprefix(begin)  # the tokenizer adds it itself
    return before, after


def figures(rows: pandas.DataFrame, methods: list[str]) -> list[go.Figure]:
    """Right answers by length, difficulty and domain."""
    groups = {"length": "length of the document", "difficulty": "difficulty", "domain": "domain"}
    return accuracies(rows, methods, groups, 1 / len(LETTERS))

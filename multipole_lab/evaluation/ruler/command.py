"""`multipole-lab eval ruler`: RULER's thirteen tasks, by a method or from a clustered cache, dense attention beside.

Made here after arXiv 2404.06654, appendix B. The haystack is a text of the lab instead of essays, and the two tasks on
documents have documents of their own instead of SQuAD's and HotpotQA's, so scores are not to be compared with others'.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from multipole_lab.evaluation import DENSE
from multipole_lab.evaluation.engine import Evaluation, Item
from multipole_lab.evaluation.needle import sentences
from multipole_lab.evaluation.report import compression
from multipole_lab.evaluation.ruler.needles import NEEDLES
from multipole_lab.evaluation.ruler.others import OTHERS
from multipole_lab.evaluation.ruler.puzzle import Puzzle, fitting
from multipole_lab.evaluation.texts import READING, TOPICS, read_text, token_ids

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go

    from multipole_lab.evaluation.reader import Reader

TASKS = {**NEEDLES, **OTHERS}
ANSWER = {"vt": 30, "cwe": 120, "fwe": 50, "qa_1": 32, "qa_2": 32}  # new tokens; the others have 128
READING_HELP = (
    "Thirteen tasks after RULER: needles of one or several keys and values, variables that copy each other, words that "
    "are common, questions on documents. The model writes on after the question; a score is the share of the answers "
    "that stand in what it wrote. 'to dense' is the mean difference from dense attention on the same prompts, with "
    "its own standard error. A method stands in for attention over the prompt; single tokens after it are exact. A "
    "MultipoleCache reads the prompt exactly and writes from clusters. 'compression ratio' is the share of the "
    "prompt's keys that its steps leave out, as kvpress counts it; 'with centroids' counts centroids like keys."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``eval ruler`` besides those of every evaluation."""
    add = parser.add_argument
    add("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS), metavar="TASK",
        help=f"default: all, {' '.join(TASKS)}")  # fmt: skip
    add(
        "--lengths",
        type=int,
        nargs="+",
        metavar="N",
        help="tokens of prompt and answer; default: --max-tokens",
    )
    add("--trials", type=int, default=1, metavar="N", help="prompts of each task and length; default: 1")
    add("--text", default=TOPICS, metavar="TEXT", help="the haystack: a text file in UTF-8, "
        f"{READING!r} or {TOPICS!r}; default: {TOPICS!r}")  # fmt: skip
    add(
        "--new-tokens", type=int, metavar="N", help="tokens of an answer; default: RULER's, 30 to 128 by task"
    )


def prepare(args: argparse.Namespace, model: object, tokenizer: Callable) -> Evaluation:
    """Every trial, length and task.

    Raises
    ------
    ValueError : a text that cannot be read; lengths beyond --max-tokens, or too short for a task; values below 1.
    """
    lengths = args.lengths or [args.max_tokens]
    if max(lengths) > args.max_tokens:
        raise ValueError(f"--lengths has {max(lengths)}, more than --max-tokens {args.max_tokens}")
    for name in ("trials", "new_tokens"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; at least 1 is needed")
    text = read_text(args.text)
    pieces = [piece for piece, _ in sentences(text, tokenizer, max(lengths))]

    def count(part: str) -> int:
        return len(token_ids(tokenizer, part))

    @functools.lru_cache(maxsize=1)  # each is read by every method in turn
    def puzzle(name: str, task: str, length: int) -> tuple[Puzzle, int, int]:
        new = args.new_tokens or ANSWER.get(task, 128)
        return *fitting(TASKS[task], f"{args.seed} {name}", pieces, length - new, count), new

    def score(item: Item, reader: Reader) -> dict:
        asked, tokens, new = puzzle(item.id, item.facts["task"], item.facts["length"])
        ids = token_ids(tokenizer, asked.context + asked.question)
        written = tokenizer.decode(reader.write(ids, new), skip_special_tokens=True)
        return {"score": asked.score(written), "tokens": tokens, "written": written}

    items = [
        Item(f"{n}:{task}:{t}", {"task": task, "length": n, "trial": t})
        for t in range(args.trials)
        for n in lengths
        for task in args.tasks
    ]
    for item in items[: len(lengths) * len(args.tasks)]:  # refuses now what is too short
        puzzle(item.id, item.facts["task"], item.facts["length"])
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Evaluation(
        name="ruler",
        title="RULER",
        reading=READING_HELP,
        settings={"text": {args.text: digest}, "new_tokens": args.new_tokens},
        items=items,
        score=score,
        table=table,
        figures=figures,
    )


def table(rows: pandas.DataFrame, methods: list[str]) -> pandas.DataFrame:
    """One line for each length, task and method, and one for all tasks of a length."""
    import pandas

    dense = rows[rows["method"] == DENSE].set_index("id")["score"]
    lines = []
    for length in sorted(rows["length"].unique()):
        for task in ("all", *rows["task"].unique()):
            for method in methods:
                mine = rows[(rows["method"] == method) & (rows["length"] == length)]
                mine = (mine if task == "all" else mine[mine["task"] == task]).set_index("id")
                apart = mine["score"] - dense[mine.index]
                line = {"length": length, "task": task, "method": method, "prompts": len(mine)}
                line |= {"score": mine["score"].mean(), "± s.e.": _error(mine["score"])}
                line |= {
                    "to dense": apart.mean(),
                    "± s.e. ": _error(apart),
                    "seconds": mine["seconds"].mean(),
                }
                lines.append(line | compression(method, mine))
    return pandas.DataFrame(lines)


def _error(values: pandas.Series) -> float:
    """The standard error of a mean; NaN of a single value."""
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def figures(rows: pandas.DataFrame, methods: list[str]) -> list[go.Figure]:
    """Scores by task, a picture a length."""
    from multipole_lab.evaluation.figures import accuracy

    pictures = []
    for length, mine in rows.groupby("length"):
        tasks = list(mine["task"].unique())
        means = mine.pivot_table(index="task", columns="method", values="score").reindex(tasks)
        counts = mine[mine["method"] == DENSE].groupby("task").size().reindex(tasks).to_numpy()
        scores = {method: means[method].to_numpy() for method in methods}
        pictures.append(accuracy(tasks, scores, counts, 0.0, f"task, {length:,} tokens"))
    return pictures

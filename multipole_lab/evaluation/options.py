"""Forced choice: the model picks the option that it finds likeliest, so that nothing it writes has to be parsed."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from multipole_lab.attention.calls.leaf import settled
from multipole_lab.evaluation import DENSE
from multipole_lab.evaluation.report import compression
from multipole_lab.evaluation.texts import token_ids
from multipole_lab.interface.layers import head_size

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go
    import torch

    from multipole_lab.evaluation.reader import Reader

SHORT_TO_LONG = {"short": 1, "medium": 2, "long": 3}  # the words of LongBench v2


def score_options(
    reader: Reader, tokenizer: Callable, context: str, question: str, options: Sequence[str], answer: int
) -> dict:
    """Score the options after context and question.

    Parameters
    ----------
    reader : the model under one method.
    tokenizer : its tokenizer.
    context, question : what is read; a clustered cache reads the question token by token.
    options : what may follow, with the space before and whatever ends them, so that none is the beginning of another.
    answer : the place of the right one.

    Returns
    -------
    ``right`` (0 or 1), ``choice`` and ``answer`` (places), ``logprobs`` (nats, one an option), ``probability`` (of the
    right option among the options), ``tokens`` (read before the options).

    Raises
    ------
    ValueError : more tokens than the model has positions; options that the tokenizer cannot tell apart.
    """
    before, after, choices = split(tokenizer, context, question, options)
    tokens = len(before) + len(after)
    check_positions(reader.model, tokens + max(map(len, choices)))
    scores = reader.option_logprobs(before, after, choices)
    choice = max(range(len(scores)), key=scores.__getitem__)
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    return {
        "right": int(choice == answer),
        "choice": choice,
        "answer": answer,
        "logprobs": scores,
        "probability": weights[answer] / sum(weights),
        "tokens": tokens,
    }


def split(
    tokenizer: Callable, context: str, question: str, options: Sequence[str]
) -> tuple[list[int], list[int], list[list[int]]]:
    """Token ids of context, question and options.

    Question and option are tokenized together, as the model would see them; what all of them begin with is the
    question.
    """
    before = token_ids(tokenizer, context)
    joined = [token_ids(tokenizer, question + option, special=False) for option in options]
    if len(set(map(tuple, joined))) < len(options):
        raise ValueError("two options have the same tokens")
    common = 0
    while all(len(one) > common + 1 for one in joined) and len({one[common] for one in joined}) == 1:
        common += 1
    return before, joined[0][:common], [one[common:] for one in joined]


def check_positions(model: object, tokens: int) -> None:
    """Refuse more tokens than the model has positions."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and tokens > positions:
        raise ValueError(
            f"{type(model).__name__} has {positions:,} positions; {tokens:,} tokens are too many"
        )


def choice_table(rows: pandas.DataFrame, methods: list[str], groups: Sequence[str]) -> pandas.DataFrame:
    """One line for each method and value of the groups, and one for all.

    Accuracy and its standard error; the mean probability of the right option; how often the choice is the dense one;
    KL of the distribution over the options from the dense one; of clustered caches how much a step leaves out.
    """
    import pandas

    dense = rows[rows["method"] == DENSE].set_index("id")
    lines = []
    for group in (None, *groups):
        for value in ["all"] if group is None else _ordered(rows[group]):
            for method in methods:
                mine = rows[rows["method"] == method]
                mine = (mine if group is None else mine[mine[group] == value]).set_index("id")
                n, accuracy = len(mine), mine["right"].mean()
                same = (mine["choice"] == dense.loc[mine.index, "choice"]).mean()
                kl = [_kl(dense.loc[i, "logprobs"], mine.loc[i, "logprobs"]) for i in mine.index]
                line = {
                    "group": group or "all",
                    "value": value,
                    "method": method,
                    "questions": n,
                    "accuracy": accuracy,
                    "± s.e.": math.sqrt(accuracy * (1 - accuracy) / n),
                    "p(right)": mine["probability"].mean(),
                    "as dense": same,
                    "KL": sum(kl) / n,
                    "seconds": mine["seconds"].mean(),
                }
                lines.append(line | compression(method, mine))
    return pandas.DataFrame(lines)


def accuracies(
    rows: pandas.DataFrame, methods: list[str], groups: Mapping[str, str], chance: float
) -> list[go.Figure]:
    """``evaluation.figures.accuracy`` for each of the groups (with its label) that has several values.

    Where none has, for the first.
    """
    from multipole_lab.evaluation.figures import accuracy

    figures = []
    for group in [group for group in groups if rows[group].nunique() > 1] or list(groups)[:1]:
        values = _ordered(rows[group])
        shares = rows.pivot_table(index=group, columns="method", values="right").reindex(values)
        counts = rows[rows["method"] == DENSE].groupby(group).size().reindex(values).to_numpy()
        names = [value if isinstance(value, str) else f"{value:,}" for value in values]
        right = {method: shares[method].to_numpy() for method in methods}
        figures.append(accuracy(names, right, counts, chance, groups[group]))
    return figures


def warn_of_leaves(methods: Iterable[tuple[str, object]], model: torch.nn.Module, tokens: int) -> None:
    """A method that sums short blocks exactly has nothing to approximate in a context no longer than that.

    methods : names and methods.
    """
    for name, method in methods:
        method = settled(method, model.device, model.dtype, head_size(model.config.get_text_config()))
        leaf = getattr(method, "leaf", 0)
        if tokens <= leaf:
            print(
                f"{name} sums blocks of up to leaf={leaf} tokens exactly: at --max-tokens {tokens} it "
                "approximates nothing. Give more tokens, or the method a smaller leaf",
                file=sys.stderr,
            )


def _ordered(values: pandas.Series) -> list:
    """Each value once: numbers by size, words by the alphabet but for those of length."""
    return sorted(values.unique(), key=lambda value: (SHORT_TO_LONG.get(value, 0), value))


def _kl(dense: Sequence[float], ours: Sequence[float]) -> float:
    """KL of the two distributions over the options, nats."""
    p, q = (_normalised(x) for x in (dense, ours))
    return sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))


def _normalised(logprobs: Sequence[float]) -> list[float]:
    top = max(logprobs)
    total = top + math.log(sum(math.exp(x - top) for x in logprobs))
    return [x - total for x in logprobs]

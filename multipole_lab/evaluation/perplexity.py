"""`multipole-lab eval perplexity`: the loss of the next token by its position in the context."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from multipole_lab.evaluation import DENSE
from multipole_lab.evaluation.engine import Evaluation, Item
from multipole_lab.evaluation.texts import READING, TOPICS, read_text, token_ids

if TYPE_CHECKING:
    import numpy as np
    import pandas
    import plotly.graph_objects as go

    from multipole_lab.evaluation.reader import Reader

READING_HELP = (
    "The model reads windows of text. Loss is the mean negative log-likelihood of the next token, in nats; "
    "perplexity is its exponential; 'above' is by how many percent the loss exceeds that of dense attention on the "
    "same tokens. KL is the divergence of the next-token distribution from the dense one; 'same token' the share of "
    "positions with the same most likely token."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``eval perplexity`` besides those of every evaluation."""
    add = parser.add_argument
    add("--text", action="append", metavar="TEXT", help=f"a text file in UTF-8, {READING!r} (the lab's story) or "
        f"{TOPICS!r} (Python's documentation); may be repeated; default: both of these")  # fmt: skip
    add("--windows", type=int, default=1, metavar="N", help="windows of --max-tokens a text; default: 1")
    add(
        "--buckets",
        type=int,
        default=8,
        metavar="N",
        help="parts of the context, each with its loss; default: 8",
    )


def prepare(args: argparse.Namespace, model: object, tokenizer: object) -> Evaluation:
    """Cut the texts into windows of ``--max-tokens``.

    Raises
    ------
    ValueError : a text that cannot be read (see ``texts.read_text``) or is shorter than that, with its length.
    """
    import numpy as np

    length, windows = args.max_tokens, args.windows
    if windows < 1:
        raise ValueError(f"--windows is {windows}; at least 1 is needed")
    if not 1 <= args.buckets < length:
        raise ValueError(
            f"--buckets is {args.buckets}; between 1 and --max-tokens - 1 = {length - 1} is needed"
        )
    edges = np.linspace(1, length, args.buckets + 1).round().astype(int)
    items, hashes = [], {}
    for name in args.text or [READING, TOPICS]:
        text = read_text(name)
        hashes[name] = hashlib.sha256(text.encode()).hexdigest()
        ids = token_ids(tokenizer, text, windows * length)
        if len(ids) < windows * length:
            requested = f"{windows} windows of {length}" if windows > 1 else f"--max-tokens {length}"
            raise ValueError(
                f"{name} has {len(ids):,} tokens, fewer than {requested}; give a smaller --max-tokens"
            )
        for w in range(windows):
            tokens = ids[w * length : (w + 1) * length]
            items.append(Item(f"{name}:{w}", {"text": str(name), "window": w}, tokens))
    return Evaluation(
        name="perplexity",
        title="Perplexity by position in the context",
        reading=READING_HELP,
        settings={"texts": hashes, "max_tokens": length, "windows": windows, "edges": edges.tolist()},
        items=items,
        score=_Scorer(edges, model),
        table=table,
        figures=figures,
    )


class _Scorer:
    """Losses by bucket; the dense hidden states of the window at hand are kept to compare with."""

    def __init__(self, edges: np.ndarray, model: object) -> None:
        self.edges, self.model = edges, model
        self.dense: tuple[str, object] = ("", None)

    def __call__(self, item: Item, reader: Reader) -> dict:
        import torch

        ids = torch.tensor(item.content, device=self.model.device)
        # A clustered cache reads the first bucket exactly, at once: that is its prompt.
        hidden = reader.hidden(ids, exact=int(self.edges[1]) - 1)[:-1]
        with torch.no_grad():
            row = {"loss": self._by_bucket(reader.head.losses(hidden, ids[1:]))}
            if reader.name == DENSE:
                self.dense = (item.id, hidden)
                return row
            kl, same = reader.head.divergences(hidden, self._dense(item, ids))
        return {**row, "kl": self._by_bucket(kl), "same": self._by_bucket(same)}

    def _dense(self, item: Item, ids):
        """Dense hidden states; read again where an earlier run has the dense result."""
        from multipole_lab.evaluation.reader import Reader

        if self.dense[0] != item.id:
            self.dense = (item.id, Reader(self.model).hidden(ids)[:-1])
        return self.dense[1]

    def _by_bucket(self, values) -> list[float]:
        """Means of values [N - 1], the first of which belongs to position 1."""
        return [
            values[low - 1 : high - 1].mean().item()
            for low, high in zip(self.edges[:-1], self.edges[1:], strict=True)
        ]


def _sizes(rows: pandas.DataFrame) -> np.ndarray:
    import numpy as np

    return np.diff(rows.attrs["settings"]["edges"])


def table(rows: pandas.DataFrame, methods: list[str]) -> pandas.DataFrame:
    """One line for each text and method."""
    import numpy as np
    import pandas

    sizes, lines = _sizes(rows), []
    for text in rows["text"].unique():
        mine = rows[rows["text"] == text]
        mean = {m: _mean(mine[mine["method"] == m]["loss"], sizes) for m in methods}
        for m in methods:
            of_method = mine[mine["method"] == m]
            line = {
                "text": text,
                "method": m,
                "tokens": int(sizes.sum()) * len(of_method),
                "loss": mean[m],
                "perplexity": float(np.exp(mean[m])),
                "above (%)": 100 * (mean[m] / mean[DENSE] - 1),
                "KL": 0.0 if m == DENSE else _mean(of_method["kl"], sizes),
                "same token": 1.0 if m == DENSE else _mean(of_method["same"], sizes),
                "seconds": of_method["seconds"].mean(),
            }
            lines.append(line)
    return pandas.DataFrame(lines)


def _mean(by_bucket: pandas.Series, sizes: np.ndarray) -> float:
    """The mean over all tokens of means by bucket."""
    import numpy as np

    return float(np.average(np.stack([np.asarray(x, float) for x in by_bucket]).mean(0), weights=sizes))


def figures(rows: pandas.DataFrame, methods: list[str]) -> list[go.Figure]:
    """Loss by position, one picture a text."""
    import numpy as np

    from multipole_lab.evaluation.figures import loss_by_position

    edges = np.asarray(rows.attrs["settings"]["edges"])
    pictures = []
    for text in rows["text"].unique():
        mine = rows[rows["text"] == text]
        losses = {m: np.stack(mine[mine["method"] == m]["loss"].map(np.asarray)).mean(0) for m in methods}
        dense = losses.pop(DENSE)
        pictures.append(loss_by_position(edges, dense, losses, Path(text).name))
    return pictures

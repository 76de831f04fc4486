"""What an approximation costs a whole model: perplexity, needles, long reasoning, LongBench v2, generation.

``multipole-lab eval --help`` is the way in. In Python: ``Reader`` reads with one method, ``make_problem`` draws a
problem of long reasoning, ``run_items`` works through an ``Evaluation`` and keeps its rows in a ``Journal``. Names are
resolved when first used: the command line needs no torch to print its help.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from multipole_lab.suggesting import lazy_names

_WHERE = {
    "Evaluation": "engine",
    "Item": "engine",
    "Journal": ".journal",
    "Reader": "reader",
    "make_problem": "reasoning",
    "run_items": "engine",
}

DENSE = "dense"  # what a row says of the model's own attention

if TYPE_CHECKING:  # the same for type checkers and editors, which do not run this
    from multipole_lab.evaluation.engine import Evaluation as Evaluation, Item as Item, run_items as run_items
    from multipole_lab.evaluation.reader import Reader as Reader
    from multipole_lab.evaluation.reasoning import make_problem as make_problem
    from multipole_lab.journal import Journal as Journal

__all__ = ["DENSE", *_WHERE]


__getattr__, __dir__ = lazy_names(__name__, _WHERE)

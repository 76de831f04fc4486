"""The cost panel: what attention of a whole model would cost, exactly and by any method, at this machine's prices."""

from __future__ import annotations

from collections.abc import Iterator

import ipywidgets as widgets
import numpy as np

from multipole_lab.attention import Centroid, Exact, Method, MuSe, TopK, Window
from multipole_lab.environment import Measured
from multipole_lab.figures import cost as draw
from multipole_lab.measure.precision import default_dtype
from multipole_lab.method_text import as_text
from multipole_lab.search.prices import Cost, Prices, Problem, measure_prices
from multipole_lab.suggesting import suggesting

from .common import controls
from .common.base import Picture
from .common.timed import TimedPanel
from .common.words import button

_LONGEST = 1 << 20


class CostPanel(TimedPanel):
    """Tokens, heads, size, batch and layers in; operations, bytes, time and memory out."""

    title = "cost"
    main = "tokens", "layers", "clusters", "method"

    def __init__(self, sample) -> None:
        self._prices: dict[bool, Prices] = {}
        super().__init__(sample)

    def controls_for(self, sample) -> dict:
        """Make the controls; none depends on the sample, whose queries and keys prices are measured on."""
        methods = {
            "MuSe": "Clusters expanded around the queries' own",
            "Centroid": "Clusters as their means; a budget of keys exactly",
            "Window": "The nearest keys alone, as many as the budget",
            "TopK": "An oracle, not a method to be fast with: the keys of largest weight alone, as many as the budget",
        }
        return {
            "tokens": controls.powers("tokens", "The length of each text", 256, _LONGEST, 65536),
            "heads": controls.powers("heads", "How many heads a layer has", 1, 128, 32),
            "size": controls.powers("head size", "How many numbers a query has", 16, 256, 128),
            "batch": controls.powers("batch", "How many texts at once", 1, 256, 1),
            "layers": controls.integer("layers", "How many layers the model has", 1, 128, 32),
            "method": controls.choice("method", methods, "MuSe"),
            "clusters": controls.clusters(),
            "near": controls.near(),
            "leaf": controls.leaf(8192, 1024),
            "budget": controls.powers(
                "budget", "Keys that a query of the other methods sums exactly", 16, 8192, 256
            ),
            "order": controls.order(),
            "attention": controls.sight("causal"),
        }

    def compute(self, tokens, heads, size, batch, layers, attention, **choices) -> Iterator[Picture | None]:
        """Measure the prices once for full and once for causal attention; all else is formulas."""
        causal, method = attention == "causal", _method(**choices)
        problem = Problem(tokens, heads, size, batch, layers, causal)
        if causal not in self._prices:
            yield self._draw(method, problem, None)
            layer = self.sample.layers[len(self.sample.layers) // 2]
            for prices in measure_prices(self.sample, layer, causal, self.device):
                if prices is None:
                    yield None
                else:
                    self._prices[causal] = prices
        yield self._draw(method, problem, self._prices[causal])

    @property
    def measured(self) -> Measured:
        """What belongs to the prices, which are those of one thread."""
        return Measured.here(self.device, default_dtype(self.device), "ml.panels.cost", threads=1)

    def forget(self) -> None:
        """Drop the prices that were measured on the sample before."""
        self._prices.clear()

    def _buttons(self) -> list[widgets.Widget]:
        """Add a button that measures once more."""
        again = button("Measure again", "Measure the prices once more", self._measure_again)
        return [again]

    def _measure_again(self, _button) -> None:
        """Forget the prices."""
        self.forget()
        self._moved(None)

    def _draw(self, method: Method, problem: Problem, prices: Prices | None) -> Picture:
        """Draw both costs, or that there are no prices yet."""
        costs = [prices.cost(one, problem) if prices else Cost(*[np.nan] * 4) for one in (Exact(), method)]
        numbers = [np.array([one.operations, one.moved, one.ms, one.held]) for one in costs]
        texts = f"{problem.batch} × " if problem.batch > 1 else ""
        words = (
            f"{texts}{problem.tokens:,} tokens, {problem.heads} heads of {problem.head_size}, "
            f"{problem.layers} layer{'s' * (problem.layers != 1)}"
        )
        figure = draw(
            *numbers, words, self.machine, as_text(method),
            detail=_fit(prices) if prices and isinstance(method, MuSe) else "",
            crossover=prices.crossover(method, problem) if prices else None,
            matrix_bytes=float(problem.tokens) ** 2 * problem.heads * problem.batch * problem.number_bytes,
            measuring=prices is None,
        )  # fmt: skip
        table = {"method": ["Exact()", as_text(method)]}
        names = "multiply_adds", "bytes_moved", "ms", "bytes_held"
        table |= {name: np.array(pair) for name, pair in zip(names, zip(*numbers, strict=True), strict=True)}
        return Picture(figure, table, 1.0 if prices else 0.1)


def _fit(prices: Prices) -> str:
    """How far to trust the prices."""
    off = prices.model.typical_error
    return (
        f"They meet the times of up to {prices.model.table['length'].max():,} tokens to {off:.0%}; beyond, the time is "
        "worked out."
    )


def _method(method, clusters, near, leaf, budget, order) -> Method:
    """The method of the controls."""
    if method == "MuSe":
        return MuSe(clusters=clusters, near=near, leaf=leaf, order=order)
    if method == "Centroid":
        return Centroid(clusters=clusters, budget=budget, leaf=leaf)
    return Window(size=budget) if method == "Window" else TopK(keys=budget)


@suggesting
def cost(sample) -> CostPanel:
    """Say what attention would cost. Prices are measured on ``sample``, from ``ml.load_sample`` or ``ml.capture``."""
    return CostPanel(sample)

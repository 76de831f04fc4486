"""The controls that panels share, so that the same choice has the same name, words and range everywhere."""

from __future__ import annotations

import ipywidgets as widgets
import torch

# Work behind these takes over 50 ms, so a slider reports where it comes to rest and not the way there.
_CALM = {"continuous_update": False}


def powers(description: str, tooltip: str, low: int, high: int, value: int) -> widgets.SelectionSlider:
    """Make a slider over the powers of two from ``low``, and ``high``; at ``value`` or the nearest below."""
    options = [n for n in (2**i for i in range(31)) if low <= n < high] + [high]
    value = max((n for n in options if n <= value), default=options[0])
    labels = [(f"{n:,}", n) for n in options]
    return widgets.SelectionSlider(
        options=labels, value=value, description=description, tooltip=tooltip, **_CALM
    )


def integer(description: str, tooltip: str, low: int, high: int, value: int) -> widgets.IntSlider:
    """Make a slider over whole numbers."""
    return widgets.IntSlider(
        value=value, min=low, max=high, description=description, tooltip=tooltip, **_CALM
    )


def real(description: str, tooltip: str, low: float, high: float, value: float, step: float):
    """Make a slider over decimal numbers."""
    return widgets.FloatSlider(
        value=value, min=low, max=high, step=step, description=description, tooltip=tooltip, **_CALM
    )


def choice(description: str, tooltips: dict[str, str], value: str) -> widgets.ToggleButtons:
    """Make a row of buttons of which one is pressed; ``tooltips`` gives each option and what it means."""
    return widgets.ToggleButtons(
        options=list(tooltips),
        value=value,
        description=description,
        tooltips=list(tooltips.values()),
        tooltip=f"{description}: {', '.join(tooltips)}",
        style={"button_width": "auto"},
    )


def layer(sample) -> widgets.SelectionSlider:
    """Choose one of the captured layers; the middle one to begin with."""
    return widgets.SelectionSlider(
        options=list(sample.layers),
        value=sample.layers[len(sample.layers) // 2],
        description="layer",
        tooltip="Which layer of the model the queries, keys and values come from",
        **_CALM,
    )


def head(sample) -> widgets.IntSlider:
    """Choose a query head."""
    heads = sample[sample.layers[0]].q.shape[1]
    return integer("head", "Which attention head of the layer", 0, heads - 1, 0)


def context(sample, value: int = 2048) -> widgets.SelectionSlider:
    """Choose how many tokens, from the start of the text."""
    tokens = len(sample.tokens)
    return powers("context", "How many tokens of the text are attended to", min(256, tokens), tokens, value)


def lengths(description: str, own: int, device: str, most: int) -> widgets.SelectionSlider:
    """Choose the longest text timed: the sample's own length, powers of two below it, and beyond.

    On a GPU short texts are over before their kernels have begun, so the first choice there is up to ``most``.
    """
    if device == "cpu":
        longest = 16384  # which takes seconds
    else:
        memory = torch.cuda.get_device_properties(device).total_memory
        longest = 65536 if memory < 12e9 else 131072 if memory < 32e9 else 262144
    longest = max(own, longest)
    options = sorted({own, longest, *(2**i for i in range(9, 31) if 2**i < longest)})
    first = own if device == "cpu" else max(n for n in options if n <= max(own, most))
    return widgets.SelectionSlider(
        options=[(f"{n:,}", n) for n in options], value=first, description=description,
        tooltip="The longest text timed; beyond the sample's end its tokens are drawn again", **_CALM,
    )  # fmt: skip


def heads() -> widgets.SelectionSlider:
    """Choose how many heads one call has; 0 stands for the layer's own."""
    return widgets.SelectionSlider(
        options=[("own", 0), ("8", 8), ("16", 16), ("32", 32)], value=0, description="heads",
        tooltip="How many heads one call attends with: the layer's own, or so many with keys of their own", **_CALM,
    )  # fmt: skip


def batch() -> widgets.SelectionSlider:
    """Choose how many texts one call has."""
    return powers("batch", "How many texts are attended to in one call", 1, 16, 1)


def clusters(value: int = 64) -> widgets.SelectionSlider:
    """Choose the number of clusters; more than there are keys is refused in words, not hidden."""
    return powers("clusters", "How many clusters the keys are put into", 2, 1024, value)


def cap() -> widgets.FloatSlider:
    """Choose the cap on cluster sizes."""
    return real("cap", "The largest cluster allowed, as a multiple of the average size", 1.0, 4.0, 1.5, 0.25)


def iterations() -> widgets.IntSlider:
    """Choose the number of Lloyd iterations."""
    return integer("iterations", "How often k-means moves its centroids to the mean of their keys", 0, 10, 1)


def order() -> widgets.ToggleButtons:
    """Choose the order of the expansion."""
    words = {
        "monopole": "One weighted mean value per cluster",
        "dipole": "Also how that mean changes as the query moves away from the expansion point",
    }
    return choice("order", words, "monopole")


def near(value: int = 0) -> widgets.IntSlider:
    """Choose how many clusters are summed exactly."""
    return integer("near", "How many of the heaviest clusters are summed key by key instead", 0, 16, value)


def leaf(most: int, value: int) -> widgets.SelectionSlider:
    """Choose the longest causal block that is exact, 32 to ``most`` tokens."""
    return powers("leaf", "Causal blocks of at most this many tokens are exact", 32, max(32, most), value)


def levels() -> widgets.ToggleButtons:
    """Choose the levels of a clustered cache."""
    words = {
        "one": "Every centroid is looked at",
        "two": "Clusters of clusters say which are looked at",
    }
    return choice("levels", words, "two")


def others() -> widgets.ToggleButtons:
    """Choose what becomes of clusters that a decoding step does not open."""
    words = {
        "centroids": "Clusters that are not opened count through their means",
        "dropped": "Clusters that are not opened are left out",
    }
    return choice("others", words, "centroids")


def seed() -> widgets.IntSlider:
    """Choose the seed of k-means."""
    return integer("seed", "Another start for k-means; the same seed gives the same clusters", 0, 20, 0)


def sight(value: str) -> widgets.ToggleButtons:
    """Choose which keys a query sees. Its label is short: beside it the buttons would be cut in a narrow column."""
    words = {
        "full": "Every query sees every key: what the mathematics is about",
        "causal": "A query sees the keys up to its own, as in the model that the sample is from",
    }
    return choice("sight", words, value)

"""The settings that a search goes through: all of a grid, some of it drawn at random, or a list that suits a length."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Mapping, Sequence

import torch

from multipole_lab.attention import Centroid, Exact, Method, MuSe, Window
from multipole_lab.attention.calls.leaf import leaf_length, settled
from multipole_lab.clustering.checks import check_count, check_seed
from multipole_lab.method_text import as_text, parse_method
from multipole_lab.suggesting import nearest

Grid = Mapping[str, Sequence[object]]

# What `sweep` takes by default.
GRID = {"clusters": (16, 32, 64, 128, 256), "near": (0, 2, 4, 8), "order": ("monopole", "dipole")}


def settings(grid: Grid, draws: int | None = None, seed: int = 0) -> list[Method]:
    """Every combination of a grid's values as a method, or ``draws`` different combinations at random.

    Parameters
    ----------
    grid : names of arguments to the values they take, of ``MuSe`` where ``"method"`` names nothing else:
        ``{"clusters": (16, 64), "near": range(8)}``, ``{"method": ["Centroid"], "budget": (0, 128)}``.
    draws : how many combinations; all by default. A grid may then be as large as one likes.
    seed : of the draws.

    Raises
    ------
    ValueError : an empty grid or value list, an unknown name, a value that the method refuses, draws below 1.
    """
    if draws is not None:
        check_count("draws", draws, 1)
    check_seed(seed)
    if not isinstance(grid, Mapping):
        raise TypeError(f"grid is a {type(grid).__name__}; names with lists of values are needed")
    values = {name: _values(name, given) for name, given in grid.items()}
    kinds = values.pop("method", ("MuSe",))
    if not values:
        raise ValueError("grid is empty; at least one argument with its values is needed, such as clusters")
    values = {"method": kinds, **values}
    total = math.prod(map(len, values.values()))
    chosen = range(total)
    if draws is not None and draws < total:
        chosen = random.Random(seed).sample(chosen, draws)
    found = [_method(dict(zip(values, _unravel(i, values), strict=True))) for i in chosen]
    return list(dict.fromkeys(found))


def that_fit(methods: Sequence[Method], length: int, causal: bool) -> list[Method]:
    """Those that approximate something at a length, in one spelling each.

    Left out are more clusters than keys, as many near clusters as clusters, and leaves or windows as long as the
    text. What says nothing (a leaf in full attention, a rank of a monopole) is set to its default, so that equal
    methods are listed once.
    """
    return list(dict.fromkeys(_plain(method, causal) for method in methods if _fits(method, length, causal)))


def _on_cpu(method: Method) -> Method:
    return settled(method, "cpu", torch.float32, 64)


def suggest_methods(
    length: int, causal: bool = False, settle: Callable[[Method], Method] = _on_cpu
) -> list[Method]:
    """What ``tune`` searches at a length where it is given no methods: up to some two hundred settings of every method.

    ``Centroid`` with a budget is left out: it gathers keys for every query, which no machine measured here does in
    less time than exact attention takes. Causal leaves are parts of the length, and what "auto" comes to, by
    ``settle``, where a method is called.
    """
    found: list[Method] = [Window(size=size, sinks=4) for size in (128, 512, 2048)]
    # No cluster count far above the square root of the length: summaries would cost more than they save.
    sizes = [clusters for clusters in (16, 32, 64, 128, 256, 512, 1024) if clusters**2 <= 16 * length]
    if not causal:
        for clusters in sizes:
            found += _of_size(clusters, near=(0, 2, 4, 8, 16), balanced=(2, 4, 8))
        return that_fit(found, length, causal)
    leaves = {min(max(length // part, 64), 2048) for part in (8, 4, 2)}
    if length >= 8192:
        leaves.add(1024)  # of what was recorded on an H100, at 8,192 to 65,536
    for leaf in sorted(leaves):
        for clusters in (clusters for clusters in sizes if 4 * clusters <= leaf):
            found += _of_size(clusters, near=(0, 2, 4, 8), balanced=(4,), leaf=leaf, sinks=4)
    for partition in ("kmeans", "runs"):
        usual = settle(MuSe(partition=partition, sinks=4))
        fit = (clusters for clusters in sizes if 4 * clusters <= usual.leaf)
        found += [dataclasses.replace(usual, clusters=c, near=n) for c in fit for n in (0, 4)]
    return that_fit(found, length, causal)


def _of_size(clusters: int, near: Sequence[int], balanced: Sequence[int], **settings: int) -> list[Method]:
    """Settings with that many clusters: k-means and runs, some without a cap, some balanced, some with a dipole.

    Where there are many, runs also with an eighth as many of queries: summaries are what costs then.
    """
    muse = {"clusters": clusters, **settings}
    fewer = [clusters // 8] if clusters >= 64 else []
    return [
        Centroid(**{**muse, "sinks": 4}),
        *(MuSe(near=n, **muse) for n in near),
        *(MuSe(near=n, cap=None, **muse) for n in near[::2]),
        *(MuSe(near=n, order="dipole", **muse) for n in (0, 4)),
        *(MuSe(near=n, partition="balanced", **muse) for n in balanced),
        *(MuSe(near=n, partition="runs", **muse) for n in near),
        *(MuSe(near=n, partition="runs", query_clusters=c, **muse) for c in fewer for n in (0, 4)),
    ]


def _values(name: str, given: object) -> Sequence[object]:
    """One argument's values as a sequence that is not empty."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ValueError(f"grid[{name!r}] is {given!r}; a list of values is needed")
    if not given:
        raise ValueError(f"grid[{name!r}] is empty; at least one value is needed")
    return given


def _unravel(index: int, values: Mapping[str, Sequence[object]]) -> list[object]:
    """The combination of that number; the last name changes fastest."""
    found = []
    for given in reversed(values.values()):
        index, at = divmod(index, len(given))
        found.append(given[at])
    return found[::-1]


def _method(arguments: dict[str, object]) -> Method:
    kind = arguments.pop("method")
    if "length" in arguments or "lengths" in arguments:
        raise ValueError("grid has lengths; give them as sweep(..., lengths=[...])")
    kind = parse_method(kind) if isinstance(kind, str) else kind
    if not isinstance(kind, Method):
        raise ValueError(f"grid['method'] has {kind!r}; names of methods are needed, such as 'MuSe'")
    known = [field.name for field in dataclasses.fields(kind)]
    for name in arguments:
        if name not in known:
            close = nearest(name, known)
            question = f"Did you mean {close!r}? " if close else ""
            raise ValueError(
                f"grid: {type(kind).__name__} has no {name!r}. {question}There are {', '.join(known)}"
            )
    try:
        return dataclasses.replace(kind, **arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"grid: {error}") from error


def _fits(method: Method, length: int, causal: bool) -> bool:
    clusters = getattr(method, "clusters", None)
    block = length
    if causal and clusters is not None:
        leaf = leaf_length(method.leaf)
        if leaf >= length:
            return False
        block = max(leaf // 2, 1)  # the smallest block that is clustered
    if isinstance(clusters, int) and clusters > block:
        return False
    if isinstance(method, MuSe):
        return clusters == "auto" or method.near < clusters
    return getattr(method, "size", 0) < length and getattr(method, "keys", 0) < length


def _plain(method: Method, causal: bool) -> Method:
    """The same method with its defaults where a value makes no difference."""
    kind, idle = type(method), []
    if isinstance(method, MuSe | Centroid):
        idle += [] if causal else ["leaf"]
        idle += ["recent"] if causal and isinstance(method, Centroid) else []
        idle += [] if method.partition == "kmeans" else ["iterations", "cap", "seed"]
    if isinstance(method, MuSe) and method.order == "monopole":
        idle += ["dipole_rank"]
    return dataclasses.replace(method, **{name: getattr(kind, name) for name in idle})


def by_text(methods: Sequence[Method]) -> dict[str, Method]:
    """Methods by their text; exact attention, which everything is compared with, is no candidate.

    Raises
    ------
    TypeError : something that is no method of the library.
    """
    return {as_text(method): method for method in methods if not isinstance(method, Exact)}

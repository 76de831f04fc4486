"""How many operations a method does, by formulas: a size to compare methods by that no machine's load changes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from multipole_lab.attention import Centroid, Exact, Method, MuSe, TopK, Window
from multipole_lab.attention.calls.leaf import leaf_length
from multipole_lab.attention.causal import block_sizes
from multipole_lab.attention.clusters.partition import Partition
from multipole_lab.clustering.checks import check_count
from multipole_lab.suggesting import suggesting


@dataclass(frozen=True)
class _Heads:
    """One query head with its share of a key/value head: sizes D and Dv, and Hk / Hq."""

    D: int
    Dv: int
    share: float

    def pairs(self, count: float) -> float:
        """Exact attention of that many pairs of a query and a key: the logit and the weighted value."""
        return count * (self.D + self.Dv)


@suggesting
def operations(
    method: Method,
    queries: int,
    keys: int | None = None,
    *,
    causal: bool = False,
    head_size: int = 64,
    value_size: int | None = None,
    heads: int = 1,
    kv_heads: int | None = None,
) -> float:
    """Multiply-adds of one call, over all query heads of one text.

    Counted are the products: logits, weighted sums, and distances in clusterings. Not counted are exponentials,
    comparisons and copies. In the formulas N is a length, C the clusters, G = Hq / Hk; causal attention sees half of
    its square.

    - exact attention: ``N N (D + Dv)``, causal ``N (N + 1) / 2 (D + Dv)``.
    - k-means: ``(iterations + 1) N C D``, for queries per query head, for keys per key head. Balanced: ``2 N D`` for
      each of the log2 C halvings (a principal axis by a few products, and the projection). Runs: nothing.
    - MuSe: clusterings; summaries ``C N (2 D + Dv)`` (logits, key and value centroids); far field ``N C (D + Dv)``;
      near field ``N near M (D + Dv)`` with M the largest cluster that ``cap`` allows, so this is an upper bound; a
      dipole of rank r ``C N (D + r (D + Dv))`` and ``N r (D + Dv)``; of an earlier block's points, ``N C D`` to join
      the nearest.
    - Centroid: the keys' clustering and means, ``N C (D + Dv)`` and ``N budget (D + Dv)``.
    - causal MuSe and Centroid: exact blocks on the diagonal and the full method on every level above them; blocks of
      the length that "auto" has on a CPU.
    - Window: the keys that each query sees. TopK: all logits, ``keys`` values a query.

    Parameters
    ----------
    method : one of the library's methods.
    queries, keys : Nq and Nk, which is Nq by default.
    causal : the queries are the last Nq positions.
    head_size, value_size : D and Dv, which is D by default.
    heads, kv_heads : Hq and Hk, which is Hq by default.

    Raises
    ------
    TypeError : a method without a formula; what is no integer.
    ValueError : lengths, heads or sizes below 1, causal with more queries than keys, heads that are no multiple of
        kv_heads.
    """
    keys = queries if keys is None else keys
    kv_heads = heads if kv_heads is None else kv_heads
    value_size = head_size if value_size is None else value_size
    counts = {"queries": queries, "keys": keys, "heads": heads, "kv_heads": kv_heads}
    for name, value in {**counts, "head_size": head_size, "value_size": value_size}.items():
        check_count(name, value, 1)
    if causal and queries > keys:
        raise ValueError(f"causal attention needs queries <= keys; there are {queries} and {keys}")
    if heads % kv_heads:
        raise ValueError(f"heads is {heads}; a multiple of kv_heads, {kv_heads}, is needed")
    size = _Heads(head_size, value_size, kv_heads / heads)
    formula = _FORMULAS.get(type(method))
    if formula is None:
        raise TypeError(
            f"no formula for {method!r}; there are {', '.join(kind.__name__ for kind in _FORMULAS)}"
        )
    return heads * formula(method, queries, keys, causal, size)


def share_of_exact(method: Method, queries: int, keys: int | None = None, **sizes: object) -> float:
    """``operations(method, ...)`` over those of exact attention, of the same arguments."""
    return operations(method, queries, keys, **sizes) / operations(Exact(), queries, keys, **sizes)


def _seen(queries: int, keys: int, causal: bool) -> float:
    """Pairs of a query and a key that it sees."""
    return queries * (keys - queries) + queries * (queries + 1) / 2 if causal else queries * keys


def _exact(method: Exact, queries: int, keys: int, causal: bool, size: _Heads) -> float:
    return size.pairs(_seen(queries, keys, causal))


def _topk(method: TopK, queries: int, keys: int, causal: bool, size: _Heads) -> float:
    kept = _narrowed(method.keys, queries, keys) if causal else queries * min(method.keys, keys)
    return _seen(queries, keys, causal) * size.D + kept * size.Dv


def _window(method: Window, queries: int, keys: int, causal: bool, size: _Heads) -> float:
    if causal:
        return size.pairs(_narrowed(method.size + method.sinks, queries, keys))
    return size.pairs(queries * min(keys, method.size + method.sinks))


def _narrowed(width: int, queries: int, keys: int) -> float:
    """Pairs of causal attention where no query sees more than ``width`` keys."""
    growing = max(0, min(width, keys) - (keys - queries) - 1)  # queries that see fewer
    first = keys - queries + 1
    return growing * (2 * first + growing - 1) / 2 + (queries - growing) * min(width, keys)


def _clustering(partition: Partition, vectors: int, D: int) -> float:
    if partition.kind == "runs":
        return 0.0
    if partition.kind == "balanced":
        return 2.0 * vectors * D * math.log2(max(1, partition.number(vectors)))
    return (partition.iterations + 1.0) * vectors * partition.number(vectors) * D


def _muse(method: MuSe, queries: int, keys: int, causal: bool, size: _Heads) -> float:
    partition = method._partition

    def full(n: int, m: int) -> float:
        of_queries, Ck = method._query_partition, partition.number(m)
        clusterings = _clustering(of_queries, n, size.D) + size.share * _clustering(partition, m, size.D)
        return clusterings + given(n, m, of_queries.number(n), Ck, partition.size(m))

    def given(n: int, m: int, Cq: int, Ck: int, largest: int) -> float:
        summaries = Cq * m * (2 * size.D + size.Dv)
        far = size.pairs(n * Ck)
        near = size.pairs(n * min(method.near * largest, m))
        rank = method._rank(size.D)
        dipole = (Cq * m * (size.D + rank * (size.D + size.Dv)) + size.pairs(n * rank)) if rank else 0
        return summaries + far + near + dipole

    def merged(block: int, levels: int) -> float:
        """All levels, with the clusters of the leaves and the distances by which they merge."""
        of_queries, Ck = method._leaf_query_partition, partition.number(block)
        leaves = _clustering(of_queries, block, size.D) + size.share * _clustering(partition, block, size.D)
        total = leaves * 2**levels + size.share * (2**levels - 1) * Ck**2 * size.D
        for i in range(levels):
            Cq, largest = of_queries.number(block) << i, partition.size(block) << i
            total += 2 ** (levels - 1 - i) * given(block << i, block << i, Cq, Ck, largest)
        return total

    if method.points == "earlier" and causal:

        def joining(n: int, m: int) -> float:
            return full(n, m) + n * method._query_partition.number(n) * size.D

        return _with_sinks(method, queries, keys, causal, size, joining, lambda n, m: size.pairs(n * m))
    return _with_sinks(method, queries, keys, causal, size, full, full, merged if method._merged else None)


def _centroid(method: Centroid, queries: int, keys: int, causal: bool, size: _Heads) -> float:
    partition = method._partition

    def clustered(n: int, m: int) -> float:
        clusters = partition.number(m)
        means = size.share * (_clustering(partition, m, size.D) + m * (size.D + size.Dv))
        return means + size.pairs(n * clusters) + size.pairs(n * min(method.budget, m))

    def with_recent(n: int, m: int) -> float:
        recent = min(method.recent, m)
        return size.pairs(n * recent) + (clustered(n, m - recent) if m > recent else 0)

    return _with_sinks(method, queries, keys, causal, size, clustered if causal else with_recent, with_recent)


def _with_sinks(
    method: MuSe | Centroid,
    queries: int,
    keys: int,
    causal: bool,
    size: _Heads,
    full: Callable[[int, int], float],
    past: Callable[[int, int], float],
    levels_of: Callable[[int, int], float] | None = None,
) -> float:
    """Sinks exactly, the rest by blocks or at once: as ``attention.causal`` does it."""
    sinks = min(method.sinks, keys)
    among = max(0, sinks - (keys - queries)) if causal else 0  # queries that are themselves sinks
    total = size.pairs(_seen(among, among, True)) + size.pairs((queries - among) * sinks)
    queries, keys = queries - among, keys - sinks
    if not queries or not keys:
        return total
    if not causal:
        return total + full(queries, keys)
    block, levels = block_sizes(queries, method.leaf)
    total += 2**levels * size.pairs(_seen(block, block, True))
    if levels_of is not None:
        total += levels_of(block, levels) if levels else 0
    else:
        total += sum(2 ** (levels - 1 - i) * full(block << i, block << i) for i in range(levels))
    before = keys - queries
    if before:
        total += size.pairs(queries * before) if before <= leaf_length(method.leaf) else past(queries, before)
    return total


_FORMULAS = {Exact: _exact, Window: _window, TopK: _topk, Centroid: _centroid, MuSe: _muse}

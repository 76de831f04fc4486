"""Assignment 4, the causal hierarchy and its cost: the usual mistakes, and what to say of each."""

from __future__ import annotations

import math

import torch

from multipole_lab.course.questions.answers.a4 import best_leaf, coverage, crossover, plan, quarters
from multipole_lab.course.questions.mistakes import a4_ways as ways
from multipole_lab.course.questions.mistakes.sentences import NO_SCALE

LOG_M = "a chunk of m keys counts m times: log m."
TRIANGLE = "exact causal attention costs n (n + 1) / 2, not n^2."

MISTAKES = {
    "A4.1": {
        "the left half is the longer one: round up.": ways.cut_at(lambda a, b: a + (b - a) // 2),
        "the queries of a square are on the right, its keys on the left.": (
            ways.changed_plan(lambda a, b, c, d: [(c, d, a, b)]),
        ),
        "where are the squares?": ways.changed_plan(lambda a, b, c, d: [(a, b, c, d)] * (a == c)),
        "where are the leaves?": ways.changed_plan(lambda a, b, c, d: [(a, b, c, d)] * (a != c)),
        "a span of exactly `leaf` positions is a leaf.": (
            lambda n, leaf: plan(n, leaf - 1),
            ways.cut_at(lambda a, b: a + (b - a + 1) // 2, lambda size, leaf: size < max(leaf, 2)),
        ),
        "a leaf holds at most `leaf` positions.": (
            lambda n, leaf: plan(n, 2 * leaf),
            lambda n, leaf: plan(n, leaf + 1),
        ),
        "the list has to be sorted.": (
            ways.unsorted_plan("left", "right", "square"),
            ways.unsorted_plan("square", "left", "right"),
            ways.unsorted_plan("left", "square", "right"),
        ),
        "the span is cut at start + half its length: where is start?": ways.cut_at(
            lambda a, b: (b - a + 1) // 2 if a < (b - a + 1) // 2 < b else a + 1
        ),
        "attention is causal: the left half does not see the right one.": ways.changed_plan(
            lambda a, b, c, d: [(a, b, c, d), (c, d, a, b)][: 1 + (a != c)]
        ),
        "ranges are half open: the stop is one behind the last position.": ways.changed_plan(
            lambda a, b, c, d: [(a, b - 1, c, d - 1)]
        ),
        "a square's keys are the left half of its own span, not all earlier keys.": ways.changed_plan(
            lambda a, b, c, d: [(a, b, c if a == c else 0, d)]
        ),
    },
    "A4.2": {
        "a leaf is causal: only keys up to the query.": ways.counted(lambda ones: ones),
        "a leaf has the keys up to the query, not the later ones.": ways.counted(lambda ones: ones.triu()),
        "off by one: a query sees itself.": ways.counted(lambda ones: ones.tril(-1)),
        "rows are queries and columns are keys.": lambda blocks, n: coverage(blocks, n).T,
        "count: a pair that comes twice is a 2.": (
            lambda blocks, n: coverage(blocks, n).clamp(max=1),
            ways.counted(lambda ones: ones.tril(), add=False),
        ),
        "every other block counts all its pairs: only a leaf is causal.": (
            ways.counted(lambda ones: ones.tril(), lambda ones: ones.tril()),
            ways.counted(lambda ones: ones.tril(), torch.zeros_like),
        ),
        "leaves count as well: the pairs up to the query.": ways.counted(torch.zeros_like),
        "ranges are half open: the stop is not in the block.": (
            ways.counted(lambda ones: ones.tril(), by=1),
            ways.counted(lambda ones: ones.tril(), by=-1),
        ),
    },
    "A4.3": {
        LOG_M: (
            ways.run(lambda logit, m, chunk: logit),
            ways.run(lambda logit, m, chunk: logit * m),
            ways.run(lambda logit, m, chunk: logit + m),
            ways.run(lambda logit, m, chunk: logit - math.log(m)),
        ),
        "the last chunk may be shorter: it counts log m for its own m.": (
            ways.run(lambda logit, m, chunk: logit + math.log(chunk))
        ),
        "the last chunk may be shorter: it counts as well.": ways.run(
            pieces=lambda k0, k1, chunk: [
                (i, min(i + chunk, k1)) for i in range(k0, max(k1 - chunk + 1, k0 + 1), chunk)
            ]
        ),
        "chunks of `chunk` keys: a square has several.": ways.run(pieces=lambda k0, k1, chunk: [(k0, k1)]),
        "keys and values of a chunk are means, not sums.": (
            ways.run(key=lambda rows: rows.sum(0)),
            ways.run(value=lambda rows, block: rows.sum(0)),
            ways.run(key=lambda rows: rows.sum(0), value=lambda rows, block: rows.sum(0)),
        ),
        "each chunk has its own values: not one mean for the whole block.": ways.run(
            value=lambda rows, block: block.mean(0)
        ),
        "partials are merged by their log-sum-exps, not averaged.": (
            ways.run(merge="mean"),
            ways.run(merge="halves"),
            ways.run(merge="sum"),
        ),
        "a later block takes the place of the earlier ones: merge, do not overwrite.": (
            ways.run(merge="last"),
            ways.run(merge="first"),
        ),
        "leaves are causal.": ways.run(diagonal=10**6),
        "off by one: in a leaf a query sees itself.": ways.run(diagonal=0),
        "where are the squares?": ways.run(squares=False),
        "where are the leaves?": ways.run(leaves=False),
        "that is exact attention: the squares are to be approximated.": ways.run(
            pieces=lambda k0, k1, chunk: [(i, i + 1) for i in range(k0, k1)]
        ),
        NO_SCALE: ways.run(scaled=False),
    },
    "A4.4": {
        "a leaf of m positions has m (m + 1) / 2 pairs.": (
            ways.cost(leaf=lambda m: m * m),
            ways.cost(leaf=lambda m: m * m // 2),
            ways.cost(leaf=lambda m: m * m / 2),
            ways.cost(leaf=lambda m: m * (m - 1) // 2),
            ways.cost(leaf=lambda m: m * (m + 1)),
        ),
        "the summaries have to be made: m_k C.": ways.cost(square=lambda q, k, C: q * C),
        "the summaries are looked up: m_q C.": ways.cost(square=lambda q, k, C: k * C),
        "a square is not summed pair by pair: queries and keys meet C clusters.": ways.cost(
            square=lambda q, k, C: q * k
        ),
        "a square costs the sum m_k C + m_q C, not a product.": ways.cost(square=lambda q, k, C: q * k * C),
        "where are the leaves?": ways.cost(leaf=lambda m: 0),
        "where are the squares?": ways.cost(square=lambda q, k, C: 0),
        "queries times clusters, keys times clusters: C is a factor of both.": (
            ways.cost(square=lambda q, k, C: q + k + C),
            ways.cost(square=lambda q, k, C: q + k * C),
            ways.cost(square=lambda q, k, C: q * C + k),
        ),
        "always C clusters, also where a square has fewer keys.": ways.cost(
            square=lambda q, k, C: (q + k) * min(C, k)
        ),
    },
    "A4.5": {
        "one leaf costs exactly n (n + 1) / 2: less than that is asked, not as much.": (
            ways.first_length(lambda total, n: 2 * total <= n * (n + 1)),
            ways.first_length(lambda total, n: total < n * (n + 1)),
        ),
        TRIANGLE: ways.first_length(lambda total, n: total < n * n),
        "exact causal attention costs n (n + 1) / 2: the diagonal counts.": (
            ways.first_length(lambda total, n: total < n * n // 2),
            ways.first_length(lambda total, n: 2 * total < n * (n - 1)),
            ways.first_length(lambda total, n: 2 * total < n * n),
            ways.first_length(lambda total, n: 2 * total <= n * (n - 1)),
        ),
        "one doubling too far.": lambda leaf, clusters: 2 * crossover(leaf, clusters),
        "that is the last length before it pays: one doubling more.": (
            lambda leaf, clusters: crossover(leaf, clusters) // 2
        ),
        "n doubles: leaf, 2 leaf, 4 leaf and so on.": (
            ways.first_length(ways.pays, lambda leaf: (leaf * i for i in range(1, 200))),
            ways.first_length(ways.pays, lambda leaf: range(leaf, 2000)),
            ways.first_length(ways.pays, lambda leaf: range(1, 2000)),
        ),
        "n begins with leaf.": ways.first_length(ways.pays, lambda leaf: (1 << i for i in range(30))),
        "the length n itself is asked, not how often it was doubled.": (
            lambda leaf, clusters: (crossover(leaf, clusters) // leaf).bit_length() - 1,
            lambda leaf, clusters: crossover(leaf, clusters) // leaf,
        ),
        "one square pays from 2C on; the whole pays later: compare `work` with n (n + 1) / 2.": (
            lambda leaf, clusters: next(n for n in (leaf << i for i in range(30)) if n > 2 * clusters),
            lambda leaf, clusters: next(n for n in (leaf << i for i in range(30)) if n >= 2 * clusters),
            lambda leaf, clusters: 2 * clusters,
            lambda leaf, clusters: 2 * clusters + 1,
        ),
    },
    "A4.6": {
        "sum first, then divide: not the mean of the queries' own ratios.": ways.error_quarters(
            lambda wrong, exact, guess: (wrong / exact).view(4, -1).mean(1)
        ),
        "each quarter is divided by its own outputs.": (
            ways.error_quarters(lambda wrong, exact, guess: wrong.view(4, -1).sum(1) / exact.sum()),
            ways.error_quarters(lambda wrong, exact, guess: wrong.view(4, -1).mean(1) / exact.mean()),
        ),
        "squared errors: no square root.": ways.error_quarters(lambda *sums: ways.ratios(*sums).sqrt()),
        "a relative error: divide by the sum of squares of the exact outputs.": (
            ways.error_quarters(lambda wrong, exact, guess: wrong.view(4, -1).sum(1)),
            ways.error_quarters(lambda wrong, exact, guess: wrong.view(4, -1).mean(1)),
        ),
        "exact attention is causal here, too.": ways.error_quarters(ways.ratios, causal=False),
        "exact attention has the scale, too.": ways.error_quarters(ways.ratios, scaled=False),
        "a quarter is N / 4 positions one after the other, not every fourth.": (
            ways.error_quarters(
                lambda wrong, exact, guess: wrong.view(-1, 4).sum(0) / exact.view(-1, 4).sum(0),
            )
        ),
        "the quarters stand from first to last.": lambda *args: quarters(*args)[::-1],
        "a list of four numbers is asked: `tolist` makes one of a tensor.": (
            lambda *args: torch.tensor(quarters(*args))
        ),
        "relative to the exact output, not to the approximation.": ways.error_quarters(
            lambda wrong, exact, guess: wrong.view(4, -1).sum(1) / guess.view(4, -1).sum(1)
        ),
    },
    "A4.8": {
        "the smallest leaf where several are equally good.": ways.leaf_by(
            lambda costs: min(reversed(costs), key=costs.__getitem__)
        ),
        "the least work, not the most.": ways.leaf_by(lambda costs: max(costs, key=costs.__getitem__)),
        "the leaf itself is asked, not its work or its place.": (
            ways.leaf_by(lambda costs: min(costs.values())),
            lambda n, clusters: best_leaf(n, clusters).bit_length() - 1,
        ),
        "leaves go up to the first power of two that is at least n.": ways.leaf_by(
            ways.least, lambda n: [1 << i for i in range(max((n - 1).bit_length(), 1))]
        ),
        "leaves go from 1 on.": ways.leaf_by(
            ways.least, lambda n: [2 << i for i in range(max((n - 1).bit_length(), 1))]
        ),
        "leaves are powers of two.": ways.leaf_by(ways.least, lambda n: range(1, n + 1)),
        "2C is near it and not always it: compare `work`.": (
            lambda n, clusters: next(
                leaf for leaf in (1 << i for i in range(30)) if leaf >= min(2 * clusters, n)
            ),
            lambda n, clusters: next(leaf for leaf in (1 << i for i in range(30)) if leaf >= 2 * clusters),
            lambda n, clusters: 2 * clusters,
        ),
    },
}

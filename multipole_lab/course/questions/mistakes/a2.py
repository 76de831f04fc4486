"""Assignment 2, clustering keys: the usual mistakes, and what to say of each."""

from __future__ import annotations

import torch

from multipole_lab.course.questions.answers.a2 import (
    assign,
    capped,
    enough,
    farthest_first,
    find_sink,
    lloyd,
    update,
)
from multipole_lab.course.questions.hints import UNKNOWN
from multipole_lab.course.questions.mistakes import a2_ways as ways
from multipole_lab.course.questions.mistakes.sentences import NO_SCALE

MISTAKES = {
    "A2.1": {
        "the largest product is not the smallest distance: what about |c|^2?": lambda x, c: (x @ c.T).argmax(
            1
        ),
        "the nearest, not the farthest.": (
            ways.nearest(lambda x, c: -torch.cdist(x, c)),
            lambda x, c: (x @ c.T).argmin(1),
        ),
        "one label for each key, not for each centroid: which axis?": (
            lambda x, c: torch.cdist(x, c).argmin(0),
            lambda x, c: (c.square().sum(1) - 2 * x @ c.T).argmin(0),
        ),
        "the sign of 2 x.c.": ways.nearest(lambda x, c: c.square().sum(1) + 2 * x @ c.T),
        "the 2 of 2 x.c.": ways.nearest(lambda x, c: c.square().sum(1) - x @ c.T),
        "|c| has to be squared.": ways.nearest(lambda x, c: c.norm(dim=1) - 2 * x @ c.T),
        "the nearest centroid, not the one in the nearest direction: what about its length?": (
            ways.nearest(lambda x, c: -x @ (c / c.norm(dim=1)[:, None]).T)
        ),
        "the distance is the root of a sum of squares, not a sum of absolute values.": ways.nearest(
            lambda x, c: torch.cdist(x, c, p=1)
        ),
        "the position of the smallest is asked (argmin), not the smallest itself.": (
            lambda x, c: (c.square().sum(1) - 2 * x @ c.T).amin(1),
            lambda x, c: torch.cdist(x, c).amin(1),
            lambda x, c: torch.cdist(x, c).square().amin(1),
        ),
    },
    "A2.2": {
        "what does a cluster without keys give? Not NaN.": ways.nan_update,
        "a cluster without keys keeps its old centroid.": (
            ways.means(lambda rows, N, C: rows.mean(0), empty=torch.zeros_like),
            lambda x, labels, c: update(x, labels, x.mean(0).expand_as(c)),
        ),
        "a mean, not a sum.": (
            ways.means(lambda rows, N, C: rows.sum(0)),
            ways.means(lambda rows, N, C: rows.sum(0), empty=torch.zeros_like),
        ),
        "divide by how many keys each cluster has, not by all.": (
            ways.means(lambda rows, N, C: rows.sum(0) / N),
            ways.means(lambda rows, N, C: rows.sum(0) / N, empty=torch.zeros_like),
            ways.means(lambda rows, N, C: rows.sum(0) / C),
            ways.means(lambda rows, N, C: rows.sum(0) / C, empty=torch.zeros_like),
        ),
        "the count is one too large: a cluster of m keys is divided by m.": (
            ways.means(lambda rows, N, C: rows.sum(0) / (len(rows) + 1)),
            ways.means(lambda rows, N, C: rows.sum(0) / (len(rows) + 1), empty=torch.zeros_like),
        ),
        "how many centroids are there? As many as before, also where the last labels have no key.": (
            lambda x, labels, c: torch.nan_to_num(ways.nan_update(x, labels, c))[: int(labels.max()) + 1],
            lambda x, labels, c: ways.nan_update(x, labels, c)[labels.unique()],
        ),
        "the sums start from zero, not from the old centroids.": (
            lambda x, labels, c: (
                c.index_add(0, labels, x) / torch.bincount(labels, minlength=len(c)).clamp(min=1)[:, None]
            ),
            lambda x, labels, c: (
                c.index_add(0, labels, x) / (1 + torch.bincount(labels, minlength=len(c)))[:, None]
            ),
        ),
        "a mean, not a median.": ways.means(lambda rows, N, C: rows.median(0).values),
    },
    "A2.3": {
        "the labels are of the centroids before the last update.": (
            ways.stale_labels,
            lambda x, c, n: (assign(x, c), lloyd(x, c, n)[1]),
        ),
        "one round too many.": lambda x, c, n: lloyd(x, c, n + 1),
        "one round too few.": lambda x, c, n: lloyd(x, c, max(n - 1, 0)),
        "only the first round counts: each round assigns again, with the centroids of the round before.": (
            lambda x, c, n: lloyd(x, c, min(n, 1)),
            ways.one_assignment,
        ),
        "update before assign: the centroids that come back belong to the labels of the round before.": (
            lambda x, c, n: (lloyd(x, c, n)[0], lloyd(x, c, max(n - 1, 0))[1])
        ),
    },
    "A2.4": {
        "is there a limit at all?": lambda x, c, limit: assign(x, c),
        "the nearest pairs first, not the keys in their order.": ways.in_turn(
            lambda d: range(len(d)), ways.nearest_free
        ),
        "the nearest of all pairs first, not the keys by their nearest centroid.": ways.in_turn(
            lambda d: d.amin(1).argsort().tolist(), ways.nearest_free
        ),
        "a key that finds its cluster full goes to the nearest with a free place, not to the next number.": (
            ways.in_turn(lambda d: range(len(d)), ways.next_free)
        ),
        "the nearest pairs first, not one cluster after the other.": ways.cluster_by_cluster,
        "one key too many: stop at the limit, not behind it.": lambda x, c, limit: capped(x, c, limit + 1),
        "one key too few: a cluster has `limit` places, and every key finds one.": ways.short,
        "to compare pairs of different keys the distance needs its |x|^2.": ways.pairs_by(
            lambda x, c: c.square().sum(1) - 2 * x @ c.T
        ),
        "the smallest first, not the largest.": ways.pairs_by(torch.cdist, descending=True),
        "the distance, not the product.": (
            ways.pairs_by(lambda x, c: -x @ c.T),
            ways.pairs_by(lambda x, c: x @ c.T),
        ),
        "a pair counts only if its key has no cluster yet.": (ways.moving(False), ways.moving(True)),
        "a flattened [N, C] counts C numbers a key: divmod(pair, C).": ways.wrong_divmod,
    },
    "A2.5": {
        "a query sees no key behind it: where is the mask?": ways.sink_of(lambda x, hidden: x.softmax(1)),
        "a sum over the queries, that is over rows; not the weights of the last query.": ways.sink(
            lambda w: w[-1]
        ),
        "divide by N, not by the number of queries that see the key.": ways.sink(
            lambda w: w.sum(0) / torch.arange(len(w), 0, -1)
        ),
        "the share is the sum divided by N.": ways.sink(lambda w: w.sum(0)),
        "the sum of the weights, not how often the key is the strongest.": ways.sink(
            lambda w: torch.bincount(w.argmax(1), minlength=len(w)).double() / len(w)
        ),
        "the sum over all queries, not one weight that is large.": ways.sink(lambda w: w.amax(0)),
        "weights are summed: is there a softmax over the logits?": (
            ways.sink_of(lambda x, hidden: x.masked_fill(hidden, 0.0)),
            ways.sink_of(lambda x, hidden: x),
        ),
        "a hidden key has weight zero, so its logit is -inf and not zero.": ways.sink_of(
            lambda x, hidden: x.masked_fill(hidden, 0.0).softmax(1)
        ),
        "every key gets the share 1 / N there: a softmax over the keys, then a sum over the queries.": (
            lambda q, k, scale: (UNKNOWN, 1 / len(k)),
            ways.sink_of(lambda x, hidden: x.softmax(0)),
        ),
        "hide before the softmax, not after it.": ways.sink_of(
            lambda x, hidden: x.softmax(1).masked_fill(hidden, 0.0)
        ),
        "off by one: a query sees itself.": (ways.strict_nan, ways.strict_skipped),
        "the future is to be hidden, not the past.": ways.sink_of(
            lambda x, hidden: x.masked_fill(hidden.T, -torch.inf).softmax(1)
        ),
        NO_SCALE: lambda q, k, scale: find_sink(q, k, 1.0),
    },
    "A2.6": {
        "the spread of all keys is measured around their mean, not around zero.": ways.around_zero,
        "the first that is enough, not the closest.": ways.closest,
        "at most that share: where does the comparison point?": (
            ways.first_count(lambda sigma, share, x: sigma >= share),
            ways.first_count(lambda sigma, share, x: sigma > share),
        ),
        "the spread inside is divided by the spread of all keys: both are sums, or both are means.": tuple(
            ways.first_count(rule)
            for rule in (
                lambda sigma, share, x: sigma * ways.total(x) <= share,
                lambda sigma, share, x: sigma * ways.total(x) / len(x) <= share,
                lambda sigma, share, x: sigma / x.numel() <= share,
                lambda sigma, share, x: sigma / len(x) <= share,
            )
        ),
        "squared distances: neither a root nor a distance.": ways.first_count(
            lambda sigma, share, x: sigma**0.5 <= share
        ),
        "the share that is left inside the clusters, not the share that they explain.": ways.first_count(
            lambda sigma, share, x: 1 - sigma <= share
        ),
        "where none is enough the answer is None.": (
            ways.first_count(lambda sigma, share, x: sigma <= share, none=lambda counts: counts[-1]),
            ways.first_count(lambda sigma, share, x: sigma <= share, none=lambda counts: 0),
            ways.first_count(lambda sigma, share, x: sigma <= share, none=lambda counts: -1),
            ways.first_count(lambda sigma, share, x: sigma <= share, none=len),
        ),
        "the number of clusters is asked, not its place in the list.": lambda x, counts, share: (
            None if enough(x, counts, share) is None else counts.index(enough(x, counts, share))
        ),
        "the first that is enough, not the last: does the loop stop?": ways.last_enough,
    },
    "A2.8": {
        "far from the nearest chosen key, not from the first one.": ways.far_from_first,
        "far from the nearest chosen key, not from the last one.": ways.chain(lambda far, last: last),
        "the nearest of the chosen counts: a minimum, not a maximum.": ways.chain(torch.maximum),
        "far from the nearest chosen key, not the sum of all distances.": ways.chain(torch.add),
        "the farthest, not the nearest.": (
            ways.chain(torch.minimum, torch.argmin),
            lambda x, C, first: torch.full((C,), first),
        ),
        "C positions in all, with the first.": lambda x, C, first: torch.cat(
            [farthest_first(x, C, first), ways.next_farthest(x, C, first)]
        ),
        "the list begins with `first`.": (
            lambda x, C, first: farthest_first(x, C, 0),
            lambda x, C, first: torch.cat([farthest_first(x, C, first), ways.next_farthest(x, C, first)])[1:],
            lambda x, C, first: farthest_first(x, C, first)[1:],
        ),
        "of two keys that are equally far the lower position wins: `argmax` gives the first.": ways.chain(
            torch.minimum, ways.last_largest
        ),
        "the positions are asked, not the keys themselves.": lambda x, C, first: x[
            farthest_first(x, C, first)
        ],
    },
}

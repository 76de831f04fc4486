"""What notebook 02 says about clusters of keys, computed; numbers are those of cells and exercises."""

from functools import partial
from importlib import import_module
from unittest.mock import patch

import numpy as np
import pytest
import torch
from claims import Notebook
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

import multipole_lab as ml
from multipole_lab.clustering import inertia
from multipole_lab.clustering.clusters import Clusters
from multipole_lab.measure import share_of_exact
from multipole_lab.measure.heads import first_tokens

lesson = import_module("multipole_lab.lessons.mixed_partitions")


@pytest.fixture(scope="module")
def book():
    return Notebook("02")


@pytest.fixture(scope="module")
def seen(book):
    """After the last code cell before the panel."""
    return book.cell("26")


def widths(k, head):
    """Mean over 64 clusters of how far the middle half of a cluster's members reach, in tokens."""
    labels = ml.kmeans(k, clusters=64, iterations=5).labels[0, head]
    places = [(labels == j).nonzero()[:, 0].float() for j in range(64)]
    return sum((x.quantile(0.75) - x.quantile(0.25)).item() for x in places) / 64


def test_equation_logits_of_two_keys_differ_by_at_most_the_product_of_lengths(book, seen):
    book.says(r"(at most) \$s\\,\\lVert q\\rVert\\,\\lVert k_n - k_m\\rVert\$")
    q, s = seen.sample[15].q[0, 0, :200], seen.sample.scale
    first, second = seen.keys[:200], seen.keys[1000:1200]
    bound = s * q.norm(dim=1) * (first - second).norm(dim=1)
    assert ((s * q * (first - second)).sum(1).abs() <= bound).all()


def test_08_the_first_step_brings_four_fifths(book):
    book.says(r"the first step brought (more than four fifths) of what four steps bring")
    distance = book.cell("07").column(r"distance ([\d.]+)")
    assert len(distance) == 5
    assert (distance[0] - distance[1]) / (distance[0] - distance[4]) > 0.8


def test_13_pca_parts_early_from_late_and_tsne_keeps_spans_together(book):
    ran = book.cell("13")
    pca, tsne = ran.figures
    assert "early keys and late keys lie apart" in pca.layout.title.text
    assert "keys of one span of text lie in a row" in tsne.layout.title.text
    place = ran.some.numpy()
    axes = np.c_[ran.flat["PCA"], np.ones(len(place))]
    rest = place - axes @ np.linalg.lstsq(axes, place, rcond=None)[0]
    assert rest.var() < 0.5 * place.var()
    neighbour = NearestNeighbors(n_neighbors=2).fit(ran.flat["t-SNE"]).kneighbors()[1][:, 0]
    assert np.median(abs(place - place[neighbour])) < 100


def test_14_place_matters_most_in_the_first_head(book, seen):
    (times,) = book.says(
        r"in the other two the members of a cluster lie about (twice) as far apart in the text"
    )
    first, *others = (widths(seen.k, head) for head in range(3))
    assert times == "twice"
    assert all(1.7 < other / first < 2.1 for other in others)


def test_16_two_clusters_of_one_span_differ_by_the_kind_of_token(book):
    one, other = book.says(
        r"clusters (\d+) \(858 to 1,099\) and (\d+) \(887 to 951\) come from the same few hundred tokens, "
        r"and one has line ends and full stops"
    )
    ran = book.cell("15")
    places = [(ran.found.labels[0, 0] == int(j)).nonzero()[:, 0] for j in (one, other)]
    assert places[0].min() < places[1].min() < places[1].max() < places[0].max() < places[0].min() + 300
    assert [(x.min(), x.max()) for x in places] == [(858, 1099), (887, 951)]
    common = [
        [w for w, _ in ran.Counter(ran.sample.tokens[i] for i in x.tolist()).most_common(3)] for x in places
    ]
    assert {"\n", "."} < set(common[0])
    assert " " in common[1]
    assert sum(word.isdigit() for word in common[1]) == 2


def test_18_there_are_no_islands(book):
    low, high = book.says(r"Between ([\d.]+) and ([\d.]+): no islands")
    scores = [x for row in book.cell("17").rows(r"\[ *([\d.]+) +([\d.]+) +([\d.]+) *\]") for x in row]
    assert len(scores) == 12
    assert (min(scores), max(scores)) == (low, high)


def test_20_what_equal_sizes_cost(book):
    capped = book.says(r"A cap of 1\.5 costs ([\d.]+) to ([\d.]+) of the spread")
    halved = book.says(r"halving ([\d.]+) to ([\d.]+)\.")
    spread = np.array(book.cell("19").rows(r"by head \[ *([\d.]+) +([\d.]+) +([\d.]+) *\]"))  # [4, 3]
    for said, row in ((capped, 1), (halved, 2)):
        cost = (spread[row] - spread[0]).round(2)
        assert (cost.min(), cost.max()) == said
    largest = book.cell("19").column(r"largest +(\d+)")
    assert largest[0] > 96 == largest[1] > largest[2] == largest[3] == 64


def test_20_runs_cost_next_to_no_spread_in_any_layer(book, seen):
    (most,) = book.says(r"cost ([\d.]+) at most, in every head of all three layers")
    for number in seen.sample.layers:
        k = seen.sample[number].k
        cost = seen.left(k, ml.runs(k, size=64)).round(2) - seen.left(
            k, ml.kmeans(k, clusters=64, iterations=5)
        ).round(2)
        assert cost.max() <= most + 1e-6
        assert number != 15 or cost.max() > most - 0.006


def test_22_logits_inside_a_cluster_differ_by_a_factor_of_five(book):
    low, high, exponent, factor = book.says(
        r"Again no great difference: ([\d.]+) to ([\d.]+)\. But .* is a factor of \$e\^\{([\d.]+)\} \\approx (\d)\$"
    )
    differ = book.cell("21").column(r"differ by ([\d.]+)")
    assert (round(min(differ), 1), round(max(differ), 1)) == (low, high)
    assert np.exp(exponent) == pytest.approx(factor, rel=0.02)


def test_24_it_is_the_queries_that_want_to_be_clustered(book):
    book.says(
        r"In layers 15 and 28 runs of \*keys\* are (nearly as good) as k-means.*In layer 3 it is the keys"
    )
    factors = book.says(
        r"([\d.]+) times as large in layer 3, ([\d.]+) times in layer 15, ([\d.]+) times in layer 28"
    )
    error = np.array(book.cell("23").column(r"error ([\d.]+)")).reshape(3, 2, 2)  # layer, queries, keys
    keys, queries, both = (
        error[:, 0, 1] / error[:, 0, 0],
        error[:, 1, 0] / error[:, 0, 0],
        error[:, 1, 1] / error[:, 0, 0],
    )
    assert keys[1:].max() < 1.07
    assert (queries[1:] > 1.1).all()
    assert keys[0] > 1.2 > 1.05 > queries[0]
    assert [round(x, 1) for x in both] == list(factors)


def test_24_in_layer_15_seeds_move_as_much_as_runs_of_queries_cost(book):
    queries, keys = book.says(
        r"runs of queries have ([\d.]+) where runs of keys have ([\d.]+), and another seed alone"
    )
    low, high = book.says(r"With eight seeds .*? lies between ([\d.]+) and ([\d.]+)\.")
    error = np.array(book.cell("23").column(r"error ([\d.]+)")).reshape(3, 2, 2)  # layer, queries, keys
    assert (error[1, 1, 0], error[1, 0, 1]) == (queries, keys)
    assert high - low > queries - keys
    book.says(r"(Seed by seed), though, it is so for all eight seeds")
    x = first_tokens(book.cell("23").sample[15], 2048)
    exact = ml.Exact()(*x)
    for seed in range(8):
        with patch.object(lesson, "MuSe", partial(ml.MuSe, seed=seed)):
            of_keys, of_queries = (
                ml.relative_squared_error(lesson.mixed_partitions(*x, *pair), exact).item()
                for pair in (("kmeans", "runs"), ("runs", "kmeans"))
            )
        assert of_queries > of_keys


def test_27_the_direction_makes_the_sink_and_its_length_limits_it(book):
    book.says(r"No: it is the \*\*(direction)\*\*\. Key 0 points to where the queries are")
    low, high, least, most = book.says(
        r"the median cosine of a query with key 0 is ([\d.]+) to ([\d.]+), with the other keys (-[\d.]+) to (-[\d.]+);"
    )
    small, large, short, long = book.says(
        r"the median logit of key 0 is ([\d.]+) to ([\d.]+), and .*? Were it as long as the others, it would be (\d+) "
        r"to (\d+)\."
    )
    sample = book.cell("26").sample
    cosines, logits, grown = [], [], []
    for head in range(9):
        q, k = sample[15].q[0, head], sample[15].k[0, head // 3]
        length = k.norm(dim=1)
        cosine = (q / q.norm(dim=1, keepdim=True)) @ (k / length[:, None]).T
        logit = sample.scale * q @ k.T
        cosines.append((cosine[:, 0].median().item(), cosine[:, 1:].median().item()))
        logits.append(logit[:, 0].median().item())
        grown.append(logits[-1] * (length.median() / length[0]).item())
        assert logit[:, 1:].median() < 0
    own, others = zip(*cosines, strict=True)
    assert [min(own), max(own), min(others), max(others)] == pytest.approx(
        [low, high, least, most], abs=0.005
    )
    assert [round(x, 1) for x in (min(logits), max(logits))] == [small, large]
    assert [round(x) for x in (min(grown), max(grown))] == [short, long]
    mine, rest = book.cell("26").rows(r"key 0: (-?[\d.]+); (?:of )?all keys: (-?[\d.]+)")
    assert mine[1] < 0 < mine[0]
    assert rest[1] < 0 < rest[0]
    brief, median = book.cell("25").rows(r"\[ *([\d.]+) ")
    assert brief[0] < median[0] / 3


def test_27_the_sinks_cluster_is_large_and_points_elsewhere(book, seen):
    (limit,) = book.says(r"the cosine of the angle between them is below ([\d.]+) in every head")
    sizes = book.says(r"put into one of (\d+), (\d+) and (\d+) keys \(key heads 0, 1 and 2\)")
    assert tuple(seen.home) == sizes
    for head in range(3):
        home = seen.found.centroids[0, head, seen.found.labels[0, head, 0]]
        assert torch.cosine_similarity(home, seen.k[0, head, 0], dim=0) < limit


def test_solution_1_how_wide_clusters_are(book, seen):
    fifteen, last, third = book.says(
        r"nearest to that with (\d+); in layer 28 it is (\d+), in layer 3 even (\d+)\."
    )
    printed = dict(book.solution(1)[0].rows(r"(\d+) (\d+) tokens"))
    assert printed == {3: third, 15: fifteen, 28: last}
    others = book.says(r"two key heads of layer 3 have (\d+) and (\d+), those of layer 15 have (\d+)")
    layers = [seen.sample[number].k for number in (3, 15)]
    found = [widths(layers[0], 1), widths(layers[0], 2), widths(layers[1], 1), widths(layers[1], 2)]
    assert found == pytest.approx([*others, others[2]], abs=1)


def test_solution_2_what_steps_bring(book):
    book.says(r"The first step brings (more than half) of what twenty bring, and two steps three quarters")
    left = [y for _, y in book.solution(2)[0].rows(r"(\d+) ([\d.]+)")]
    brought = [(left[0] - x) / (left[0] - left[4]) for x in left]
    assert 0.5 < brought[1] < 0.7
    assert brought[2] == pytest.approx(0.75, abs=0.03)
    assert ml.MuSe().iterations == 1


def test_solution_3_a_gaussian_cloud_keeps_more_spread(book):
    cloud, real = book.says(r"Far more spread is left, ([\d.]+) against ([\d.]+)")
    assert book.solution(3)[0].value.item() == pytest.approx(cloud, abs=0.01)
    assert book.cell("09").column(r"\[([\d.]+)")[0] == real


def test_solution_4_neither_keys_nor_queries_lie_around_the_origin(book):
    said = book.says(
        r"the mean key is ([\d.]+) away from the origin, and keys are ([\d.]+) away from their mean; "
        r"the mean query is ([\d.]+) away, and queries ([\d.]+) from"
    )
    (ran,) = book.solution(4)
    assert [x for row in ran.rows(r"mean ([\d.]+) .*members ([\d.]+)") for x in row] == pytest.approx(
        said, abs=0.06
    )
    points = np.c_[ran.figures[0].data[0].x, ran.figures[0].data[0].y]
    keys, queries, origin = points[:400], points[400:800], points[800]
    for cloud in (keys, queries):
        middle = cloud.mean(0)
        assert np.linalg.norm(origin - middle) > 0.5 * np.linalg.norm(cloud - middle, axis=1).mean()
    gap = np.linalg.norm(keys.mean(0) - queries.mean(0))
    assert gap > np.linalg.norm(keys - keys.mean(0), axis=1).mean()


def test_02_equal_weights_make_the_mean_of_any_values_exact(book):
    book.says(r"the cluster gives its weight times the mean of its values, \*(exactly)\*")
    keys, values = torch.randn(1, 1, 2, 8).repeat_interleave(3, 2), torch.randn(1, 1, 6, 8)
    q = torch.randn(1, 1, 5, 8)
    means = [values[:, :, part].mean(2, keepdim=True) for part in (slice(3), slice(3, 6))]
    short = ml.Exact()(
        q, keys[:, :, ::3], torch.cat(means, 2)
    )  # clusters of one size, so that no mass is needed
    torch.testing.assert_close(short, ml.Exact()(q, keys, values))


def test_08_a_step_of_k_means_is_a_small_part_of_exact_attention(book):
    n, c, part = book.says(r"for ([\d,]+) keys and (\d+) centroids a (\d+)th of the \$2 N\^2 D\$")
    assert n * c / (2 * n**2) == 1 / part
    few, eighth = book.says(r"for (\d+) keys the same step is an (eighth)")
    assert (c / (2 * few), eighth) == (1 / 8, "eighth")
    times, first, clusters = book.says(
        r"from about \$([\d.]+)\\,C\$ tokens on only .*?, (\d+) for (\d+) clusters"
    )
    pays = [share_of_exact(ml.MuSe(clusters=int(clusters)), int(first) - i) < 1 for i in (0, 1)]
    assert pays == [True, False]
    assert first == pytest.approx(times * clusters, rel=0.01)


def test_14_what_the_axes_of_pca_hold(book):
    *first, head, second, third = book.says(
        r"hold (\d+%) and (\d+%) of this head's variance; .*? For key head (\d) they hold (\d+%) and (\d+%)\."
    )
    ran = book.cell("11")
    for number, said in ((0, first), (int(head), [second, third])):
        ratio = PCA(2).fit(ran.k[0, number][ran.some].numpy()).explained_variance_ratio_
        assert ratio == pytest.approx(said, abs=0.005)


def test_16_what_a_silhouette_is(book):
    book.says(r"It is \$(\(b - a\) / \\max\(a, b\))\$, and the mean of it over keys")
    keys = book.cell("07").keys[:120]
    found = ml.kmeans(keys[None, None], clusters=3)
    label, apart = found.labels[0, 0], torch.cdist(keys.double(), keys.double())
    scores = []
    for i, own in enumerate(label):
        same = (label == own) & (torch.arange(len(keys)) != i)
        b = min(apart[i, label == j].mean() for j in range(3) if j != own)
        a = apart[i, same].mean() if same.any() else b
        scores.append(((b - a) / max(a, b)).item())
    score = book.cell("17").silhouette(keys[None, None], found).item()
    assert score == pytest.approx(np.mean(scores), abs=1e-4)


def test_14_clusters_of_keys_turned_back_are_none_of_the_keys_that_queries_meet(book, seen):
    turned, own = book.says(
        r"these leave ([\d.]+) of the spread .*? clusters of the rotated keys leave ([\d.]+)\."
    )
    k = seen.k
    angle = torch.arange(4096)[:, None] * 100_000.0 ** (-torch.arange(0, 64, 2) / 64)  # SmolLM2's
    x, y = k[..., :32], k[..., 32:]
    back = torch.cat([x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()], -1)
    the = [i for i, token in enumerate(seen.sample.tokens) if token == " the"]
    spread = [(z[0, 0, the].var(0).sum() / z[0, 0].var(0).sum()).item() for z in (k, back)]
    assert spread[1] < 0.6 * spread[0]  # one word's keys come together, so that this does turn them back
    found = Clusters.from_labels(k, ml.kmeans(back, clusters=64, iterations=5).labels, 64)
    assert seen.left(k, found)[0] == pytest.approx(turned, abs=0.01)
    assert seen.left(k, ml.kmeans(k, clusters=64, iterations=5))[0] == pytest.approx(own, abs=0.01)


def test_18_four_times_the_clusters_leave_less_of_the_spread(book, seen):
    *left, head = book.says(
        r"16, 64 and 256 clusters leave ([\d.]+), ([\d.]+) and ([\d.]+) of the spread of head (\d)"
    )
    for clusters, share in zip((16, 64, 256), left, strict=True):
        found = ml.kmeans(seen.k, clusters=clusters, iterations=5)
        assert seen.left(seen.k, found)[int(head)] == pytest.approx(share, abs=0.01)


def test_18_seeds_move_the_error_by_some_percent(book, seen):
    low, high = book.says(r"With eight seeds .*? lies between ([\d.]+) and ([\d.]+)\.")
    x = first_tokens(seen.sample[15], 2048)
    exact = ml.Exact()(*x)
    errors = [ml.relative_squared_error(ml.MuSe(seed=i)(*x), exact).item() for i in range(8)]
    assert (min(errors), max(errors)) == pytest.approx((low, high), abs=0.002)


def test_08_a_cluster_that_nobody_joins_starts_again(book, seen):
    book.says(r"Its mean would be (NaN) above, a sum divided by 0; the library starts it again")
    assert seen.keys[:0].mean(0).isnan().all()
    starts = seen.k[:, :, :8].clone()
    starts[:, :, 3] = 1e4  # nearest to no key
    empty = ml.kmeans(seen.k, clusters=8, iterations=0, init=starts)
    assert (empty.counts[..., 3] == 0).all()
    assert torch.equal(empty.labels[0, 0], torch.cdist(seen.keys, starts[0, 0]).argmin(1))  # plain distance
    assert (ml.kmeans(seen.k, clusters=8, iterations=1, init=starts).counts > 0).all()


def test_08_and_solution_2_count_from_different_zeros(book, seen):
    first, second, value = book.says(
        r"begins between the (first) and the (second) line of k-means by hand, at ([\d.]+) for head 0"
    )
    by_hand = book.cell("07").column(r"distance ([\d.]+)")
    around = seen.left(seen.k, ml.kmeans(seen.k, clusters=64, iterations=0))[0]
    whole = (seen.keys - seen.keys.mean(0)).square().sum(1).mean().item()
    assert around * whole == pytest.approx(value, abs=0.05)
    assert (first, second) == ("first", "second")
    assert by_hand[0] > around * whole > by_hand[1]


def test_31_weights_differ_by_a_factor_of_five_or_six(book):
    said = book.says(r"the weights that a query gives differ by a factor of (\w+) or (\w+)\.")
    differ = book.cell("21").column(r"differ by ([\d.]+)")
    assert (round(np.exp(min(differ))), round(np.exp(max(differ)))) == said


def test_02_no_step_raises_the_inertia_and_the_seed_matters(book, seen):
    book.says(r"(Neither step) can raise the inertia")
    book.says(r"in a \*(local)\* minimum")
    ends = []
    for seed in (0, 1):
        fits = [ml.kmeans(seen.k, clusters=64, iterations=n, seed=seed) for n in (1, 2, 4, 8)]
        left = [inertia(seen.k, fit).sum().item() for fit in fits]
        assert left == sorted(left, reverse=True)
        ends.append(left[-1])
    assert ends[0] != ends[1]


def test_18_what_more_clusters_do_to_the_error_and_the_cost(book):
    *counts, _ = book.says(r"(\d+), (\d+) and (\d+) clusters leave ([\d.]+), ")
    said = book.says(
        r"is ([\d.]+), ([\d.]+) and ([\d.]+) with them, for (\d+%), (\d+%) and (\d+%) of exact attention's products"
    )
    x = first_tokens(book.cell("23").sample[15], 2048)
    exact = ml.Exact()(*x)
    for count, error, share in zip(counts, said[:3], said[3:], strict=True):
        method = ml.MuSe(clusters=int(count))
        assert ml.relative_squared_error(method(*x), exact).item() == pytest.approx(error, abs=0.005)
        assert share_of_exact(method, 2048, heads=9, kv_heads=3) == pytest.approx(share, abs=0.005)


def test_27_the_tilt_sees_the_sink_and_a_plain_mean_does_not(book, seen):
    plain, low, high = book.says(
        r"as one of these keys, about (\d+%); seen from the query centroids it has (\d+%) to ([\d.]+%) of the weight"
    )
    weights = []
    for head in range(9):
        p = ml.kmeans(seen.sample[15].q[:, head : head + 1], clusters=64).centroids[0, 0]
        k, label = seen.k[0, head // 3], seen.found.labels[0, head // 3]
        members = label == label[0]
        assert 1 / members.sum().item() == pytest.approx(plain, abs=0.005)
        weights.append((seen.sample.scale * p @ k[members].T).softmax(1)[:, 0].median().item())
    assert min(weights) == pytest.approx(low, abs=0.005)
    assert max(weights) == pytest.approx(high, abs=0.00005)


def test_27_sinks_help_plain_means_most(book, seen):
    *plain, before, after = book.says(
        r"\(`Centroid`\) from an error of ([\d.]+) to ([\d.]+), and the tilted ones .* only from ([\d.]+) to ([\d.]+) "
    )
    x = first_tokens(seen.sample[15], 2048)
    exact = ml.Exact()(*x)
    for kind, said, digits in ((ml.Centroid, plain, 0.005), (ml.MuSe, (before, after), 0.0006)):
        errors = [ml.relative_squared_error(kind(sinks=n)(*x), exact).item() for n in (0, 4)]
        assert errors == pytest.approx(said, abs=digits)


def test_02_what_a_plain_mean_misses(book):
    book.says(r"misses the (covariance of weights and values) over the mean weight")
    generator = torch.Generator().manual_seed(0)
    k, v = torch.randn(2, 20, 8, dtype=torch.double, generator=generator)
    q = torch.randn(8, dtype=torch.double, generator=generator)

    def missed(q):
        return (k @ q).softmax(0) @ v - v.mean(0)

    w = (k @ q).exp()
    covariance = ((w - w.mean())[:, None] * (v - v.mean(0))).mean(0)
    torch.testing.assert_close(missed(q), covariance / w.mean())
    dipole = (v - v.mean(0)).T @ (k - k.mean(0)) / 20
    torch.testing.assert_close(torch.func.jacrev(missed)(0 * q), dipole)


def test_08_distance_and_softmax_do_not_notice_a_shift_and_the_cosine_does(book, seen):
    book.says(
        r"Like softmax, it does (not) notice a vector added to all keys\. The cosine would \(unless the mean"
    )

    def clusters(x):
        return ml.kmeans(x, clusters=64, iterations=5).labels

    unit = torch.nn.functional.normalize
    k, moved = seen.k, seen.k + 3.0
    assert torch.equal(clusters(k), clusters(moved))
    assert (clusters(unit(k, dim=-1)) != clusters(unit(moved, dim=-1))).float().mean() > 0.1
    centred = [unit(x - x.mean(2, keepdim=True), dim=-1) for x in (k, moved)]
    torch.testing.assert_close(*centred, rtol=0, atol=1e-5)
    q = seen.sample[15].q[:, :, :64]
    weights = [(seen.sample.scale * q[:, ::3] @ x.mT).softmax(-1) for x in (k, moved)]
    torch.testing.assert_close(*weights, rtol=0, atol=1e-4)
    torch.testing.assert_close(unit(2 * k, dim=-1), unit(k, dim=-1))


def test_22_the_spread_of_logits_is_a_trace_and_k_means_can_make_it_small(book):
    better, plain = book.says(r"weighted by their size, ([\d.]+) instead of ([\d.]+) for these queries")
    ran = book.cell("21")
    keys, p, s = ran.keys, ran.p, ran.sample.scale
    moment = p.T @ p / len(p)
    width, axes = torch.linalg.eigh(moment)
    seen = (keys @ (axes * width.clamp(min=0).sqrt()) @ axes.T)[None, None]
    other = ml.kmeans(seen, clusters=64, iterations=5).labels[0, 0]
    for label, said in ((other, better), (ran.found.labels[0, 0], plain)):
        members = [label == j for j in range(64)]
        spread = torch.stack([ran.logits[:, here].var(1, correction=0).mean() for here in members])
        covariances = [torch.cov(keys[here].T, correction=0) for here in members]
        trace = torch.stack([s**2 * torch.trace(x @ moment) for x in covariances])
        torch.testing.assert_close(spread, trace, rtol=1e-3, atol=1e-4)
        weighted = (label.bincount(minlength=64) * spread).sum() / len(keys)
        assert weighted.sqrt().item() == pytest.approx(said, abs=0.006)


def test_solution_3_in_how_many_directions_keys_and_clouds_lie(book, seen):
    (groups,) = book.says(r"\((?:64) random groups leave ([\d.]+)\.\)")
    *keys, first, last, few, many, all_ = book.says(
        r"it falls from ([\d.]+) to ([\d.]+) for these keys and from ([\d.]+) to ([\d.]+) for the cloud: as in "
        r"(\d+) and in (\d+) directions, of (\d+)\."
    )
    label = torch.randperm(4096, generator=torch.Generator().manual_seed(0)) % 64
    one = seen.keys[None, None]
    random = Clusters.from_labels(one, label[None, None], 64)
    assert seen.left(one, random)[0] == pytest.approx(groups, abs=0.006)
    for x, said, d in ((one, keys, few), (book.solution(3)[0].cloud, (first, last), many)):
        found = [seen.left(x, ml.kmeans(x, clusters=c, iterations=5))[0] for c in (16, 256)]
        assert found == pytest.approx(said, abs=0.01)
        assert 2 * np.log(256 / 16) / np.log(found[0] / found[1]) == pytest.approx(d, abs=0.5)
    assert all_ == seen.keys.shape[1]
    box = torch.rand(1, 1, 4096, 2, generator=torch.Generator().manual_seed(0))  # two directions of one width
    found = [seen.left(box, ml.kmeans(box, clusters=c, iterations=20))[0] for c in (16, 256)]
    assert 2 * np.log(256 / 16) / np.log(found[0] / found[1]) == pytest.approx(2, abs=0.3)

"""What notebook 04 says about near and far, computed; numbers are those of cells and exercises."""

import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from claims import Notebook

import multipole_lab as ml
from multipole_lab.figures import front
from multipole_lab.measure import operations, share_of_exact
from multipole_lab.measure.heads import first_tokens


@pytest.fixture(scope="module")
def book():
    return Notebook("04", without=("19",))


def error(x, method):
    return ml.relative_squared_error(method(*x), ml.Exact()(*x)).item()


def test_07_a_few_clusters_hold_most_of_the_attention(book):
    book.says(r"(one cluster of 64 holds two fifths) of the attention, eight hold more than four fifths")
    held = book.cell("06").held
    assert held[0].item() == pytest.approx(0.4, abs=0.02)
    assert held[7] > 0.8


def test_10_four_near_clusters_take_two_thirds_of_the_error_away(book):
    book.says(
        r"Over all heads of layer 15, (four near clusters) take two thirds of the error away, for less than twice"
    )
    rows = {
        near: (cost, wrong)
        for near, cost, wrong in book.cell("09").rows(r"near= ?(\d+): +(\d+)%.*error ([\d.]+)")
    }
    assert 1 - rows[4][1] / rows[0][1] == pytest.approx(2 / 3, abs=0.02)
    assert rows[4][0] < 2 * rows[0][0]
    wrong = [rows[near][1] for near in sorted(rows)]
    assert wrong == sorted(wrong, reverse=True)


def test_12_each_doubling_of_c_brings_more_than_the_one_before(book):
    book.says(
        r"(Each doubling) brings more than the one before: the first takes off a quarter, the last two thirds"
    )
    rows = book.cell("11").rows(r"(\d+) clusters: +(\d+)% .*error ([\d.]+)")
    taken = [1 - after[2] / before[2] for before, after in pairwise(rows)]
    assert taken == sorted(taken)
    assert [taken[0], taken[-1]] == pytest.approx([1 / 4, 2 / 3], abs=0.02)
    (most,) = book.says(
        r"at (\d+) clusters, a quarter of the tokens, the products are as many as those of exact"
    )
    share = share_of_exact(ml.MuSe(clusters=int(most)), 2048, heads=9, kv_heads=3)
    assert most == 2048 / 4
    assert 0.9 < share < 1.05


def test_16_windows_stay_wrong(book):
    window, muse, part = book.says(
        r"with half of the text it is still wrong by ([\d.]+), more than MuSe without any near cluster "
        r"\(([\d.]+)\) at (an eighth) of the products"
    )
    points = book.cell("13").points
    assert points["window"][-1] == pytest.approx((0.5, window), rel=0.03)
    assert points["MuSe"][0][1] == pytest.approx(muse, rel=0.03)
    assert points["MuSe"][0][0] == pytest.approx(1 / 8, rel=0.05)
    assert part == "an eighth"


def test_16_top_k_needs_many_keys_and_half_of_the_work(book):
    few, much, many, little = book.says(
        r"needs many keys to be good: (\d+) give ([\d.]+), (\d+) give ([\d.]+)\."
    )
    points = book.cell("13").points["top-k"]
    assert [m.keys for m in book.cell("13").methods["top-k"]] == [few, many]
    assert [round(wrong, 2) for _, wrong in points] == [much, little]
    assert min(share for share, _ in points) > 0.5


def test_16_centroids_are_cheapest_and_with_a_budget_best_at_a_tenth(book):
    (alone,) = book.says(r"Centroids\*\* alone are the cheapest of all and far off \(([\d.]+)\)")
    (budget,) = book.says(
        r"With a budget of (\d+) keys and the sinks they are the best of all at a tenth of the products \(0\.062\)"
    )
    points = book.cell("13").points
    (least, wrong), (share, good) = points["centroid"]
    assert wrong == pytest.approx(alone, abs=0.005)
    assert least == min(s for way in points.values() for s, _ in way)
    assert book.cell("13").methods["centroid"][1].budget == budget
    assert share == pytest.approx(0.1, abs=0.01)
    assert good == pytest.approx(0.062, abs=5e-4)
    assert all(w > good for way in points.values() for s, w in way if s < 1.1 * share and w != good)


def test_16_a_near_run_is_smaller_than_a_near_cluster(book):
    run, cluster = book.says(
        r"a near run has (\d+) keys and nothing is spent to find it, a cluster has up to (\d+)"
    )
    methods = ml.MuSe(partition="runs"), ml.MuSe()
    assert [method._partition.size(2048) for method in methods] == [run, cluster]
    points = book.cell("13").points
    for run, cluster in zip(points["runs"], points["MuSe"], strict=True):
        assert run[0] < cluster[0]
        assert run[1] > cluster[1]


def test_18_runs_win_in_layer_15_and_lose_in_layer_28(book):
    runs, cost, clusters, other = book.says(
        r"eight near runs have ([\d.]+) for (\d+%) of the products, four near clusters ([\d.]+) for (\d+%)"
    )
    points = book.cell("13").points
    assert points["runs"][3] == pytest.approx((cost, runs), rel=0.03)
    assert points["MuSe"][2] == pytest.approx((other, clusters), rel=0.03)
    far, near = book.says(r"In layer 28 it lies far above: ([\d.]+) against ([\d.]+)\.")
    both = book.cell("17").both
    assert [both["runs"][3][1], both["k-means"][2][1]] == pytest.approx([far, near], abs=6e-4)


def test_20_the_methods_that_are_said_to_be_slower_are(book):
    book.says(r"(top-k and centroids with a budget) are \(several times on the CPUs of our tests\)")
    q, k, v = first_tokens(book.cell("05").layer, 2048)
    x = q[:, :3], k[:, :1], v[:, :1]

    def seconds(method):
        begin = time.process_time()
        method(*x)
        return time.process_time() - begin

    exact = min(seconds(ml.Exact()) for _ in range(3))
    assert all(
        seconds(method) > 1.5 * exact for method in (ml.TopK(keys=128), ml.Centroid(sinks=4, budget=128))
    )
    book.says(r"So is `(near=16)`, with half of the products")
    assert seconds(ml.MuSe(near=16)) > 1.2 * exact
    assert share_of_exact(ml.MuSe(near=16), 2048, heads=9, kv_heads=3) == pytest.approx(0.5, abs=0.01)


def test_20_a_fetched_key_gives_a_quarter_of_a_product_a_byte(book):
    numbers, size, products = book.says(
        r"(\d+) numbers of (\d) bytes for (\d+) products, a quarter of a product a byte"
    )
    assert products / (numbers * size) == 1 / 4
    assert numbers == book.cell("05").k.shape[-1]


def test_29_clusters_and_summaries_alone(book):
    alone, all_ = book.says(
        r"below \$([\d.]+)\\,C\$ tokens that alone is more than exact attention, "
        r"with the reading below \$([\d.]+)\\,C\$"
    )
    whole = operations(ml.MuSe(), 4096, head_size=64) / (4096 * 64 * 64)
    assert (whole - 2, whole) == (2 * alone, 2 * all_)  # against 2 N N D; to read them are 2 of these N C D


def test_22_what_is_not_read_still_counts_in_muse(book):
    (times,) = book.says(r"its error is (\d+) times as large")
    rows = book.cell("21").rows(r"(\d+)% of the attention exactly; error ([\d.]+)")
    muse, many, few, window = rows
    assert many[0] > muse[0] > few[0] > muse[0] - 8
    assert many[1] > muse[1]
    assert few[1] / muse[1] == pytest.approx(times, rel=0.05)
    assert window[0] < few[0]
    assert ml.MuSe(near=4)._partition.size(1024) * 4 * 2 / 3 == 64


def test_23_the_line_that_joins_the_front_is_solid(book):
    book.says(r"The (solid) line joins those that nothing beats")
    figure = front(np.array([1.0, 2.0]), np.array([0.2, 0.1]), ["a", "b"], ["x", "y"], 3.0, 2.5, "a machine")
    lines = [trace for trace in figure.data if "lines" in (trace.mode or "")]
    assert lines
    assert all(trace.line.dash in (None, "solid") for trace in lines)


def test_solution_1_everything_near_costs_more_than_exact(book):
    (cost,) = book.says(r"The cost is (\d+%): clusters are found")
    share, wrong = book.solution(1)[0].value
    assert share == pytest.approx(cost, abs=0.005)
    assert wrong < 1e-10


def test_solution_2_near_clusters_beat_more_clusters_but_not_in_layer_3(book):
    near, more = book.says(r"In layer 3 it is the other way round \(([\d.]+) against ([\d.]+)\)")
    rows = book.solution(2)[0].rows(r"\d+ \d \(([\d.]+), ([\d.]+)\)")
    (most, double), (least, four), _ = rows
    assert least < most
    assert four == pytest.approx(double / 2, rel=0.1)
    doubled = book.cell("11").rows(r"(\d+) clusters: +\d+% .*error ([\d.]+)")[4]
    assert doubled[0] == 128
    assert book.cell("13").points["MuSe"][2][1] < doubled[1]
    x = first_tokens(book.cell("05").sample[3], 2048)
    found = [error(x, ml.MuSe(clusters=64, near=4)), error(x, ml.MuSe(clusters=128))]
    assert found == pytest.approx([near, more], abs=0.005)


def test_solution_3_centroids_need_sinks_more_than_muse(book):
    plain, tilted = book.says(r"Centroids lose (\d+%) of their error with four sinks, MuSe (\d+%)\.")
    rows = book.solution(3)[0].rows(r"\[([\d.]+), [\d.]+, ([\d.]+)\]")
    assert [1 - four / none for none, four in rows] == pytest.approx([plain, tilted], abs=0.006)


def test_solution_4_what_is_lost_without_the_far_values(book):
    book.says(r"so \$(N\\,C\\,2D)\$ products fall away")
    printed = book.solution(4)[0]
    ((zero, left),) = printed.rows(r"tensor\((\S+?)\) tensor\((\S+?)\)")
    assert max(zero, left) < 1e-3
    assert torch.equal(printed.zero, ((1 - printed.f) * printed.near_out - printed.exact).norm(dim=-1))


def test_02_the_error_is_bounded_by_the_far_mass_times_the_largest_distance_of_values(book):
    book.says(r"wrong by at most \$(\(f \+ \|f' - f\|\)\\, \\delta)\$")
    values, generator = torch.randn(60, 8, dtype=torch.double), torch.Generator().manual_seed(0)
    d = torch.cdist(values, values).max()
    for _ in range(200):
        right, wrong = torch.randn(2, 60, dtype=torch.double, generator=generator).mul(2).softmax(1)
        f, other = right[20:].sum(), torch.rand((), dtype=torch.double, generator=generator)
        near = (right[:20] / (1 - f)) @ values[:20]
        guess = (1 - other) * near + other * (wrong[20:] / wrong[20:].sum()) @ values[20:]
        assert (guess - right @ values).norm() <= (f + (other - f).abs()) * d


def test_07_the_heaviest_clusters_are_not_the_nearest(book):
    heavy, nearest = book.says(
        r"the four heaviest clusters hold (\d+)% of the attention of these points, "
        r"the four whose centroids lie nearest to the point hold (\d+)%"
    )
    ran = book.cell("06")
    centroids = ml.kmeans(ran.k, clusters=64, cap=1.5).centroids[0, 0]
    near = torch.cdist(ran.p, centroids).topk(4, 1, largest=False).indices
    held = [ran.mass.topk(4, 1).values.sum(1).mean(), ran.mass.gather(1, near).sum(1).mean()]
    assert [100 * x.item() for x in held] == pytest.approx([heavy, nearest], abs=0.6)


def test_10_what_sharing_near_clusters_costs_and_what_is_missed(book):
    shared, own, hit = book.says(
        r"the shared four hold (\d+)% of a query's attention, where the four best for each single query would hold "
        r"(\d+)%\. There, too, the one heaviest key of a query lies in a shared near cluster in (\d+)% of the cases"
    )
    ran = book.cell("06")
    weights = (ran.sample.scale * ran.q[0, 0] @ ran.k[0, 0].T).softmax(-1)
    mass = torch.zeros(2048, 64).index_add(1, ran.label, weights)
    near = ran.mass.topk(4, 1).indices[ml.kmeans(ran.q, clusters=64).labels[0, 0]]
    best = ran.label[weights.argmax(1)]
    found = [
        mass.gather(1, near).sum(1),
        mass.topk(4, 1).values.sum(1),
        (near == best[:, None]).any(1).float(),
    ]
    assert [100 * x.mean().item() for x in found] == pytest.approx([shared, own, hit], abs=0.6)
    half, rare = book.says(
        r"half of all outputs of the layer are wrong by less than (\d+)% of their length, and one in a hundred by "
        r"more than (\d+)%"
    )
    exact = ml.Exact()(ran.q, ran.k, ran.v)
    wrong = (ml.MuSe(near=4)(ran.q, ran.k, ran.v) - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert 100 * wrong.median() == pytest.approx(half, abs=0.5)
    assert rare < 100 * wrong.flatten().quantile(0.99) < rare + 3


def test_12_the_best_number_of_clusters_with_four_near(book):
    equal, m = book.says(r"alone have \$\\rho = 1\$: (\d+) clusters for \$m = (\d)\$ here")
    assert pytest.approx(equal, abs=0.5) == (m * 2048) ** 0.5
    cluster, read, near, optimum, best = book.says(
        r"a cluster cost \$(\d) N D\$ instead of \$(\d) N D\$, and the cap of 1\.5 a near key "
        r"\$(\d) N D\$: .*? a root of ([\d.]+), and (\d+) "
        r"clusters need the fewest products, for a head with keys of its own"
    )
    counts = {C: operations(ml.MuSe(clusters=C, near=int(m)), 2048) for C in range(8, 257)}
    assert min(counts, key=counts.get) == best
    assert (near / cluster * m * 2048) ** 0.5 == pytest.approx(optimum, abs=0.05)
    keys, C, more_keys, fewer = book.says(r"up to whole keys: (\d+) for (\d+) clusters, (\d+) for (\d+)\)")
    assert (C, fewer) == (best, best - 1)
    for clusters, most in ((C, keys), (fewer, more_keys)):
        assert ml.MuSe(clusters=int(clusters))._partition.size(2048) == most == -(-1.5 * 2048 // clusters)
    assert (near, read) == (ml.MuSe().cap * 2, 2)
    assert operations(ml.MuSe(clusters=65), 2048) - operations(ml.MuSe(), 2048) == cluster * 2048 * 64
    root, taken, more, fewest = book.says(
        r"with \$\\rho = 3/4\$, (\d+), so (\d+): it needs (\d+%) more products than (\d+)\."
    )
    assert fewest == best
    assert (3 / 4 * m * 2048) ** 0.5 == pytest.approx(root, abs=0.5)
    assert ml.MuSe(clusters="auto", near=int(m))._partition.count(2048) == taken
    assert counts[taken] / counts[best] - 1 == pytest.approx(more, abs=0.005)


def test_16_when_a_window_is_good(book):
    good, least, size, bad, most = book.says(
        r"head (\d) of this layer is wrong by ([\d.]+) there with (\d+) neighbours, head (\d) by ([\d.]+) \(notebook 5"
    )
    q, k, v = first_tokens(book.cell("05").layer, 2048)
    exact = ml.Exact()(q, k, v, causal=True)
    wrong = (ml.Window(size=int(size))(q, k, v, causal=True) - exact).square().sum((0, 2, 3))
    wrong = wrong / exact.square().sum((0, 2, 3))
    assert (wrong.argmin(), wrong.argmax()) == (good, bad)
    assert wrong[int(good)].item() == pytest.approx(least, abs=5e-5)
    assert wrong[int(bad)].item() == pytest.approx(most, abs=0.005)


def test_16_the_dipole_needs_more_products_than_near_clusters(book):
    dipole, cost, near, less = book.says(
        r"alone it has ([\d.]+) for (\d+%) of the products, where eight near clusters have ([\d.]+) for (\d+%)"
    )
    x = first_tokens(book.cell("05").layer, 2048)
    for method, said in ((ml.MuSe(order="dipole"), (cost, dipole)), (ml.MuSe(near=8), (less, near))):
        share = share_of_exact(method, 2048, heads=9, kv_heads=3)
        assert (share, error(x, method)) == pytest.approx(said, abs=0.005)


def test_10_what_queries_gain_that_choose_for_themselves(book):
    shared, own, rare, rarer = book.says(
        r"takes the error of the layer from ([\d.]+) to ([\d.]+), and the one in a hundred from (\d+)% to (\d+)%"
    )
    ran = book.cell("06")
    x = ran.q, ran.k, ran.v
    exact = ml.Exact()(*x)
    for choice, wrong, percent in (("cluster", shared, rare), ("query", own, rarer)):
        out = ml.MuSe(near=4, near_for=choice)(*x)
        assert ml.relative_squared_error(out, exact).item() == pytest.approx(wrong, abs=0.001)
        length = ((out - exact).norm(dim=-1) / exact.norm(dim=-1)).flatten()
        assert 100 * length.quantile(0.99).item() == pytest.approx(percent, abs=0.6)


def test_10_to_choose_for_oneself_costs_as_many_products(book):
    (cost,) = book.says(
        r"As many products, (\d+%) of exact attention's; but each query fetches keys of its own"
    )
    for choice in ("cluster", "query"):
        share = share_of_exact(ml.MuSe(near=4, near_for=choice), 2048, heads=9, kv_heads=3)
        assert share == pytest.approx(cost, abs=0.005)


def test_12_a_tolerance_is_a_setting_of_the_cache_alone(book):
    held, name = book.says(r"reading until the keys hold (\d+%) of the attention, say, .*? alone: `(\w+)`")
    assert ml.MultipoleCache(budget=None, top_p=held).settings.top_p == held
    assert not any(name in method.__dataclass_fields__ for method in (ml.MuSe, ml.Centroid, ml.TopK))


def test_22_when_a_far_summary_does_harm(book):
    heads, least, *said, worst, head = book.says(
        r"in none of the (\d+) heads of our three layers\. Without it the error is at least ([\d.]+) times as large\. "
        r".*?: ([\d.]+)% of the outputs of layer 3, ([\d.]+)% of layer 15 and ([\d.]+)% of layer 28 .*?"
        r"The worst head has (\d+)% of them \(head (\d) of layer 15\)"
    )
    times, harmed = [], []
    for number in (3, 15, 28):
        q, k, v = first_tokens(book.cell("05").sample[number], 2048)
        scale, exact, muse = book.cell("05").sample.scale, ml.Exact()(q, k, v), ml.MuSe(near=4)(q, k, v)
        points, labels = ml.kmeans(q, clusters=64), ml.kmeans(k, clusters=64, cap=1.5).labels[0]
        for h in range(9):
            keys, label = k[0, h // 3], labels[h // 3]
            mass = torch.zeros(64, 64).index_add(
                1, label, (scale * points.centroids[0, h] @ keys.T).softmax(1)
            )
            near = mass.topk(4, 1).indices[points.labels[0, h]]
            read = torch.zeros(2048, 64, dtype=torch.bool).scatter(1, near, True)[:, label]
            alone = (scale * q[0, h] @ keys.T).masked_fill(~read, -torch.inf).softmax(1) @ v[0, h // 3]
            kept, dropped = ((x - exact[0, h]).square().sum(1) for x in (muse[0, h], alone))
            times.append((dropped.sum() / kept.sum()).item())
            harmed.append(100 * (kept > dropped).float().mean().item())
    assert (len(times), min(times) > least) == (heads, True)
    assert [np.mean(harmed[i : i + 9]) for i in (0, 9, 18)] == pytest.approx(said, abs=0.15)
    assert (max(harmed), harmed.index(max(harmed))) == (pytest.approx(worst, abs=0.6), 9 + head)


def test_02_what_a_far_cluster_counts_and_how_much_a_query_reads(book):
    book.says(
        r"each of them is (one key of weight \$e\^\{a_j\(p\) \+ s\\,d\\cdot\\tilde k_j\}\$ with the value)"
    )
    clusters, near, part, far = book.says(
        r"With \$C = (\d+)\$ and \$m = (\d)\$ a query reads a (sixteenth) of the keys one by one, in the mean, "
        r"and (\d+) summaries"
    )
    C, m = int(clusters), int(near)
    assert (m / C, C - m, part) == (1 / 16, far, "sixteenth")
    sample = ml.load_sample("smollm2")
    x = [y[:, :1] for y in first_tokens(sample[15], 2048)]
    q, k, v = (y.reshape(C, -1, 64) for y in x)  # runs: clusters that are known without a search
    p = q.mean(1)
    logits = sample.scale * torch.einsum("id,jnd->ijn", p, k)
    mass, tilt = logits.logsumexp(-1), logits.softmax(-1)
    for count in (0, m):
        heaviest, out = mass.topk(count).indices, []
        for i in range(C):
            far_logits = mass[i] + sample.scale * (q[i] - p[i]) @ (tilt[i, :, None] @ k)[:, 0].T
            far_logits[:, heaviest[i]] = -torch.inf
            near_logits = sample.scale * q[i] @ k[heaviest[i]].reshape(-1, 64).T
            values = torch.cat([(tilt[i, :, None] @ v)[:, 0], v[heaviest[i]].reshape(-1, 64)])
            out.append(torch.cat([far_logits, near_logits], 1).softmax(1) @ values)
        found = ml.MuSe(partition="runs", clusters=C, near=count)(*x)[0, 0]
        torch.testing.assert_close(torch.cat(out), found, rtol=0, atol=1e-4)


def test_02_a_pair_takes_two_d_products(book):
    book.says(r"takes (\$D\$ products for the logit and \$D\$ for the value)")
    assert operations(ml.Exact(), 2048, head_size=64) == 2048**2 * (64 + 64)


def test_03_and_07_the_cap_and_what_an_error_means(book):
    cap, largest = book.says(
        r"\(`cap=([\d.]+)`: no cluster has more than one and a half times the mean, here (\d+) keys"
    )
    assert largest == cap * 2048 / 64 == book.cell("06").label.bincount().max()
    error_, part = book.says(r"So ([\d.]+) is wrong by a (tenth) of the length")
    book.says(r"(in each head; and then the mean of the heads)")
    right = torch.randn(1, 2, 5, 64, generator=torch.Generator().manual_seed(0))
    assert ml.relative_squared_error(1.1 * right, right).item() == pytest.approx(error_, rel=1e-4)
    wrong = right * torch.tensor([1.1, 1.3])[:, None, None]
    assert ml.relative_squared_error(wrong, right).item() == pytest.approx((0.1**2 + 0.3**2) / 2, rel=1e-4)
    assert part == "tenth"


def test_28_how_wrong_exactly(book):
    book.says(r"(\\tilde o - o = \(f' - f\)\(o_\{\\text\{far\}\} - o_\{\\text\{near\}\}\) \+ f')")
    book.says(r"makes \$(f' = r f / \(1 - f \+ r f\))\$\. To drop the far field is \$r = 0\$")
    ran = book.cell("05")
    q, k, v = (x[:, :, :512] for x in (ran.q, ran.k, ran.v))
    near, far = (
        ml.Exact()(q, k[:, :, x], v[:, :, x], return_lse=True) for x in (slice(100), slice(100, None))
    )
    o, lse = ml.merge([near, far])
    f = (far[1] - lse).exp()[..., None]
    guess = far[0] + 0.1 * torch.randn(far[0].shape, generator=torch.Generator().manual_seed(0))
    for r in (0.0, 0.5, 2.0):
        mass = far[1] + torch.tensor(r).log()
        taken = ml.merge([near, (guess, mass)])[0]
        other = r * f / (1 - f + r * f)
        wrong = (other - f) * (far[0] - near[0]) + other * (guess - far[0])
        torch.testing.assert_close(taken - o, wrong, rtol=0, atol=2e-5)
    torch.testing.assert_close(near[0] - o, f * (near[0] - far[0]), rtol=0, atol=2e-5)


def by_score(book, number):
    """Errors and shares of exact attention, with four clusters near by each of three scores."""
    q, k, v = first_tokens(book.cell("05").sample[number], 2048)
    scale, exact = book.cell("05").sample.scale, ml.Exact()(q, k, v)
    mine = ml.kmeans(q, clusters=64, cap=1.5, iterations=1).labels[0]
    labels = ml.kmeans(k, clusters=64, cap=1.5, iterations=1).labels[0]
    outs, shares = torch.zeros(3, *exact.shape), torch.zeros(3, 9)
    for h in range(9):
        Q, K, V, label = q[0, h], k[0, h // 3], v[0, h // 3], labels[h // 3]
        one, count = torch.nn.functional.one_hot(label, 64).float(), label.bincount(minlength=64)
        p = torch.zeros(64, 64).index_add(0, mine[h], Q) / mine[h].bincount(minlength=64)[:, None]
        logits = scale * p @ K.T
        inside = logits[:, None] + one.T.log()  # [p, clusters, keys]
        mass, weight = inside.logsumexp(-1), inside.softmax(-1)
        key, value = weight @ K, weight @ V
        plain = scale * p @ (one.T @ K / count[:, None]).T
        far = mass[mine[h]] + scale * torch.einsum("qd,qjd->qj", Q - p[mine[h]], key[mine[h]])
        every = scale * Q @ K.T
        for i, score in enumerate((plain, plain + count.log(), mass)):
            near = torch.zeros(64, 64, dtype=torch.bool).scatter(1, score.topk(4).indices, True)[mine[h]]
            read = near[:, label]
            both = torch.cat([every.masked_fill(~read, -torch.inf), far.masked_fill(near, -torch.inf)], 1)
            weights = both.softmax(1)
            outs[i, 0, h] = weights[:, :2048] @ V + torch.einsum(
                "qj,qjd->qd", weights[:, 2048:], value[mine[h]]
            )
            shares[i, h] = (every.softmax(1) * read).sum(1).mean()
    errors = [ml.relative_squared_error(x, exact).item() for x in outs]
    assert errors[2] == pytest.approx(error((q, k, v), ml.MuSe(near=4)), rel=0.01)
    return errors, shares.mean(1).tolist()


def test_30_by_which_score(book):
    book.says(r"The first knows (neither) how many keys a cluster has nor one that stands out")
    rows = [
        book.says(name + r" \| (\d+%) \| ([\d.]+), ([\d.]+), ([\d.]+) \|")
        for name in (r"cdot c_j\$", r"\\log n_j\$", "the log mass")
    ]
    found = [by_score(book, number) for number in (3, 15, 28)]
    for i, (share, *errors) in enumerate(rows):
        assert found[1][1][i] == pytest.approx(share, abs=0.006)
        assert [wrong[i] for wrong, _ in found] == pytest.approx(errors, abs=0.0006)
    assert rows[0][0] < rows[1][0] < rows[2][0]
    assert len({min(range(3), key=lambda i: wrong[i]) for wrong, _ in found}) > 1  # not one best score


def test_30_where_the_spread_is_large_a_summary_misses_more(book):
    wide, narrow = book.says(
        r"is above 1: there the log mass lacks ([\d.]+) in the median, elsewhere ([\d.]+) \(head 0\)"
    )
    ran = book.cell("06")
    s, k, label, q = ran.sample.scale, ran.k[0, 0], ran.label, ran.q[0, 0]
    mine, spread, missed = ml.kmeans(ran.q, clusters=64).labels[0, 0], [], []
    for i in range(64):
        d = q[mine == i] - ran.p[i]
        for j in range(64):
            keys = k[label == j]
            logits = s * keys @ ran.p[i]
            w = logits.softmax(0)
            apart = keys - w @ keys
            spread.append(s * ((d @ apart.T) ** 2 @ w).sqrt())
            guess = logits.logsumexp(0) + s * d @ (w @ keys)
            missed.append((s * q[mine == i] @ keys.T).logsumexp(1) - guess)
    spread, missed = torch.cat(spread), torch.cat(missed)
    found = missed[spread > 1].median().item(), missed[spread < 1].median().item()
    assert found == pytest.approx((wide, narrow), abs=0.006)


def test_31_at_the_best_number_a_query_reads_twice_the_root(book):
    once, twice = book.says(
        r"a query reads \$2\\sqrt\{mN\}\$ keys and summaries, (\d+) here\. .*?\$, (\d+)\. Notebook"
    )
    m, N = 4, 2048
    assert min(c + m * N / c for c in range(1, N)) == pytest.approx(once, abs=0.5)
    least = min(x + m * y / x + m * N / y for x in range(1, 200) for y in range(x, N))
    assert least == pytest.approx(twice, abs=0.5)
    assert 3 * (m**2 * N) ** (1 / 3) == pytest.approx(twice, abs=0.5)


def test_32_what_speaks_for_each_budget(book):
    book.says(
        r"its cost (varies) with their sizes\. A number of keys bounds the cost\. A share of the mass follows"
    )
    ran = book.cell("06")
    sizes = ran.label.bincount(minlength=64)
    read = sizes[ran.mass.topk(4, 1).indices].sum(1)
    assert read.max() > 1.2 * read.min()
    needed = (ran.mass.sort(1, descending=True).values.cumsum(1) < 0.9).sum(1) + 1
    assert needed.max() > 4 * needed.min()
    assert ml.MultipoleCache(budget=None, top_p=0.9).settings.budget is None  # the cost is open


def test_27_summaries_weigh_too_little(book):
    book.says(
        r"One bias remains: a summary weighs too (little), notebook 3, so near keys get a little too much"
    )
    ran = book.cell("06")
    mine, lacks = ml.kmeans(ran.q, clusters=64).labels[0, 0], []
    for j in range(0, 64, 8):
        keys = ran.k[0, 0, ran.label == j]
        logits = ran.sample.scale * ran.p @ keys.T  # [64, n]
        tilt = logits.softmax(1) @ keys
        guess = logits.logsumexp(1)[mine]
        guess = guess + ran.sample.scale * ((ran.q[0, 0] - ran.p[mine]) * tilt[mine]).sum(1)
        lacks.append((ran.sample.scale * ran.q[0, 0] @ keys.T).logsumexp(1) - guess)
    assert torch.stack(lacks).min() > -1e-4
    assert torch.stack(lacks).mean() > 0.05

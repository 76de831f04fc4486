"""What the tour says, computed; numbers are those of cells."""

import numpy as np
import pytest
import torch
from claims import Notebook

import multipole_lab as ml
from multipole_lab.bench.recorded import record
from multipole_lab.clustering import inertia
from multipole_lab.lessons.matrices import Cells, exact_pairs
from multipole_lab.measure import operations, share_of_exact
from multipole_lab.measure.heads import one_head


@pytest.fixture(scope="module")
def book():
    return Notebook("00", without=("21",))


def test_02_three_of_thirty_layers_nine_heads_and_three_key_heads(book):
    book.says(r"You have (three) of its 30 layers: an early, a middle and a late one")
    sample = book.cell("01").sample
    assert len(sample.layers) == 3
    assert sample.layers[0] < 10 <= sample.layers[1] < 20 <= sample.layers[2] < 30
    assert (sample[15].q.shape[1], sample[15].k.shape[1]) == (9, 3)


def test_07_few_pairs_are_summed_one_by_one_and_the_error_is_small(book):
    clusters, near, percent, error = book.says(
        r"With (\d+) clusters, of which each query sums (\d+) key by key, (\d+)% of the pairs are summed one by one, "
        r"and the error is ([\d.]+) \(as the panel opens: head 0 of layer 15, 2,048 tokens, full attention\)"
    )
    state = ml.panels.matrix(book.cell("01").sample).state()
    assert (state["layer"], state["head"], state["context"], state["attention"]) == (15, 0, 2048, "full")
    q, k, v = one_head(book.cell("01").sample[15], 0, 2048)  # what the panel begins with
    method, all_in_one = ml.MuSe(clusters=int(clusters), near=int(near)), np.zeros(2048, int)
    summed, pairs = exact_pairs(method, q, k, Cells(all_in_one, all_in_one, 1), False, 1 / 8)
    assert 100 * summed.item() / pairs.item() == pytest.approx(percent, abs=0.5)
    assert ml.relative_squared_error(method(q, k, v), ml.Exact()(q, k, v)).item() == pytest.approx(
        error, abs=0.005
    )


def test_08_the_cap_bounds_clusters(book):
    book.says(r"(`cap=1\.5`) lets no cluster grow beyond one and a half times the average")
    counts = book.cell("09").value
    assert counts.max() <= 1.5 * 4096 / 64
    assert counts.sum() == 4096


def test_12_the_toy_has_sixteen_keys_and_p_sees_one_cluster_more(book):
    keys, clusters = book.says(r"we can draw it all: (\d+) keys in (\d+) clusters")
    toy = book.cell("13").keys
    assert (len(toy.keys), toy.clusters) == (keys, clusters)
    origin, p = book.cell("13").rows(r"log masses are \[([\d.]+) +([\d.]+)\]")
    number, eight, large, small, times = book.says(
        r"the log mass of (\d) keys is \$\\log 8 = ([\d.]+)\$; .*? weighs \$e\^\{([\d.]+) - ([\d.]+)\} \\approx (\d+)\$"
    )
    assert (toy.labels == 0).sum() == (toy.labels == 1).sum() == number
    assert origin == (eight, eight)
    assert p == (large, small)
    assert round(np.exp(p[0] - p[1])) == times
    assert np.log(number) == pytest.approx(eight, abs=0.005)


def test_19_each_step_has_less_error(book):
    said = book.says(
        r"on the layer above ([\d.]+), ([\d.]+), ([\d.]+), and with four near clusters ([\d.]+?)\. "
    )
    printed = book.cell("17").column(r"([\d.]+)\n")
    assert printed == pytest.approx(said, abs=0.005)
    assert list(said) == sorted(said, reverse=True)
    assert printed[3] < printed[1] / 2
    assert all(method.clusters == 64 for method in book.cell("17").methods)


def test_19_the_table_of_choices_is_what_the_methods_are(book):
    book.says(r"Every method here is the same expansion\. You choose (four) things")
    assert (ml.MuSe().partition, ml.MuSe().order, ml.MuSe().near) == ("kmeans", "monopole", 0)
    assert (ml.Centroid().partition, ml.Centroid().budget, ml.Centroid().sinks) == ("kmeans", 0, 0)


def test_24_which_paper_is_which_method(book):
    muse, centroid, cache = book.says(
        r"queries and keys, each for itself; tilted means, .*? a whole text at once \| `ml\.(\w+)` \|.*? keys; plain "
        r"means \| the clusters that weigh most for the query \| a model that writes \| `ml\.(\w+)`, .*? `ml\.(\w+)`"
    )
    for name, paper in ((muse, "2509.10406"), (centroid, "2506.13059"), (cache, "2506.13059")):
        assert paper in getattr(ml, name).__doc__
    q, k, v = (x[:, :, :512] for x in (book.cell("17").q, book.cell("17").k, book.cell("17").v))
    exact = ml.Exact()(q, k, v, causal=True)
    wrong = (ml.MuSe(leaf=128)(q, k, v, causal=True) - exact).norm(dim=-1).amax((0, 1))
    assert wrong[:128].max() < 1e-4 < wrong[128:].max()  # the block on the diagonal
    full = ml.Exact()(q, k, v)
    bought = [ml.relative_squared_error(ml.Centroid(budget=n)(q, k, v), full) for n in (0, 64, 512)]
    assert bought[0] > bought[1] > bought[2]
    assert bought[2] < 1e-9


def test_08_the_scale_and_a_summary_that_mixes_before_and_after(book):
    (numbers,) = book.says(r"\$1/\\sqrt D\$, where a query and a key have \$D\$ numbers, (\d+) in this model")
    sample = book.cell("01").sample
    assert sample[15].q.shape[-1] == sample[15].k.shape[-1] == numbers
    assert sample.scale == numbers**-0.5
    book.says(r"it (mixes) keys before the query with keys after it")
    labels = ml.kmeans(sample[15].k, clusters=64, cap=1.5).labels[0, 0]
    early, late = (set(part.tolist()) for part in (labels[:2048], labels[2048:]))
    assert early & late  # for a query in the middle


def test_12_the_value_of_the_monopole(book):
    book.says(r"\$\\tilde v_j\(p\) = (\\sum_\{n \\in j\} w_n v_n)\$")
    toy = book.cell("13").keys
    p = np.array([1.2, 0.8])
    found = book.cell("13").toy.moments(toy, p)
    w = np.exp(toy.keys @ p)
    for j in range(toy.clusters):
        here = toy.labels == j
        assert found.value[j] == pytest.approx(w[here] @ toy.values[here] / w[here].sum())


def test_19_and_24_near_clusters_buy_more_than_the_dipole(book):
    near, dipole, plain = book.says(
        r"four near clusters need (\d+%) of exact attention's products .*? here, the dipole (\d+%), and plain "
        r"`MuSe` (\d+%)"
    )

    def point(layer, method):
        q, k, v = (x[:, :, :2048] for x in (layer.q, layer.k, layer.v))
        wrong = ml.relative_squared_error(method(q, k, v), ml.Exact()(q, k, v)).item()
        return share_of_exact(method, 2048, heads=9, kv_heads=3), wrong

    sample = book.cell("01").sample
    methods = ml.MuSe(near=4), ml.MuSe(order="dipole"), ml.MuSe()
    shares, errors = zip(*(point(sample[15], method) for method in methods), strict=True)
    assert shares == pytest.approx([near, dipole, plain], abs=0.005)
    assert errors[0] < errors[1] < errors[2]
    book.says(
        r"`near=(8)` has less error than `near=4` with a dipole, for fewer products, in each of the three"
    )
    for number in sample.layers:
        (cost, wrong), (more, other) = (
            point(sample[number], m) for m in (ml.MuSe(near=8), ml.MuSe(order="dipole", near=4))
        )
        assert cost < more
        assert wrong < other


def test_20_what_near_clusters_cost(book):
    near, clusters, part, most = book.says(
        r"with (\d) of (\d+) clusters a (sixteenth) of exact attention at any length, and up to ([\d.]+) times that"
    )
    assert (near / clusters, part) == (1 / 16, "sixteenth")
    for n in (2048, 4096, 8192):
        added = operations(ml.MuSe(near=int(near)), n) - operations(ml.MuSe(), n)
        assert added / operations(ml.Exact(), n) == pytest.approx(most / 16, rel=0.02)


def test_12_at_the_origin_the_log_mass_is_the_log_of_the_count(book):
    book.says(r"the log mass is \$(\\log n_j)\$: the mean counts as the \$n_j\$ keys")
    toy = book.cell("13").keys
    counts = np.bincount(toy.labels)
    assert np.allclose(book.cell("13").toy.moments(toy, np.zeros(2)).mass, np.log(counts))


def test_16_zeros_have_an_error_of_one(book):
    book.says(r"an error of 1 is as wrong as an output of (zeros)")
    v = book.cell("01").sample[15].v[:, :, :64].float()
    assert ml.relative_squared_error(v * 0, v).item() == 1


def test_19_more_clusters_lower_the_error_and_cost_more(book):
    more, few, before, after, cost, most = book.says(
        r"(\d+) instead of (\d+) take plain `MuSe` from ([\d.]+) to ([\d.]+) and from (\d+%) to (\d+%) of the"
    )
    layer = book.cell("01").sample[15]
    q, k, v = (x[:, :, :2048] for x in (layer.q, layer.k, layer.v))
    exact = ml.Exact()(q, k, v)
    for clusters, error, share in ((few, before, cost), (more, after, most)):
        method = ml.MuSe(clusters=int(clusters))
        assert ml.relative_squared_error(method(q, k, v), exact).item() == pytest.approx(error, abs=0.005)
        assert share_of_exact(method, 2048, heads=9, kv_heads=3) == pytest.approx(share, abs=0.005)
    terms, price = book.says(
        r"each cluster costs the same \(\$(\d) N D\$ up to constants in section 4, "
        r"\$(\d) N D\$ with them in notebook 4\)"
    )
    assert book.says(r"is cheaper where \$(\d)C \+ mN/C\$") == (terms,)
    counts = [operations(ml.MuSe(clusters=clusters), 2048, head_size=64) for clusters in (64, 65, 128)]
    assert (counts[1] - counts[0], counts[2] - counts[0]) == (price * 2048 * 64, 64 * price * 2048 * 64)


def test_20_what_k_means_costs(book):
    book.says(
        r"K-means costs \$N C D\$ for each (iteration and each side), .*? once more to begin; `MuSe` does one"
    )
    assert ml.MuSe().iterations == 1
    none, one, two, only_keys = (
        operations(method, 2048, head_size=64) / (2048 * 64 * 64)
        for method in (ml.MuSe(partition="runs"), ml.MuSe(), ml.MuSe(iterations=2), ml.MuSe(query_clusters=1))
    )
    assert (two - one, one - none) == (2, 2 * 2)  # two sides; one iteration and the beginning
    assert one > only_keys


def test_23_from_which_length_on_it_pays(book):
    found = book.says(
        r"AMD EPYC between ([\d,]+) and ([\d,]+) tokens; on an H100, .*? between ([\d,]+) and ([\d,]+)\. Causal .*? "
        r"that CPU at about ([\d,]+) tokens, on an H200 .*? near ([\d,]+), in an "
        r"earlier record of the H100 .*? between ([\d,]+) and ([\d,]+) \("
    )
    earlier = record("h100-causal-8x64")
    gains = {row["n"]: row["speedup"] for row in earlier["rows"]}
    assert gains[found[6]] < 1 < gains[found[7]]
    assert all("cap=None" in row["method"] and row["graphs"] for row in earlier["rows"])
    later = record("h200-muse-causal-8x64-called")
    assert {(row["method"], row["graphs"]) for row in later["rows"]} == {("MuSe()", False)}
    assert ml.MuSe().cap is not None
    assert earlier["date"] < min(record("h200-causal")["date"], later["date"])
    names = "cpu-muse-short-8x64", "h100-attention-8x64", "cpu-muse-causal-8x64"
    cpu, gpu, causal = ({row["n"]: row["speedup"] for row in record(name)["rows"]} for name in names)
    call = {
        (row["n"], row["method"]): row["call_ms"]
        for row in record("h200-causal")["rows"]
        if row["batch"] == 1 and not row["backward"]
    }
    h200 = [call[n, "exact"] / call[n, "MuSe()"] for n in (8192, found[5])]
    other = {row["n"]: row["speedup"] for row in record("h200-muse-causal-8x64-called")["rows"]}
    assert max(h200[0], other[8192]) < 0.6
    assert other[found[5]] < 1 < h200[1] < 1.2  # two runs, one on either side
    for speedups, (short, long) in ((cpu, found[:2]), (gpu, found[2:4])):
        assert speedups[short] < 1 < speedups[long]
    assert causal[found[4]] == pytest.approx(1, abs=0.05)
    assert "cap=None" in record("h100-attention-8x64")["rows"][0]["method"]


def test_12_the_output_is_a_softmax_over_clusters(book):
    book.says(r"over \$(C)\$ clusters instead of \$N\$ keys, with the tangents for the log masses")
    toy, case, p = book.cell("13").toy, book.cell("13").keys, np.array([1.2, 0.8])
    queries = np.array([[1.5, 0.2], [0.3, 1.0]])
    found = toy.moments(case, p)
    weights = np.exp(found.mass + (queries - p) @ found.key.T)  # [2, C]
    made = weights @ found.value / weights.sum(1)
    assert made == pytest.approx(toy.expand(case, p, queries, "monopole").output)


def test_15_in_a_tight_cluster_both_points_agree(book):
    book.says(
        r"In a (tight) cluster a query weighs all keys about alike, so the tilted mean is the plain one"
    )
    toy, p = book.cell("13").toy, np.array([1.2, 0.8])
    gaps = []
    for spread in (0.05, 0.8):
        case = toy.make_toy(clusters=2, spread=spread)
        plain, tilted = toy.moments(case, np.zeros(2)).key, toy.moments(case, p).key
        gaps.append(np.linalg.norm(tilted - plain, axis=1).max())
    assert gaps[0] < 0.01 < 0.3 < gaps[1]


def test_16_queries_are_near_their_centroids_and_far_from_the_origin(book):
    own, origin = book.says(r"a query is ([\d.]+) away from its \$p\$ in the mean and ([\d.]+) from the")
    book.says(r"fewer than one in a (thousand) is nearer to the origin")
    q = book.cell("17").q
    found = ml.kmeans(q, clusters=64, cap=1.5, iterations=ml.MuSe().iterations)
    p = found.centroids.gather(2, found.labels[..., None].expand_as(q))
    apart, length = (q - p).norm(dim=-1), q.norm(dim=-1)
    assert (apart.mean().item(), length.mean().item()) == pytest.approx((own, origin), abs=0.05)
    assert 0 < (length < apart).float().mean() < 1e-3


def test_19_with_all_clusters_near_it_is_exact_and_costs_more(book):
    near, share = book.says(
        r"with all (\d+) clusters near .*? the result is exact, for (\d+%) of the products"
    )
    ran, method = book.cell("17"), ml.MuSe(near=int(near))
    assert ml.relative_squared_error(method(ran.q, ran.k, ran.v), ran.exact).item() < 1e-12
    assert share_of_exact(method, 2048, heads=9, kv_heads=3) == pytest.approx(share, abs=0.005)


def test_24_causal_is_an_argument_and_looks_at_nothing_later(book):
    book.says(r"near=4\)\(q, k, v\) # (causal=True) for a model that reads from left to right")
    q, k, v = (x[:, :, :512] for x in (book.cell("17").q, book.cell("17").k, book.cell("17").v))
    method = ml.MuSe(clusters=64, near=4, leaf=128)
    changed = v.clone()
    changed[:, :, 300:] += 1
    before, after = (method(q, k, x, causal=True)[:, :, :300] for x in (v, changed))
    assert torch.equal(before, after)


def clusters_of(book):
    """Labels of keys and of queries, and the queries' centroids, as the methods of cell 17 have them."""
    ran = book.cell("17")
    found = ml.kmeans(ran.q, clusters=64, cap=1.5, iterations=1)
    return ran, ml.kmeans(ran.k, clusters=64, cap=1.5, iterations=1).labels[0], found


def test_25_weights_grow_with_the_product_and_share_a_fixed_total(book):
    book.says(
        r"a weight (grows) with \$q\\cdot k\$, and softmax shares out a fixed total, so what one key gains"
    )
    logits = torch.randn(9, generator=torch.Generator().manual_seed(0))
    before, after = logits.softmax(0), (logits + torch.eye(9)[0]).softmax(0)
    assert after[0] > before[0]
    assert (after[1:] < before[1:]).all()
    assert after.sum() == pytest.approx(before.sum())


def test_25_a_gaussian_cloud_hardly_clusters(book):
    made, real = book.says(
        r"covariance ([\d.]+) of the spread .*? head 0 in layer 15 ([\d.]+) \(notebook 2\)"
    )
    k = book.cell("09").k
    keys = k[0, 0]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cloud = torch.distributions.MultivariateNormal(keys.mean(0), torch.cov(keys.T)).sample((4096,))
    for x, said in ((cloud, made), (keys, real)):
        x = x[None, None]
        left = inertia(x, ml.kmeans(x, clusters=64, iterations=5)) / inertia(x, ml.kmeans(x, clusters=1))
        assert left.item() == pytest.approx(said, abs=0.01)


def test_27_what_a_forgotten_count_costs(book):
    wrong, right, beside, counted = book.says(
        r"the count \$n_j\$ \| ([\d.]+), not ([\d.]+); .*? summed key by key ([\d.]+), not ([\d.]+) \|"
    )
    ran, labels, _ = clusters_of(book)
    found = {}
    for count in (True, False):
        alone, mixed = torch.zeros_like(ran.exact), torch.zeros_like(ran.exact)
        for h in range(9):
            q, k, v, label = ran.q[0, h], ran.k[0, h // 3], ran.v[0, h // 3], labels[h // 3]
            n = label.bincount(minlength=64).float()
            one = torch.nn.functional.one_hot(label, 64).float() / n[label, None]
            logits, logits_, v_ = book.cell("01").sample.scale * q @ k.T, q @ (one.T @ k).T / 8, one.T @ v
            heavy = torch.zeros(2048, 64, dtype=torch.bool).scatter(
                1, (logits_ + n.log()).topk(4).indices, True
            )
            logits_ = logits_ + count * n.log()
            alone[0, h] = logits_.softmax(1) @ v_
            parts = logits.masked_fill(~heavy[:, label], -torch.inf), logits_.masked_fill(heavy, -torch.inf)
            mixed[0, h] = torch.cat(parts, 1).softmax(1) @ torch.cat([v, v_])
        found[count] = [ml.relative_squared_error(x, ran.exact).item() for x in (alone, mixed)]
    assert [*found[False], *found[True]] == pytest.approx([wrong, beside, right, counted], abs=0.005)
    method = ml.relative_squared_error(ml.Centroid()(ran.q, ran.k, ran.v), ran.exact).item()
    assert method == pytest.approx(found[True][0], rel=1e-3)  # these are its clusters


def test_27_what_is_lost_if_the_rest_is_dropped(book):
    said, kept = book.says(r"drops the rest instead of summing it up \| ([\d.]+), not ([\d.]+) \|")
    ran, labels, queries = clusters_of(book)
    alone, scale = torch.zeros_like(ran.exact), book.cell("01").sample.scale
    for h in range(9):
        label, mine = labels[h // 3], queries.labels[0, h]
        sums = torch.zeros(64, 64).index_add(0, mine, ran.q[0, h])
        p = sums / mine.bincount(minlength=64)[:, None]
        mass = torch.zeros(64, 64).index_add(1, label, (scale * p @ ran.k[0, h // 3].T).softmax(1))
        read = torch.zeros(64, 64, dtype=torch.bool).scatter(1, mass.topk(4, 1).indices, True)[mine][:, label]
        logits = (scale * ran.q[0, h] @ ran.k[0, h // 3].T).masked_fill(~read, -torch.inf)
        alone[0, h] = logits.softmax(1) @ ran.v[0, h // 3]
    assert ml.relative_squared_error(alone, ran.exact).item() == pytest.approx(said, abs=0.005)
    assert book.cell("17").column(r"([\d.]+)\n")[3] == pytest.approx(kept, abs=0.005)


def test_27_runs_cost_nothing_to_find_and_are_worse(book):
    runs, clusters = book.says(r"runs of neighbours on both sides \| ([\d.]+), not ([\d.]+) \|")
    ran = book.cell("17")
    wrong = ml.relative_squared_error(ml.MuSe(partition="runs")(ran.q, ran.k, ran.v), ran.exact).item()
    assert wrong == pytest.approx(runs, abs=0.005)
    assert ran.column(r"([\d.]+)\n")[1] == pytest.approx(clusters, abs=0.005)
    spans = [
        (ml.kmeans(ran.k, clusters=64, cap=1.5).labels[0, 0] == j).nonzero().flatten() for j in range(64)
    ]
    book.says(r"the members of (most) do not stand side by side")
    assert np.mean([(x.max() - x.min() > len(x) - 1).item() for x in spans]) > 0.5  # have gaps


def test_20_when_it_is_cheaper(book):
    times, *_ = book.says(
        r"needs fewer products from about \$([\d.]+)\\,C\$ tokens on \(a head with keys of (its)"
    )
    book.says(r"(Causal attention has half of the pairs): there it pays later")
    assert (
        share_of_exact(ml.MuSe(), int(0.97 * times * 64))
        > 1
        > share_of_exact(ml.MuSe(), int(1.03 * times * 64))
    )
    causal = operations(ml.Exact(), 4096, causal=True) / operations(ml.Exact(), 4096)
    assert causal == pytest.approx(0.5, abs=0.001)
    assert share_of_exact(ml.MuSe(), 4096, causal=True) > 2 * share_of_exact(ml.MuSe(), 4096)


def test_29_hard_heads_and_a_hidden_key(book):
    good, easy, bad, hard = book.says(r"wrong by ([\d.]+%) in head (\d) and by (\d+%) in head (\d)\.")
    ran = book.cell("17")
    wrong = (ml.MuSe()(ran.q, ran.k, ran.v) - ran.exact).square().sum((0, 2, 3))
    wrong /= ran.exact.square().sum((0, 2, 3))
    assert (wrong.argmin(), wrong.argmax()) == (easy, hard)
    assert [wrong[int(easy)].item(), wrong[int(hard)].item()] == pytest.approx([good, bad], rel=0.05)
    book.says(r"(a summary can hide it) \(notebook 4\)")
    keys, query = torch.zeros(32, 2), torch.tensor([0.0, 8.0])
    keys[0, 1] = 1.0  # one of 32 keys of a cluster, and nearly all of its weight
    assert (keys @ query).softmax(0)[0] > 0.98
    assert (keys.mean(0) @ query + np.log(32)).exp() < 0.02 * (keys @ query).exp().sum()

"""What notebook 03 says about monopoles and dipoles, computed; numbers are those of cells and exercises."""

import re

import numpy as np
import pytest
import torch
from claims import Notebook

import multipole_lab as ml
from multipole_lab.lessons import toy
from multipole_lab.measure import share_of_exact
from multipole_lab.method_text import parse_method


@pytest.fixture(scope="module")
def book():
    return Notebook("03")


def slopes(potential):
    """Powers of the distance with which the error of charges falls, monopole and dipole."""
    angle, distances = np.linspace(0, 2 * np.pi, 60, endpoint=False), np.geomspace(16, 256, 9)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    found = [potential(d * circle) for d in distances]
    errors = [[np.abs(x - f[0]).mean() for x in f[1:]] for f in found]
    return np.polyfit(np.log(distances), np.log(errors), 1)[0]


def test_11_each_term_gains_one_power_of_the_distance(book):
    book.says(r"(Each term we keep) makes the error fall off one power faster")
    assert book.cell("10").slopes == pytest.approx([-2, -3], abs=0.1)


def test_12_the_dipole_is_the_gradient_of_the_mean_value(book):
    book.says(r"(\\nabla w_n = s\\,w_n\\,\(k_n - \\tilde k_j\))")
    ran = book.cell("15")

    def value_at(x):
        return (ran.s * ran.k @ x).softmax(0) @ ran.v

    slope = torch.autograd.functional.jacobian(value_at, ran.p)
    torch.testing.assert_close(slope, ran.s * ran.summary(ran.p)[3], rtol=1e-8, atol=1e-10)
    weights = torch.autograd.functional.jacobian(lambda x: (ran.s * ran.k @ x).softmax(0), ran.p)
    w = (ran.s * ran.k @ ran.p).softmax(0)
    torch.testing.assert_close(weights, ran.s * w[:, None] * (ran.k - w @ ran.k), rtol=1e-8, atol=1e-10)


def test_19_one_more_term_one_more_power(book):
    book.says(
        r"its error should fall as \$(t\^2)\$; that of the output as \$t\$ for the monopole, and as \$t\^2\$ with"
    )
    assert book.cell("21").slopes == pytest.approx([2, 1, 2], abs=0.1)


def test_25_rank_8_gives_three_quarters(book):
    rank, part = book.says(r"Rank (\d) gives (three quarters) of what all 64 directions give")
    wrong = dict(
        zip(("origin", "tilted", 2, 8, 32, 64), book.cell("24").column(r"error ([\d.]+)"), strict=True)
    )
    assert part == "three quarters"
    assert (wrong["tilted"] - wrong[rank]) / (wrong["tilted"] - wrong[64]) == pytest.approx(0.75, abs=0.03)
    assert wrong["origin"] > 4 * wrong["tilted"]


def test_25_the_pair_gains_much_and_the_layer_little(book):
    times, part = book.says(
        r"it made the error ([\d.]+) times smaller, for the whole layer it takes off (\d+%)"
    )
    _, tilted, dipole = book.cell("18").column(r"error ([\d.]+)")
    assert tilted / dipole == pytest.approx(times, abs=0.05)
    wrong = book.cell("24").column(r"error ([\d.]+)")
    assert 1 - wrong[3] / wrong[1] == pytest.approx(part, abs=0.01)


def test_29_the_dipole_gains_where_the_output_changes_inside_clusters(book):
    book.says(r"In heads 6 and 7 (a twentieth) of the step is within clusters, and the dipole gains a tenth")
    low, high = book.says(r"In the others it is more, and the dipole gains ([\d.]+) to ([\d.]+) times")
    rows = {
        head: (part, gain)
        for head, part, gain in book.cell("28").rows(r"head (\d): within (\d+)%.*error ([\d.]+)")
    }
    few, others = [rows.pop(head) for head in (6, 7)], list(rows.values())
    assert all(3 <= part <= 6 and gain == 1.1 for part, gain in few)
    assert min(part for part, _ in others) > 10
    gains = [gain for _, gain in others]
    assert (min(gains), max(gains)) == (low, high)
    ran = book.cell("28")
    wrong = ran.by_head(ran.ml.MuSe())
    book.says(r"heads 6 and 7 have (most of the error)")
    assert wrong[6:8].sum() > wrong.sum() / 2


def test_29_the_split_of_the_step_is_a_split(book):
    """Within clusters and between them add up, and between is what the monopole's masses do."""
    ran = book.cell("28")
    random = torch.Generator().manual_seed(0)
    w = torch.rand(40, generator=random).softmax(0)
    k, v = torch.randn(2, 40, 64, generator=random)
    label = torch.arange(40) % 5
    cov = [
        (w[:, None] * ran.apart(v, w, at)).T @ ran.apart(k, w, at)
        for at in (label, torch.zeros(40, dtype=int))
    ]
    mass = torch.zeros(5).index_add(0, label, w)
    means = [torch.zeros(5, 64).index_add(0, label, w[:, None] * x) / mass[:, None] - w @ x for x in (v, k)]
    torch.testing.assert_close(cov[0] + (mass[:, None] * means[0]).T @ means[1], cov[1])


def test_31_gradients(book):
    (times,) = book.says(r"Eight near clusters make all of them about (\w+) times better")
    plain, dipole, near = np.array(book.cell("30").rows(r"v: ([\d.]+) ([\d.]+) ([\d.]+)"))
    book.says(r"(Those of the values are the best)")
    assert all(row[2] == row.min() for row in (plain, dipole, near))
    book.says(r"(The dipole makes those of keys and values better), and those of the queries worse here")
    assert dipole[0] > plain[0]
    assert (dipole[1:] < plain[1:]).all()
    assert plain / near == pytest.approx(times, rel=0.12)
    (output,) = book.says(r"These errors are larger than that of the output, ([\d.]+);")
    x = [part.detach() for part in book.cell("30").x]
    exact = ml.Exact()(*x)
    wrong = ((ml.MuSe()(*x) - exact).square().sum() / exact.square().sum()).item()  # of all heads, as above
    assert wrong == pytest.approx(output, abs=0.0006)
    assert plain.min() > wrong
    book.says(r"divided by a sum in which the far mass is (approximate)")


def test_solution_1_the_origin_wins_near_the_origin(book):
    book.says(r"The origin's expansion is (exact at the origin)")
    case, queries = toy.make_toy(), np.array([[0.0, 0.0], [0.1, 0.1]])
    truth = toy.truth(case, queries).output
    here, there = (
        abs(toy.expand(case, np.array(p), queries, "monopole").output - truth)
        for p in ([0.0, 0.0], [2.0, 2.0])
    )
    assert here[0] < 1e-9
    assert (here < there).all()


def test_solution_2_without_a_dipole_the_monopole_falls_with_the_third_power(book):
    (power,) = book.says(r"the monopole alone falls off like distance to the −(\d)")
    ran = book.solution(2)[0]
    assert slopes(ran.potential) == pytest.approx([-power, -power], abs=0.1)


def test_solution_3_the_gradient_of_the_log_mass_is_the_tilted_key(book):
    assert book.solution(3)[0].value.item() < 1e-10


def test_solution_4_the_second_order_is_a_covariance(book):
    book.says(r"\\Sigma_j = (\\sum w_n \(k_n - \\tilde k_j\)\(k_n - \\tilde k_j\)\^\\top)")
    ran = book.cell("15")
    bend = torch.autograd.functional.hessian(lambda x: (ran.s * ran.k @ x).logsumexp(0), ran.p)
    w = (ran.s * ran.k @ ran.p).softmax(0)
    apart = ran.k - w @ ran.k
    torch.testing.assert_close(bend, ran.s**2 * (w[:, None] * apart).T @ apart, rtol=1e-8, atol=1e-10)
    near_first, near_second, far_first, far_second = book.says(
        r"wrong by ([\d.]+) with the first order and by ([\d.]+) with .*? it is ([\d.]+) and ([\d.]+): better"
    )
    near, far = book.solution(4)[0].rows(r"\d (\S+) (\S+)\n(?!$)")[:2]
    assert near == pytest.approx((near_first, near_second), abs=0.005)
    assert far == pytest.approx((far_first, far_second), abs=0.05)


def test_19_how_far_is_far(book):
    (said,) = book.says(r"For the pair above it is ([\d.]+) \(root of the mean square over the queries\)")
    ran = book.cell("18")
    changes = ran.s * ran.d @ ran.k.T  # of the logits, [m, n]
    w = (ran.s * ran.k @ ran.p).softmax(0)
    deviation = (changes.square() @ w - (changes @ w).square()).clamp(min=0)
    assert deviation.mean().sqrt().item() == pytest.approx(said, abs=0.05)
    assert book.solution(4)[0].column(r"how far: (\S+)")[0] == pytest.approx(deviation.mean().sqrt().item())


def test_25_at_equal_cost_the_dipole_loses(book):
    cell = next(cell.source for cell in book.cells if cell.id.endswith("-25"))
    rows = re.findall(r"^\| `(MuSe\(.*?\))`.*? \| (\d+)% \| ([\d.]+) \|$", cell, flags=re.M)
    assert len(rows) == 6
    sample = book.cell("14").sample
    for number in sample.layers:
        q, k, v = (x[:, :, :2048] for x in (sample[number].q, sample[number].k, sample[number].v))
        exact, points = ml.Exact()(q, k, v), {}
        for line, percent, error in rows:
            method = parse_method(line)
            share = share_of_exact(method, 2048, heads=9, kv_heads=3)
            wrong = ml.relative_squared_error(method(q, k, v), exact).item()
            points[line] = share, wrong
            assert 100 * share == pytest.approx(float(percent), abs=0.5)
            assert number != 15 or wrong == pytest.approx(float(error), abs=0.0006)
        for better, worse in (
            ("MuSe(near=4)", 'MuSe(order="dipole")'),
            ("MuSe(near=8)", 'MuSe(order="dipole", near=4)'),
        ):
            assert points[better][0] < points[worse][0]
            assert points[better][1] < points[worse][1]
    book.says(r"(four near clusters beat the dipole alone), and eight beat the dipole with four")


def test_29_the_share_does_not_order_the_gain(book):
    head, share, gain, other, less, more = book.says(
        r"head (\d) has the largest share, (\d+%), and gains ([\d.]+) times; head (\d) has (\d+%) and gains ([\d.]+) "
    )
    rows = {
        int(h): (part / 100, times)
        for h, part, times in book.cell("28").rows(r"head (\d): within (\d+)%.*error ([\d.]+)")
    }
    assert max(rows.values())[0] == rows[head][0]
    assert (rows[head], rows[other]) == ((share, gain), (less, more))


def test_12_at_the_origin_the_mean_counts_as_all_keys(book):
    book.says(r"the log mass is \$\\log (n_j)\$")
    ran = book.cell("22")
    logits = ran.s * ran.k @ torch.zeros_like(ran.p)
    assert logits.logsumexp(0).item() == pytest.approx(np.log(len(ran.k)))
    torch.testing.assert_close(logits.softmax(0) @ ran.k, ran.k.mean(0))


def test_23_the_dipole_overshoots_far_from_its_point(book):
    *said, far_mono, far_dip = book.says(
        r"the relative squared errors are ([\d.]+) without and ([\d.]+) with the dipole where the real queries are; "
        r"three times as far away they are ([\d.]+) and ([\d.]+)\."
    )
    ran = book.cell("22")
    for t, wanted in ((1, said), (3, (far_mono, far_dip))):
        exact = (ran.s * (ran.p + t * ran.d) @ ran.k.T).softmax(1) @ ran.v
        value = ran.names["value"]
        guesses = value, value + ran.s * t * ran.d @ ran.M.T
        errors = [((guess - exact).square().sum() / exact.square().sum()).item() for guess in guesses]
        assert errors == pytest.approx(wanted, abs=0.006)


def test_23_what_the_dipole_costs(book):
    dipole, monopole = book.says(r"(\d+)% of exact attention's products instead of the monopole's (\d+)%")
    for order, percent in (("dipole", dipole), ("monopole", monopole)):
        share = share_of_exact(ml.MuSe(order=order), 2048, heads=9, kv_heads=3)
        assert 100 * share == pytest.approx(percent, abs=0.5)
    *own, times = book.says(r"A head with keys of its own: (\d+)% and (\d+)%, ([\d.]+) times as many")
    shares = [share_of_exact(ml.MuSe(order=order), 2048) for order in ("dipole", "monopole")]
    assert [100 * share for share in shares] == pytest.approx(own, abs=0.5)
    assert shares[0] / shares[1] == pytest.approx(times, abs=0.05)


def test_31_the_gradient_of_the_values_is_the_weights(book):
    book.says(
        r"they are the softmax (weights) alone, where those of queries and keys have differences of values"
    )
    x = [torch.randn(1, 1, 6, 8).double().requires_grad_() for _ in range(3)]
    upstream = torch.randn(1, 1, 6, 8).double()
    (of_values,) = torch.autograd.grad((ml.Exact()(*x, scale=1.0) * upstream).sum(), x[2])
    torch.testing.assert_close(of_values, (x[0] @ x[1].mT).softmax(-1).mT @ upstream)


def test_12_and_exercise_4_the_slope_and_the_curvature_of_the_log_mass(book):
    book.says(r"(Differentiate the log): \$\\nabla a_j =")
    book.says(
        r"A covariance is never (negative): the log mass is \*convex\* and lies above each of its tangents"
    )
    generator = torch.Generator().manual_seed(0)
    k, p = torch.randn(12, 8, dtype=torch.double, generator=generator), torch.randn(8, dtype=torch.double)
    s = 8**-0.5

    def mass(x):
        return (s * x @ k.T).logsumexp(-1)

    key = (s * k @ p).softmax(0) @ k
    assert torch.allclose(torch.autograd.functional.jacobian(mass, p), s * key)
    d = 3 * torch.randn(500, 8, dtype=torch.double, generator=generator)
    assert (mass(p + d) - (mass(p) + s * d @ key)).min() >= 0


def test_12_a_softmax_over_clusters_of_true_masses_and_values_is_exact(book):
    book.says(r"That is (no approximation) yet: with the true \$a_j\$ and \$v_j\$ it is exact attention")
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(n, 8, dtype=torch.double, generator=generator) for n in (5, 12, 12))
    parts = [slice(0, 3), slice(3, 12)]
    mass = torch.stack([(q @ k[part].T).logsumexp(1) for part in parts], 1)  # [5, 2]
    value = torch.stack([(q @ k[part].T).softmax(1) @ v[part] for part in parts], 1)  # [5, 2, 8]
    torch.testing.assert_close((mass.softmax(1)[..., None] * value).sum(1), (q @ k.T).softmax(1) @ v)


def test_19_the_log_masses_are_too_small(book):
    origin, part, tilted = book.says(
        r"from the origin they are ([\d.]+) too small in the mean, as if the cluster had a (seventh) of its weight; "
        r"tilted, they are ([\d.]+) too small"
    )
    ran = book.cell("18")
    true = (ran.s * ran.q @ ran.k.T).logsumexp(1)
    plain = np.log(len(ran.k)) + ran.s * ran.q @ ran.k.mean(0)
    short = [true - guess for guess in (plain, ran.mass + ran.s * ran.d @ ran.key)]
    assert min(x.min().item() for x in short) >= 0
    assert [x.mean().item() for x in short] == pytest.approx([origin, tilted], abs=0.05)
    assert part == "seventh"
    assert round(short[0].mean().exp().item()) == 7


def test_19_a_cluster_of_equal_keys_is_exact_from_anywhere(book):
    book.says(r"For a cluster of (equal) keys it is 0, and the summary is exact from anywhere")
    ran = book.cell("18")
    k, at = ran.k[:1].expand(9, -1), torch.zeros_like(ran.p)
    w = (ran.s * k @ at).softmax(0)
    key, value = w @ k, w @ ran.v[:9]
    torch.testing.assert_close(np.log(9) + ran.s * ran.q @ key, (ran.s * ran.q @ k.T).logsumexp(1))
    torch.testing.assert_close(value.expand(len(ran.q), -1), (ran.s * ran.q @ k.T).softmax(1) @ ran.v[:9])
    assert ((ran.s * ran.d @ (k - key).T).square() @ w).abs().max() < 1e-12


def test_23_the_dipoles_are_added_with_their_shares_of_the_mass(book):
    book.says(r"each with its (share of the mass) at \$p\$, and keeps the sum")
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, n, 8, generator=generator) for n in (6, 24, 24))
    method = ml.MuSe(clusters=3, query_clusters=1, order="dipole", dipole_rank=None, backend="torch")
    label = ml.kmeans(k, clusters=3, cap=1.5, iterations=1).labels[0, 0]
    s, p = 8**-0.5, q[0, 0].mean(0)
    d = q[0, 0] - p
    mass, key, value, matrix = [], [], [], []
    for j in range(3):
        x, y = k[0, 0, label == j], v[0, 0, label == j]
        w = (s * x @ p).softmax(0)
        mass.append((s * x @ p).logsumexp(0))
        key.append(w @ x)
        value.append(w @ y)
        matrix.append((w[:, None] * (y - value[-1])).T @ (x - key[-1]))
    mass, key, value, matrix = (torch.stack(x) for x in (mass, key, value, matrix))
    whole = (mass.softmax(0)[:, None, None] * matrix).sum(0)
    made = (mass + s * d @ key.T).softmax(1) @ value + s * d @ whole.T
    torch.testing.assert_close(method(q, k, v)[0, 0], made, rtol=1e-4, atol=1e-5)


def test_36_the_dipole_is_zero_where_values_do_not_go_with_keys(book):
    book.says(r"Where values do not go with keys \(their (covariance) is zero\), \$M_j\$ is zero")
    book.says(r"the mean value (moves) towards their values")
    k = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    for v, zero in (([1.0, 1.0, -1.0, -1.0], True), ([1.0, -1.0, 1.0, -1.0], False)):
        v = torch.tensor(v)[:, None]
        w = (0.0 * k[:, 0]).softmax(0)
        M = (w[:, None] * (v - w @ v)).T @ (k - w @ k)
        assert v.std() > 0
        assert (M == 0).all() == zero
        moved = (k @ torch.tensor([0.5, 0.0])).softmax(0) @ v
        assert (moved.abs() < 1e-6) == zero
        assert zero or moved > 0  # towards the values of the keys with k > 0


def test_19_what_far_clusters_lack_exact_ones_get(book):
    book.says(r"they get (too much), the more the wider the cluster and the longer \$d\$")
    ran = book.cell("16")

    def share(width, length):  # of a cluster that is read exactly, too much beside an expanded one
        k = ran.key + width * (ran.k - ran.key)  # wider around the key that it is expanded at
        w = (ran.s * k @ ran.p).softmax(0)
        mass, key = (ran.s * k @ ran.p).logsumexp(0), w @ k
        d = length * (ran.q - ran.p)
        true = (ran.s * (ran.p + d) @ k.T).logsumexp(1)
        lacks = true - (mass + ran.s * d @ key)
        assert (lacks > -1e-9).all()
        near = true  # one of the same weight, read exactly
        return (torch.sigmoid(near - true + lacks) - 0.5).mean().item()

    for shares in ([share(x, 1) for x in (0.25, 0.5, 1)], [share(1, x) for x in (0.25, 0.5, 1)]):
        assert 0 < shares[0] < shares[1] < shares[2]


def test_37_when_a_single_query_pays_more_for_the_dipole(book):
    here, there, size = book.says(
        r"below \$n = D/2 \+ 1\$ keys, (\d+) here and (\d+) for \$D = (\d+)\$, the dipole"
    )
    for n, D in ((here, book.cell("14").k.shape[1]), (there, size)):
        dipole = D**2 + 2 * D
        assert 2 * (n - 1) * D < dipole <= 2 * n * D
        assert book.cell("16").M.numel() == book.cell("14").k.shape[1] ** 2


def test_solution_4_a_gaussian_cluster(book):
    book.says(r"would be \$(e\^\{\\frac12 s\^2 d\^\\top \\Sigma_j d\})\$\. So the first order")
    book.says(r"would be (exact at any distance)\. The dipole corrects the mean, never the mass")
    points, weights = np.polynomial.hermite_e.hermegauss(60)  # of one Gaussian number
    x = np.stack(np.meshgrid(points, points, points, indexing="ij"), -1).reshape(-1, 3)
    w = np.einsum("i,j,k->ijk", weights, weights, weights).ravel()
    w = w / w.sum()
    mix = np.random.default_rng(0).normal(size=(3, 3))
    z = x @ mix.T  # two numbers of a key, one of a value, around their means
    covariance = mix @ mix.T
    for length in (0.5, 2.0):
        d = length * np.array([0.8, -0.6])
        tilted = w * np.exp(z[:, :2] @ d)
        assert np.log(tilted.sum()) == pytest.approx(0.5 * d @ covariance[:2, :2] @ d, rel=1e-6)
        assert tilted @ z[:, 2] / tilted.sum() == pytest.approx(covariance[2, :2] @ d, rel=1e-6)

"""What notebook 10 says about scaling, computed; numbers are those of cells and exercises."""

import inspect
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from claims import Notebook

import multipole_lab as ml
from multipole_lab.bench.recorded import record
from multipole_lab.clustering import inertia
from multipole_lab.decoding.settings import Settings
from multipole_lab.measure import operations, share_of_exact
from multipole_lab.measure.inputs import resampled
from multipole_lab.method_text import parse_method
from multipole_lab.training import PRESETS, build_model

LENGTHS = 2 ** np.arange(10, 21)


@pytest.fixture(scope="module")
def book():
    """The notebook, with one turn for each time: no sentence names a time."""
    book = Notebook("10")
    (sweep,) = (cell for cell in book.cells if "repeats=2" in cell.source)
    sweep.source = sweep.source.replace("repeats=2", "repeats=1")
    return book


def slope(method, lengths, **options):
    counts = [operations(method, int(n), **options) for n in lengths]
    return np.polyfit(np.log(lengths), np.log(counts), 1)[0]


def heads(layer, tokens=4096, head=0):
    """A key head of a layer with its three query heads."""
    one, key = ml.load_sample("smollm2")[layer], slice(head, head + 1)
    return one.q[:, 3 * head : 3 * head + 3, :tokens], one.k[:, key, :tokens], one.v[:, key, :tokens]


def error(method, q, k, v):
    scale = ml.load_sample("smollm2").scale
    return float(ml.relative_squared_error(method(q, k, v, scale=scale), ml.Exact()(q, k, v, scale=scale)))


@cache
def of_64(layer, tokens):
    """The error of 64 clusters over the first tokens of a layer."""
    return error(ml.MuSe(clusters=64), *heads(layer, tokens))


def test_02_exponents_are_2_and_1_and_the_best_c_gives_one_and_a_half(book):
    exact, fixed = book.says(
        r"\*\*exponent\*\*: (\d) for exact attention, (\d) for MuSe with a fixed number of clusters "
        r"and none near"
    )
    assert slope(ml.Exact(), LENGTHS) == pytest.approx(exact)
    assert slope(ml.MuSe(clusters=64), LENGTHS) == pytest.approx(fixed)
    book.says(r"\\propto\\; (\\sqrt N), \\qquad\\text\{so that\}\\qquad t\(C\^\\star\) \\propto N\^\{3/2\}")
    far, near, m = 2.0, 3.0, 4
    best = [min((far * n * c + near * m * n * n / c, c) for c in range(1, 2000)) for n in (1000, 16_000)]
    assert best[1][1] == pytest.approx(4 * best[0][1], rel=0.02)
    assert best[0][1] == pytest.approx((near / far * m * 1000) ** 0.5, abs=1)
    assert best[1][0] / best[0][0] == pytest.approx(16**1.5, rel=0.01)


def test_08_a_fixed_number_of_near_clusters_is_quadratic_again(book):
    printed = list(book.cell("06").curves)
    assert [name.split("slope ")[1] for name in printed] == ["2.00", "1.00", "1.99", "1.50"]
    share, cap, times = book.says(
        r"are a (sixteenth) of all keys, .* \(up to ([\d.]+) times that, .*\): (\d+) times fewer products"
    )
    near = ml.MuSe(clusters=64, near=4)
    assert near.cap == cap
    assert 1 / share_of_exact(near, 2**20) == pytest.approx(times, abs=0.5)
    assert share == "sixteenth"
    (down,) = book.says(r"the exponent goes down to ([\d.]+)\.")
    assert slope(ml.MuSe(clusters="auto", near=4), LENGTHS[-5:]) == pytest.approx(down, abs=0.005)


def test_10_every_row_needs_fewer_products_and_does_them_more_slowly(book):
    table = book.cell("09").table
    least, most = book.says(r"needs fewer products than exact attention, ([\d.]+) to ([\d.]+%) of them")
    assert (round(100 * table["share"].min(), 1), round(table["share"].max(), 3)) == (least, most)
    assert len(table) == 24
    for exact, muse in book.cell("11").rows(r"exact ([\d.]+), MuSe ([\d.]+)"):
        assert exact > muse  # here by a factor of 3 and more


def test_14_a_law_through_two_lengths_misses_the_third(book):
    exponent, guess, true, miss = book.says(
        r"grew like \$N\^\{([\d.]+)\}\$ from .*? which says about ([\d.]+) for 4,096; "
        r"it is ([\d.]+), and the guess (\d+%) too high\. \(All heads"
    )
    short, middle, long = (of_64(15, n) for n in (1024, 2048, 4096))
    assert np.log2(middle / short) == pytest.approx(exponent, abs=0.005)
    assert round(middle**2 / short, 2) == guess
    assert long == pytest.approx(true, abs=0.0005)
    assert middle**2 / short / long - 1 == pytest.approx(miss, abs=0.006)
    lines = book.cell("14").printed.splitlines()
    assert len(lines) == 8  # what, and then its law
    assert f"N to the {exponent:.2f}" in lines[-1]


def test_14_fixed_costs_pull_slopes_down(book):
    book.says(r"Fixed costs \$(t_0)\$ pull slopes down")
    n = np.array([1024, 2048, 4096])
    assert np.polyfit(np.log(n), np.log(n.astype(float)), 1)[0] == pytest.approx(1)
    assert np.polyfit(np.log(n), np.log(1000.0 + n), 1)[0] < 0.8


def test_19_the_error_is_no_power_law_in_c_and_ends_at_zero(book):
    errors = book.cell("17").errors
    slopes = np.diff(np.log2(errors[0]))
    begin, end = book.says(r"the slope begins at about (-[\d.]+) and is (-[\d.]+) at the end")
    assert slopes[:3].mean() == pytest.approx(begin, abs=0.05)
    assert slopes[-1] == pytest.approx(end, abs=0.05)
    assert "slow at first, then steep" in book.cell("18").figures[0].layout.title.text
    assert abs(slopes[:3]).max() < 0.5 < 1.5 < abs(slopes[-2:]).min()
    assert errors[0] == sorted(errors[0], reverse=True)
    assert error(ml.MuSe(clusters=256), *heads(15, 256)) < 1e-9  # a cluster for each key
    worst = book.says(r"\*worse\* at first: ([\d.]+) with 4 clusters, ([\d.]+) with 8.* is ([\d.]+) there")
    assert worst == tuple(round(errors[2][i], 3) for i in (0, 1, 3))
    per_key, clusters = book.says(r"beyond \$C = N/([\d.]+)\$ it needs more .*? which is (\d+) clusters here")
    assert int(1024 / per_key) == clusters
    assert share_of_exact(ml.MuSe(clusters=int(clusters)), 1024) < 1
    assert share_of_exact(ml.MuSe(clusters=int(clusters) + 1), 1024) > 1


def test_22_the_cost_model_is_tested_on_a_length_that_it_has_not_seen(book):
    assert len(book.cell("20").short.table) == 16
    assert len(book.cell("20").miss) == 8
    book.says(r"\$C\^\\star\$ (four) times as large for sixteen times the tokens")
    model = book.cell("20").model
    few, many = (model.cheapest_clusters(2, n) for n in (4096, 65_536))
    assert np.isnan(few) or many == pytest.approx(4 * few)
    (factor,) = book.says(r"an \*\*extrapolation\*\* by a factor of (\d+) in length")
    assert factor == 1_048_576 / 4096


def test_23_the_fastest_setting_keeps_the_error(book):
    best = book.cell("23").best
    assert (best["rse"] <= 0.2).all()
    assert list(best["length"]) == [1024, 2048, 4096]


def test_24_drawn_tokens_have_a_smaller_error_than_real_ones(book):
    drawn, real = book.says(
        r"in each of the nine key heads of the three layers: ([\d.]+) drawn against ([\d.]+) real "
        r"in key head 0 of "
        r"layer 15"
    )
    method = ml.MuSe(clusters=64)
    for layer, head in product((3, 15, 28), range(3)):
        x = heads(layer, head=head)
        short = [y[:, :, :1024] for y in x]
        pair = error(method, *resampled(short, 4096, torch.Generator().manual_seed(0))), error(method, *x)
        assert pair[0] < pair[1]
        if (layer, head) == (15, 0):
            assert pair == pytest.approx((drawn, real), abs=0.0006)


def test_exercise_1_exact_attention_is_cheaper_up_to_four_and_a_half_c(book):
    few, many, times = book.says(r"(\d+) and ([\d,]+): just above \$([\d.]+)\\,C\$")
    assert book.solution(1)[0].rows(r"(\d+) (\d+)") == [(64, few), (256, many)]
    assert (few, many) == (64 * times + 1, 256 * times + 1)
    total, clusterings, summaries, far = book.says(
        r"MuSe pays \$(\d)\\, N C D\$ \((\d) .*?, (\d) .*?, (\d) for"
    )
    assert clusterings + summaries + far == total
    assert operations(ml.MuSe(clusters=64), 4096) == total * 4096 * 64 * 64


def test_exercise_3_causal_exponents(book):
    rows = book.solution(3)[0].rows(r"(\d+) (\S+) (\S+)\n")
    ends, short = (
        book.says(r"At the long end ([\d.]+) and"),
        book.says(r"At the short end ([\d.]+) and ([\d.]+):"),
    )
    assert [round(row[2], 2) for row in rows] == [ends[0], book.says(r"long end [\d.]+ and ([\d.]+):")[0]]
    assert [round(row[1], 2) for row in rows] == list(short)
    assert operations(ml.MuSe(leaf=4096), 4096, causal=True) == operations(ml.Exact(), 4096, causal=True)


def test_exercise_4_the_error_need_not_grow_with_the_length(book):
    for layer, pattern in (
        (15, r"For key head 0 of layer 15 yes: ([\d.]+), ([\d.]+), ([\d.]+)\. More"),
        (3, r"falls a little \(([\d.]+), ([\d.]+), ([\d.]+)\)"),
        (28, r"up and down \(([\d.]+), ([\d.]+), ([\d.]+)\)"),
    ):
        found = [of_64(layer, n) for n in (1024, 2048, 4096)]
        assert found == pytest.approx(book.says(pattern), abs=0.0006)


def test_the_errors_of_all_heads_grow_with_the_length_in_each_layer(book):
    three, last, middle = book.says(
        r"Over all heads \(.*?\) it grows in each layer, but by (\d+%) in layer 3, by (\d+%) in "
        r"layer 28 and by (\d+%) "
        r"in layer 15"
    )
    said = book.says(r"\(All heads of the layer: ([\d.]+), ([\d.]+) and ([\d.]+)\. Key head 2 has most")
    for layer, more in ((3, three), (15, middle), (28, last)):
        one = ml.load_sample("smollm2")[layer]
        x = [(one.q[:, :, :n], one.k[:, :, :n], one.v[:, :, :n]) for n in (1024, 2048, 4096)]
        found = [error(ml.MuSe(clusters=64), *y) for y in x]
        assert found == sorted(found)
        assert found[2] / found[0] - 1 == pytest.approx(more, abs=0.01)
        assert layer != 15 or found == pytest.approx(said, abs=0.0006)
    assert error(ml.MuSe(clusters=64), *heads(15, head=2)) > 2 * said[2]


def test_09_one_group_is_key_head_0(book):
    book.says(r"(Key head 0) with its three query heads \(`groups=1`\)")
    table = book.cell("09").table
    (row,) = table[(table.clusters == 64) & (table.near == 0) & (table.length == 1024)]["rse"]
    assert row == pytest.approx(of_64(15, 1024), rel=1e-3)


def test_08_a_million_tokens_in_products_time_and_bytes(book):
    exact, grown, fixed, hours, minutes, seconds = book.says(
        r"exact attention needs \$([\d.]+) \\cdot 10\^\{14\}\$ products a head, .*? \$([\d.]+) "
        r"\\cdot 10\^\{12\}\$, "
        r".*? \$([\d.]+) \\cdot 10\^\{10\}\$\. .*? takes ([\d.]+) hours, ([\d.]+) minutes, ([\d.]+) seconds"
    )
    n, methods = 2**20, (ml.Exact(), ml.MuSe(clusters="auto", near=4), ml.MuSe(clusters=64))
    counts = [operations(method, n) for method in methods]
    assert [counts[0] / 1e14, counts[1] / 1e12, counts[2] / 1e10] == pytest.approx(
        [exact, grown, fixed], abs=0.06
    )
    took = [count / 1e10 for count in counts]  # ten million a millisecond
    assert [took[0] / 3600, took[1] / 60, took[2]] == pytest.approx([hours, minutes, seconds], abs=0.06)
    gigabytes, megabytes, terabytes = book.says(
        r"outputs, ([\d.]+) GB a head at .*? besides, (\d+) MB for 64 clusters\. .*? need ([\d.]+) TB"
    )
    assert [4 * n * 64 * 4 / 1e9, 64**2 * 129 * 4 / 1e6, n**2 * 4 / 1e12] == pytest.approx(
        [gigabytes, megabytes, terabytes], abs=0.12
    )
    (times,) = book.says(r"none of the exponents either: ([\d.]+) times the products of the monopole")
    for length in (4096, n):
        dipole, monopole = (operations(ml.MuSe(order=order), length) for order in ("dipole", "monopole"))
        assert dipole / monopole == pytest.approx(times, abs=0.05)
    (shared,) = book.says(r"three query heads that share their keys need ([\d.]+) times")
    dipole, monopole = (operations(ml.MuSe(order=x), n, heads=9, kv_heads=3) for x in ("dipole", "monopole"))
    assert dipole / monopole == pytest.approx(shared, abs=0.005)


def test_08_heads_and_texts_are_linear_and_auto_grows_by_the_root(book):
    book.says(r"The same goes for the (number of heads) and of texts")
    three, six = (operations(ml.MuSe(), 4096, heads=3 * m, kv_heads=m) for m in (1, 2))
    assert six == 2 * three
    cap, least, few, short, many = book.says(
        r"nearest to \$\\sqrt\{([\d.]+)\\,m N / 2\}\$ .*? \$m\$ counts as (\d) at least\): (\d+) at "
        r"([\d,]+) tokens, "
        r"([\d,]+) at a million"
    )
    assert cap == ml.MuSe().cap
    for near in (0, 2, int(least)):
        partition = ml.MuSe(clusters="auto", near=near)._partition
        assert (partition.count(int(short)), partition.count(2**20)) == (few, many)
    assert few == 2 ** round(np.log2((cap * least * short / 2) ** 0.5))


def test_08_how_a_sweep_is_timed(book):
    (repeats,) = book.says(r"a time is the median of `repeats` calls, (\d) unless you say otherwise")
    assert inspect.signature(ml.sweep).parameters["repeats"].default == repeats


def test_19_the_data_decide_more_than_the_law(book):
    *said, with_dipole, without = book.says(
        r"the error falls from ([\d.]+) to ([\d.]+) in layer 3, and from ([\d.]+) to ([\d.]+) in layer 28\. "
        r"A dipole lowers the curve \(with 64 clusters ([\d.]+) instead of ([\d.]+) in layer 15\)"
    )
    sample = ml.load_sample("smollm2")

    def error(number, method):
        layer = sample[number]
        x = layer.q[:, :3, :1024], layer.k[:, :1, :1024], layer.v[:, :1, :1024]
        return ml.relative_squared_error(method(*x), ml.Exact()(*x)).item()

    found = [error(number, ml.MuSe(clusters=C)) for number in (3, 28) for C in (16, 256)]
    found += [error(15, ml.MuSe(order="dipole")), error(15, ml.MuSe())]
    assert found == pytest.approx([*said, with_dipole, without], abs=0.006)


def test_08_memory_and_price_of_auto(book):
    gigabytes, clusters, times = book.says(
        r"not small: ([\d.]+) GB a head for ([\d,]+) clusters, (twice) as much as the rest"
    )
    n, auto = 2**20, ml.MuSe(clusters="auto", near=4)
    assert auto._partition.count(n) == clusters
    summaries, rest = clusters**2 * (2 * 64 + 1) * 4, 4 * n * 64 * 4
    assert summaries / 1e9 == pytest.approx(gigabytes, abs=0.05)
    assert (times, summaries / rest) == ("twice", pytest.approx(2, abs=0.05))
    (more,) = book.says(r"which costs (\d+%) more of them at 4,096 tokens and lowers the error")
    counts = {C: operations(ml.MuSe(clusters=C, near=4), 4096) for C in range(16, 257)}
    best = min(counts, key=counts.get)
    assert counts[auto._partition.count(4096)] / counts[best] - 1 == pytest.approx(more, abs=0.005)
    layer = heads(15)
    assert error(auto, *layer) < error(ml.MuSe(clusters=best, near=4), *layer)


def test_19_why_more_clusters_help_slowly(book):
    *left, dimensions = book.says(
        r"16, 64 and 256 clusters leave ([\d.]+), ([\d.]+) and ([\d.]+) \(4,096 tokens, notebook 2\), as if "
        r"\$d\$ were (\d)"
    )
    k = ml.load_sample("smollm2")[15].k[:, :1]
    whole = inertia(k, ml.kmeans(k, clusters=1))
    found = [(inertia(k, ml.kmeans(k, clusters=C, iterations=5)) / whole).item() for C in (16, 64, 256)]
    assert found == pytest.approx(left, abs=0.01)
    slope = np.polyfit(np.log([16, 64, 256]), np.log(found), 1)[0]
    assert -2 / slope == pytest.approx(dimensions, abs=0.5)


def test_22_the_miss_is_bad_and_a_speedup_below_1_is_none(book):
    book.says(
        r"the largest miss is well above 10%, for a length that is only (twice) the longest of the "
        r"fit: \*\*that is bad"
    )
    assert book.cell("20").short.table["length"].max() * 2 == 4096
    assert book.cell("20").miss.max() > 0.1
    book.says(r"Where its `(speedup)` is below 1, take exact attention")
    assert "speedup" in book.cell("23").best


def test_15_a_gpu_shows_the_laws(book):
    said = book.says(
        r"65,536 tokens the time of exact attention grew like \$N\^\{([\d.]+)\}\$ and MuSe's like "
        r"\$N\^\{([\d.]+)\}\$; "
        r"from 8,192 to 16,384 it was \$N\^\{([\d.]+)\}\$ and \$N\^\{([\d.]+)\}\$"
    )
    rows = {row["n"]: row for row in record("h100-causal-runs-8x64")["rows"]}
    found = [
        np.log(rows[long][side] / rows[short][side]) / np.log(long / short)
        for short, long in ((16_384, 65_536), (8192, 16_384))
        for side in ("exact_ms", "ms")
    ]
    assert found == pytest.approx(said, abs=0.006)
    assert all(row["causal"] and not row["backward"] and row["heads"] == 8 for row in rows.values())


def test_10_and_19_the_words_of_the_tables(book):
    book.says(r"\(`(front)` marks the rows that no other of their length beats in both error and time\.\)")
    for _, rows in book.cell("09").table.groupby("length"):
        for _, row in rows.iterrows():
            beaten = ((rows["rse"] <= row["rse"]) & (rows["ms"] < row["ms"])).any()
            assert row["front"] == (not beaten)
    book.says(r"\(`(call)` is \$t_0\$\)")
    model = book.cell("20").model
    book.says(r"a \*\*residual\*\* is (predicted) over measured, less 1")
    table = model.table
    guesses = [model.predict(parse_method(row.method), row.length) for row in table.itertuples()]
    residuals = abs(guesses / table["ms"] - 1)
    assert f"{residuals.median():.0%} in the median" in str(model)


def test_32_what_writing_a_text_reads(book):
    share, half, whole, fewer = book.says(
        r"or with the cache \$N/(\d+)\$ centroids .*? reads \$N\^2/(\d)\$ keys or \$N\^2/(\d+)\$ "
        r"centroids, (\d+) times fewer"
    )
    assert Settings().fraction == 1 / share
    N = np.arange(1, 2**17 + 1, dtype=np.float64)
    exact, centroids, root = N.cumsum(), (N / share).cumsum(), np.sqrt(N).cumsum()
    assert exact[-1] == pytest.approx(N[-1] ** 2 / half, rel=1e-4)
    assert centroids[-1] == pytest.approx(N[-1] ** 2 / whole, rel=1e-4)
    assert exact[-1] / centroids[-1] == pytest.approx(fewer)
    book.says(r"\$\\sqrt N\$ a token and (\$\\tfrac23 N\^\{3/2\}\$) in all")
    assert root[-1] == pytest.approx(2 / 3 * N[-1] ** 1.5, rel=1e-4)


def test_12_the_crossing_goes_with_the_square_of_the_ratio(book):
    times, longer = book.says(
        r"the \*square\* of the ratio: exact attention that is (twice) as fast puts it at (\w+) "
        r"times the length"
    )

    def crossing(
        price, clusters
    ):  # the length at which MuSe's products, each so many times as slow, come out equal
        low, high = 256.0, 2.0**34
        while high / low > 1.001:
            n = round((low * high) ** 0.5)
            method = ml.MuSe(clusters=clusters(n))
            slower = price * operations(method, n) > operations(ml.Exact(), n)
            low, high = (n, high) if slower else (low, n)
        return low

    assert times == "twice"
    for clusters, ratio in ((lambda n: round(n**0.5), longer), (lambda _: 64, 2)):
        assert crossing(20, clusters) / crossing(10, clusters) == pytest.approx(ratio, rel=0.02)


def test_33_what_an_h200_showed_for_each_length(book):
    short, slower, middle, gain, error, between, even, long, most, there, fewer = book.says(
        r"at ([\d,]+) still ([\d.]+) times as fast \| \| ([\d,]+) \| .*? \| ([\d.]+) times, an "
        r"error of ([\d.]+%), .*?; at "
        r"([\d,]+) ([\d.]+) \| \| ([\d,]+) \| .*? \| ([\d.]+) times, ([\d.]+%) \| .*? (\d+) times "
        r"fewer products \(`near=4`\)"
    )
    found = record("h200-muse-causal-8x64-called")
    rows = {row["n"]: row for row in found["rows"]}
    assert {(row["method"], row["causal"], row["graphs"], row["heads"]) for row in rows.values()} == {
        ("MuSe()", True, False, 8)
    }
    assert all("resampled" in row["source"] for row in rows.values())
    for n, speedup, within in (
        (short, slower, 0.005),
        (middle, gain, 0.05),
        (between, even, 0.005),
        (long, most, 0.06),
    ):
        assert rows[n]["speedup"] == pytest.approx(speedup, abs=within)
    assert (rows[middle]["rse"], rows[long]["rse"]) == pytest.approx((error, there), abs=5e-4)
    assert max(rows) == long
    real, layers = book.says(r"and of ([\d.]+%) for a real text \((\w+) layers, notebook 5\)")
    (whole,) = (
        row
        for row in record("cpu-real-tokens-32k")["rows"]
        if (row["tokens"], row["source"], row["causal"]) == (middle, "real", True)
        and parse_method(row["method"]) == ml.MuSe()
    )
    assert (len(whole["errors"]), whole["error"]) == (layers, pytest.approx(real, abs=5e-4))
    counts = [operations(m, 2**20, causal=True) for m in (ml.Exact(), ml.MuSe(clusters="auto", near=4))]
    assert round(counts[0] / counts[1]) == fewer


def test_34_from_which_length_attention_is_the_larger_part(book):
    length, d, m, at, share, time = book.says(
        r"\$N = 4 d \+ 3 m\$: ([\d,]+) tokens for the paper-size model of notebook 9 \(\$d = "
        r"(\d+)\$, \$m = (\d+)\$\)\. .*? at "
        r"([\d,]+) tokens it is (\d+%) of these operations, and was (\d+%) of the time"
    )
    book.says(r"take (\$2 N d\$) operations in causal attention \(forward\)")
    paper = PRESETS["paper"]
    assert (paper.width, paper.mlp) == (d, m)
    layer = build_model(paper).model.layers[0]
    weights = sum(p.numel() for part in (layer.self_attn, layer.mlp) for p in part.parameters())
    assert weights == 4 * d * d + 3 * d * m

    def parts(n):  # operations of a token: two for each product
        attention = (
            2 * operations(ml.Exact(), n, heads=paper.heads, head_size=int(d) // paper.heads, causal=True) / n
        )
        return attention, 2 * weights

    attention, rest = parts(int(length))
    assert attention == pytest.approx(2 * length * d, rel=1e-3)
    assert attention == pytest.approx(rest, rel=1e-3)
    attention, rest = parts(int(at))
    assert attention / (attention + rest) == pytest.approx(share, abs=0.005)
    (row,) = record("training-h100-16k-central")["seeds"]
    assert row["exact_attention_seconds"] / row["exact_seconds"] == pytest.approx(time, abs=0.005)

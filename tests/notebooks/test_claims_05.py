"""What notebook 05 says about the causal hierarchy, computed; numbers are those of cells and exercises."""

import re

import pytest
import torch
from claims import Notebook

import multipole_lab as ml
from multipole_lab.attention.causal import block_sizes
from multipole_lab.bench.recorded import record
from multipole_lab.lessons.block_errors import block_errors
from multipole_lab.measure import operations, share_of_exact
from multipole_lab.measure.heads import first_tokens
from multipole_lab.method_text import parse_method


@pytest.fixture(scope="module")
def book():
    return Notebook("05")


def test_equation_a_square_costs_nine_n_c_d_and_pays_from_four_and_a_half_c_on(book):
    assign, summaries, read, total = book.says(
        r"\$(\d)\\,n C D\$ for one step of .*?, \$(\d)\\,n C D\$ for the tilted summaries "
        r"and \$(\d)\\,n C D\$ to read them, \$(\d)\\,n C D\$ in all"
    )
    assert assign + summaries + read == total
    assert operations(ml.MuSe(clusters=32), 1024, head_size=64) == total * 1024 * 32 * 64
    (times,) = book.says(r"from \$n = ([\d.]+)\\,C\$ tokens on")
    assert share_of_exact(ml.MuSe(clusters=32), int(times * 32)) == pytest.approx(1)
    assert book.says(r"it costs \$\\tfrac(\d)(\d) N C D\$") == (total, 2)


def test_equation_keys_that_heads_share_are_clustered_once(book):
    heads, times = book.says(
        r"Where (\w+) query heads share their keys, .*? a square pays from \$([\d.]+)\\,C\$ on"
    )
    method = ml.MuSe(clusters=64)
    first = next(n for n in range(64, 400) if share_of_exact(method, n, heads=int(heads), kv_heads=1) < 1)
    assert first / 64 == pytest.approx(times, abs=0.05)


def test_equation_leaves_cost_n_l_d(book):
    book.says(r"all \$N/L\$ leaves together \$(N L D)\$")
    no_squares = ml.MuSe(clusters=1, leaf=512)
    squares = sum(2 ** (1 - i) * operations(ml.MuSe(clusters=1), 512 << i, head_size=64) for i in range(2))
    leaves = operations(no_squares, 2048, causal=True, head_size=64) - squares
    assert leaves == pytest.approx(2048 * 512 * 64, rel=0.01)


def test_07_the_recursion_is_causal_attention_and_what_the_library_computes(book):
    (lines,) = book.says(r"with exact attention inside, is (\w+) lines\. Up to rounding")
    source = next(cell.source for cell in book.cells if cell.source.startswith("def causal("))
    assert len(source.splitlines()) - 1 == lines
    exact, muse = book.cell("08").column(r"error (\S+)")
    assert exact < 1e-12
    assert muse == pytest.approx(book.cell("08").error_of(ml.MuSe(clusters=32, leaf=256)), rel=0.05)


def test_10_longer_leaves_have_less_error_and_work_falls_and_then_grows(book):
    book.says(
        r"On this head each longer leaf has (less) error\. The work .*? from a leaf of 64 to one of 128 it "
        r"\*\*falls\*\*"
    )
    rows = book.cell("10").rows(r"leaf +(\d+): +([\d.]+)% .*error ([\d.]+)")
    leaves, work, errors = zip(*rows, strict=True)
    assert list(errors) == sorted(errors, reverse=True)
    (least,) = book.says(r"Beyond (\d+) it grows")
    place = leaves.index(least)
    assert list(work[: place + 1]) == sorted(work[: place + 1], reverse=True)
    assert list(work[place:]) == sorted(work[place:])
    size, times, clusters, bound = book.says(r"\(\$(\d+) < ([\d.]+) \\cdot (\d+) = (\d+)\$\)")
    assert size < times * clusters == bound
    assert share_of_exact(ml.MuSe(clusters=int(clusters)), int(size)) > 1


def test_12_the_cheapest_leaf_lies_between_its_bounds(book):
    low, high = book.says(r"the cheapest leaf lies between \$([\d.]+)\\,C\$ and \$(\d+)\\,C\$")
    (said,) = book.says(r"For 64 clusters that is (\d+)\.")
    assert (low, high) == (4.5, 9)
    for clusters in (16, 32, 64, 128):
        leaves = [2**i for i in range(5, 13)]
        cheapest = min(
            leaves,
            key=lambda leaf: operations(ml.MuSe(clusters=clusters, leaf=leaf), 1 << 15, causal=True),
        )
        assert low * clusters <= cheapest <= high * clusters
        assert clusters != 64 or cheapest == said


def test_12_leaves_are_almost_half_of_the_work_and_then_less_than_a_fifth(book):
    book.says(
        r"At 2,048 tokens such leaves are almost (half) of all products, at 131,072 tokens less than a fifth"
    )

    def part(n):
        return 512 / n / share_of_exact(ml.MuSe(clusters=64, leaf=512), n, causal=True)

    assert 0.45 < part(2048) < 0.5
    assert 0.15 < part(131072) < 0.2
    rows = book.cell("12").rows(r"([\d.]+)% +([\d.]+)% +([\d.]+)% +([\d.]+)%")
    assert rows[-1][2] / rows[-1][1] < 1.1


def test_15_the_first_squares_have_most_of_the_mass_and_little_error(book):
    book.says(
        r"the first square of each row has (more than half) of the attention, and .*? it has the \*least\* error"
    )
    rows = book.cell("14").rows(r"error ([\d.]+) +mass ([\d.]+) +adds ([\d.]+)")
    assert len(rows) == 4 + 2 + 1
    assert min(rows[i][1] for i in (0, 4, 6)) > 0.5 > max(rows[i][1] for i in (1, 2, 3, 5))
    assert rows[0][0] == min(row[0] for row in rows[:4])


def test_15_the_sinks_value_is_two_to_four_times_as_short(book):
    few, many = book.says(r"In layer 15 the value of token 0 is (\w+) to (\w+) times as short as the others")
    length = book.cell("04").sample[15].v[0].norm(dim=-1)
    ratio = length.median(1).values / length[:, 0]
    assert few <= ratio.min()
    assert ratio.max() < many + 0.5
    assert ratio.max() > many - 0.5


def test_16_what_a_square_adds_explains_its_error_better_than_mass_in_every_layer(book):
    book.says(r"(What a square adds) goes with its error better, though not perfectly")
    book.says(r"(goes better with what the square adds) to the output than with its mass")
    rows = book.cell("16").rows(r"\[ *[\d.]+ +([\d.]+) +([\d.]+)\]")
    assert len(rows) == 3
    assert all(0.95 > added > mass + 0.1 > 0.5 for mass, added in rows)


def test_18_more_clusters_less_error(book):
    book.says(r"(with fewer clusters a square has more keys per summary)")
    errors = book.cell("18").column(r"error ([\d.]+)")
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 10 * errors[-1]


def test_19_causal_errors_are_smaller_than_full_ones_by_these_factors(book):
    full, causal, factor, third, last = book.says(
        r"layer 15, 2,048 tokens, 64 clusters give ([\d.]+) in full attention and, with leaves of 256, ([\d.]+) in "
        r"causal attention, a factor of (\d+); in layer 3, with the same leaves, it is (\d+), in layer 28 it is (\d+)"
    )
    found = {}
    for number in (3, 15, 28):
        x, method = first_tokens(book.cell("04").sample[number], 2048), ml.MuSe(clusters=64, leaf=256)
        found[number] = [
            ml.relative_squared_error(method(*x, causal=c), ml.Exact()(*x, causal=c)).item()
            for c in (False, True)
        ]
    assert found[15] == pytest.approx([full, causal], rel=0.05)
    ratios = [a / b for a, b in found.values()]
    assert ratios == pytest.approx([third, factor, last], rel=0.1)
    leaf, part, wrong, times = book.says(
        r"With leaves of ([\d,]+), the default on a CPU, (half) of .*?: ([\d.]+) in layer 15, a factor of (\d+)\."
    )
    assert (leaf / 2048, part) == (1 / 2, "half")
    x = first_tokens(book.cell("04").sample[15], 2048)
    exact = ml.Exact()(*x, causal=True)
    named, default = (
        ml.relative_squared_error(method(*x, causal=True), exact).item()
        for method in (ml.MuSe(leaf=int(leaf)), ml.MuSe())
    )
    assert named == default == pytest.approx(wrong, abs=5e-5)
    assert found[15][0] / default == pytest.approx(times, abs=0.5)


def test_21_the_diagonal_is_hardest_and_the_future_strange(book):
    book.says(r"The \*\*(diagonal)\*\* is the hardest in every layer")
    (times,) = book.says(r"In layer 3 it is (\d+) times as hard as the past, in layer 15 half as hard again")
    errors = book.cell("20").column(r"error ([\d.]+)")
    layers = [errors[i : i + 3] for i in (0, 3, 6)]
    assert all(diagonal == max(past, diagonal, future) for past, diagonal, future in layers)
    ratio = [future / past for past, _, future in layers]
    assert ratio[0] == pytest.approx(times, rel=0.05)
    assert ratio[1] == pytest.approx(1.5, rel=0.1)
    assert ratio[2] < 1


def test_24_what_sinks_take_off(book):
    (third,) = book.says(r"On this head four sinks take off almost (a third), and one sink makes it worse")
    none, one, four = book.cell("22").column(r"error ([\d.]+)")
    assert 0.28 < 1 - four / none < 1 / 3
    assert one > none
    fifteen, third, last = book.says(
        r"four sinks take off (\d+%), in layer 3 about (\d+%), in layer 28 about (\d+%)"
    )
    rows = book.cell("23").rows(r"([\d.]+) without sinks, ([\d.]+) with")
    saved = [1 - with_ / without for without, with_ in rows]
    assert saved == pytest.approx([third, fifteen, last], abs=0.016)
    (percent,) = book.says(r"they are cheap \((\w+) more percent of the work of a head with keys")
    none, four = (share_of_exact(ml.MuSe(clusters=32, leaf=256, sinks=n), 2048, causal=True) for n in (0, 4))
    assert percent == pytest.approx(100 * (four / none - 1), abs=0.3)


def test_02_how_many_leaves_and_squares_there_are(book):
    tokens, leaf, leaves, *squares = book.says(
        r"([\d,]+) tokens and leaves of (\d+) have (\d) leaves, and \$(\d) \+ (\d) \+ (\d)\$"
    )
    assert leaves == tokens / leaf
    part, size, n = book.says(r"are read exactly, ([\d.]+%) with (\d+) of ([\d,]+)\.")
    assert leaves * size * (size + 1) / (n * (n + 1)) == pytest.approx(part, abs=0.001)
    assert (part, size, n) == (leaf / tokens, leaf, tokens)
    q, k, v = (x[:, :1] for x in first_tokens(ml.load_sample("smollm2")[15], int(tokens)))
    levels = block_errors(q, k, v, ml.MuSe(clusters=8, leaf=int(leaf)), 0.125)
    assert sorted(len(level.error) for level in levels) == sorted(squares)


def test_28_a_short_text_is_slower_with_fewer_products_and_length_is_good_for_muse(book):
    rows = book.cell("27").rows(r"([\d,]+) tokens: .* ([\d.]+) times as fast")
    (first, slow), *_, (_, last) = rows
    tokens, clusters, leaf, layer, share = book.says(
        r"At (\d+) tokens MuSe, with these (\d+) clusters and leaves of (\d+), has (\d+%) of the products of this "
        r"layer \((\d+%) where each head has keys of its own\) and takes \*longer\*: there is one square"
    )
    assert (clusters, leaf) == (32, 256)
    shared = share_of_exact(ml.MuSe(clusters=32, leaf=256), int(tokens), causal=True, heads=9, kv_heads=3)
    assert shared == pytest.approx(layer, abs=0.005)
    assert (first, slow < 1) == (tokens, True)
    assert share_of_exact(ml.MuSe(clusters=32, leaf=256), int(tokens), causal=True) == pytest.approx(
        share, abs=0.005
    )
    assert last > 1.3 * slow


def test_solution_1_the_mass_of_the_first_square_is_the_sink(book):
    said = book.says(
        r"The mass is ([\d.]+), and those four alone have ([\d.]+)\. "
        r"Token 0 has a value of length ([\d.]+), where the median is ([\d.]+)"
    )
    (ran,) = book.solution(1)
    assert [x.item() for x in ran.value] == pytest.approx(said, rel=0.03)


def test_solution_2_a_leaf_of_one_has_the_error_of_64_for_more_work(book):
    (more,) = book.says(r"But it does (\d+%) more products for it")
    one, sixty_four, all_ = book.solution(2)[0].rows(r"\d+ (\S+) (\S+)\n")
    assert all_ == (0, 1)
    assert one[0] == pytest.approx(sixty_four[0], rel=1e-3)
    assert one[1] / sixty_four[1] - 1 == pytest.approx(more, abs=0.01)


def test_solution_3_sinks_decide_between_window_and_muse(book):
    window, muse, fair = book.says(
        r"the window \(([\d.]+)\) beats MuSe without sinks \(([\d.]+)\) on this head; "
        r"with the same sinks MuSe is ahead, ([\d.]+?)\. This"
    )
    wide, whole = book.says(
        r"Over all heads of layer 15 the window is wrong by ([\d.]+) and MuSe by ([\d.]+?)\. Without"
    )
    errors = book.solution(3)[0].errors
    assert window < muse
    assert fair < window
    assert [errors["Window", 4][0], errors["MuSe", 0][0], errors["MuSe", 4][0]] == pytest.approx(
        [window, muse, fair], rel=0.03
    )
    assert errors["Window", 4][1] == pytest.approx(wide, rel=0.03)
    assert [errors["MuSe", n][1] for n in (0, 4)] == pytest.approx([whole, whole], rel=0.03)
    assert errors["Window", 0][1] > 0.5


def test_solution_4_keys_never_leak_and_queries_move_24_outputs(book):
    outputs, first = book.says(r"The (\d+) outputs from ([\d,]+) to 1,047 change")
    keys, queries = book.solution(4)
    assert keys.value == 0
    count, place, plain = (x.item() for x in queries.value)
    assert (count, place, plain) == (outputs, first, 0)
    assert torch.equal(keys.before[:, :, :1024], keys.after[:, :, :1024])


def test_09_a_length_that_is_no_power_of_two(book):
    longest, n, needed, leaf, extra = book.says(
        r"`leaf=(\d+)`, ([\d,]+) tokens need (six), so they make eight leaves of (\d+), and the (four) places too many"
    )
    assert -(-n // longest) == needed
    size, levels = block_sizes(int(n), int(longest))
    assert (size, 1 << levels, size * 8 - n) == (leaf, 8, 4)
    assert extra == 4


def test_09_the_gradients_of_notebook_9(book):
    gradient, output = book.says(
        r"an error of ([\d.]+) for the gradient of the queries, where the output has ([\d.]+)\."
    )
    errors = dict(re.findall(r"error of (\w+) *: ([\d.]+)", Notebook("09").cell("06").printed))
    assert (float(errors["q"]), float(errors["output"])) == pytest.approx((gradient, output), abs=1e-4)


def test_19_later_tokens_have_more_error(book):
    second, low, high = book.says(
        r"\(32 clusters, leaves of 256\) the error is ([\d.]+) in the next 256 tokens "
        r"and ([\d.]+) to ([\d.]+) in each 256 of the second half"
    )
    layer = book.cell("18").sample[15]
    x = [y[:, :, :2048] for y in (layer.q, layer.k, layer.v)]
    exact = ml.Exact()(*x, causal=True)
    wrong = (
        (ml.MuSe(clusters=32, leaf=256)(*x, causal=True) - exact)
        .square()
        .sum((0, 1, 3))
        .reshape(8, 256)
        .sum(1)
    )
    errors = (wrong / exact.square().sum((0, 1, 3)).reshape(8, 256).sum(1)).tolist()
    assert errors[0] < 1e-10
    assert errors[1] == pytest.approx(second, abs=5e-4)
    assert (min(errors[4:]), max(errors[4:])) == pytest.approx((low, high), abs=6e-4)


def test_exercise_4_points_that_no_later_query_moves(book):
    earlier, own = book.says(r"pays with its error, ([\d.]+) instead of ([\d.]+) on this head")
    ran = book.cell("05")
    q, k, v = ran.q, ran.k, ran.v
    torch.manual_seed(0)
    other = torch.cat([q[:, :, :1048], q[:, :, 1048:][:, :, torch.randperm(1000)]], 2)
    method = ml.MuSe(clusters=32, leaf=256, points="earlier")
    out = method(q, k, v, causal=True)
    assert torch.equal(out[:, :, :1048], method(other, k, v, causal=True)[:, :, :1048])
    exact = ml.Exact()(q, k, v, causal=True)
    errors = [
        ml.relative_squared_error(m(q, k, v, causal=True), exact).item()
        for m in (method, ml.MuSe(clusters=32, leaf=256))
    ]
    assert errors == pytest.approx([earlier, own], abs=1e-4)


def test_19_errors_grow_with_the_length(book):
    *short, sixteen, thirty_two = book.says(
        r"in the mean of the three layers, from ([\d.]+%) at 2,048 tokens to ([\d.]+%) at 4,096\. .*? "
        r"([\d.]+%) at 16,384 tokens and ([\d.]+%) at 32,768"
    )
    sample, method = ml.load_sample("smollm2"), ml.MuSe(leaf=1024)
    for n, said in zip((2048, 4096), short, strict=True):
        found = [
            ml.relative_squared_error(method(*x, causal=True), ml.Exact()(*x, causal=True)).item()
            for x in (first_tokens(sample[number], n) for number in sample.layers)
        ]
        assert sum(found) / 3 == pytest.approx(said, abs=5e-5)
    for name, n, said in (("h200-real-tokens", 16_384, sixteen), ("cpu-real-tokens-32k", 32_768, thirty_two)):
        (row,) = (
            row
            for row in record(name)["rows"]
            if parse_method(row["method"]) == ml.MuSe()
            and (row["tokens"], row["causal"], row["source"]) == (n, True, "real")
            and row["dtype"] == ("bfloat16" if n == 16_384 else "float32")
        )
        assert row["error"] == pytest.approx(said, abs=5e-5)


def test_28_causal_attention_pays_later(book):
    *shared, full, causal = book.says(
        r"needs (\d+%) of the products of exact attention in this layer if both are full, and with leaves of 512 it "
        r"needs (\d+%) if both are causal \((\d+%) and (\d+%) for a head with keys of its own\)"
    )
    leaf, heads = 512, {"heads": 9, "kv_heads": 3}
    assert share_of_exact(ml.MuSe(), 4096, **heads) == pytest.approx(shared[0], abs=0.005)
    layer = share_of_exact(ml.MuSe(leaf=leaf), 4096, causal=True, **heads)
    assert layer == pytest.approx(shared[1], abs=0.005)
    assert share_of_exact(ml.MuSe(), 4096) == pytest.approx(full, abs=0.005)
    assert share_of_exact(ml.MuSe(leaf=leaf), 4096, causal=True) == pytest.approx(causal, abs=0.005)
    slow, fast, late, later = book.says(
        r"slower than exact attention at ([\d,]+) tokens and faster at ([\d,]+) in full attention; in causal attention "
        r"it is slower at ([\d,]+) and faster at ([\d,]+)\."
    )
    first, second = book.says(
        r"are ahead at ([\d,]+) in full attention \(64 runs\) and at ([\d,]+) in causal attention "
        r"\(128 of keys, 16 of queries\), the shortest"
    )
    heads, size, leaf = book.says(
        r"on one H100 on 2026-11-23, in a CUDA graph \((\d) heads of (\d+) with keys of their own, leaves of "
        r"([\d,]+); beyond 4,096"
    )
    for name in ("attention-8x64", "causal-8x64", "attention-runs-8x64", "causal-runs-8x64"):
        assert record(f"h100-{name}")["date"] == "2026-11-23"
        for row in record(f"h100-{name}")["rows"]:
            assert row["graphs"]
            method = parse_method(row["method"])
            assert (row["heads"], row["dim"], method.leaf) == (heads, size, leaf)
            assert ("resampled" in row["source"]) == (row["n"] > 4096)
            runs = (128, 16) if name == "causal-runs-8x64" else (64, None)
            assert (method.clusters, method.query_clusters) == runs
    for name, slower, faster in (
        ("attention-8x64", slow, fast),
        ("causal-8x64", late, later),
        ("attention-runs-8x64", None, first),
        ("causal-runs-8x64", None, second),
    ):
        gain = {row["n"]: row["exact_ms"] / row["ms"] for row in record(f"h100-{name}")["rows"]}
        assert min((n for n in gain if gain[n] > 1), default=None) == faster
        assert max((n for n in gain if gain[n] < 1), default=None) == slower


def test_28_a_later_record_of_an_h200(book):
    (length,) = book.says(r"A later record, of an H200 and with the cap, is about even at ([\d,]+)\.")
    found = record("h200-muse-causal-8x64-called")
    assert found["date"] > record("h100-causal-8x64")["date"]
    gain = {row["n"]: row["speedup"] for row in found["rows"] if row["method"] == "MuSe()"}
    assert gain[length] == pytest.approx(1, abs=0.05)


def test_34_longer_leaves_pay_until_they_are_four_and_a_half_c(book):
    border, least, most = book.says(
        r"as long as the old ones are shorter than \$([\d.]+)\\,C\$, more beyond, so the cheapest has "
        r"\$([\d.]+)\\,C\$ to \$(\d)\\,C\$"
    )
    assert (border, 2 * border) == (least, most)
    for clusters in (16, 32, 64, 128):
        for leaf in (2**i for i in range(5, 12)):
            once, twice = (
                operations(ml.MuSe(clusters=clusters, leaf=n), 1 << 15, causal=True) for n in (leaf, 2 * leaf)
            )
            assert (twice < once) == (leaf < border * clusters)


def test_solution_4_gradients_of_later_keys_and_values_are_zero_and_of_queries_not(book):
    book.says(r"is 0 for all later (keys and values), and not for all later queries")
    layer = book.cell("04").sample[15]
    x = [y[:, :1, :2048].clone().requires_grad_() for y in (layer.q, layer.k, layer.v)]
    out = ml.MuSe(clusters=32, leaf=256)(*x, causal=True)[:, :, :1048]
    q, k, v = (g[:, :, 1048:].abs().max().item() for g in torch.autograd.grad(out.square().sum(), x))
    assert (k, v) == (0, 0)
    assert q > 0


def test_02_which_squares_a_query_reads(book):
    token, n, leaf, digits, large, small, none = book.says(
        r"token ([\d,]+) of ([\d,]+) stands in leaf (\d), which is (\d+), so it reads the squares of ([\d,]+) and of "
        r"(\d+) keys and not that of (\d+)\."
    )
    assert (f"{int(leaf):b}", (token - 1) // 256, n) == (str(int(digits)), leaf, 2048)
    ran, squares = book.cell("07"), []

    def full(q, k, v, return_lse):
        start = (q.storage_offset() - ran.q.storage_offset()) // 64
        squares.append((range(start, start + q.shape[2]), k.shape[2]))
        return ml.Exact()(q, k, v, return_lse=return_lse)

    ran.causal(ran.q, ran.k, ran.v, leaf=256, full=full)
    read = [sorted((keys for queries, keys in squares if i in queries), reverse=True) for i in range(2048)]
    assert read[int(token) - 1] == [large, small]
    assert {keys for _, keys in squares} - {large, small} == {none}
    for i, sizes in enumerate(read):
        assert sum(sizes) == i // 256 * 256
    most, clusters = book.says(r"than \$C \\log_2 \(N/L\)\$ summaries: (\d+) with (\d+) clusters")
    assert max(map(len, read)) * clusters == most


def test_19_why_every_square_has_as_many_clusters(book):
    clusters, each, long, few, short, times = book.says(
        r"(\d+) clusters are (\d+) keys each in the square of ([\d,]+), and (\d) in those of (\d+)\. .*? would cost "
        r"(\w+) times as much"
    )
    assert (long / clusters, short / clusters) == (each, few)
    once, twice = (operations(ml.MuSe(clusters=n // 32), n, head_size=64) for n in (1024, 2048))
    assert twice / once == times
    as_many = [operations(ml.MuSe(clusters=32), n, head_size=64) for n in (1024, 2048)]
    assert as_many[1] / as_many[0] == pytest.approx(2)


def test_00_a_mask_on_clusters_cannot_be_right(book):
    least, most, clusters, tokens = book.says(
        r"on both sides of it \((\d+) to (\d+) of (\d+), for the query in the middle of ([\d,]+) tokens\)"
    )
    found, middle = [], tokens / 2
    for number in book.cell("04").sample.layers:
        _, k, _ = first_tokens(book.cell("04").sample[number], int(tokens))
        for labels in ml.kmeans(k, clusters=int(clusters)).labels[0]:
            places = [(labels == j).nonzero() for j in range(int(clusters))]
            found.append(sum((x.min() < middle < x.max()).item() for x in places))
    assert (min(found), max(found)) == (least, most)


def test_00_a_mask_on_members_makes_other_sums(book):
    book.says(r"A mask on members makes other sums for every (query), and that is exact work again")
    q, k, _ = (x[0, 0, :64].double() for x in (book.cell("05").q, book.cell("05").k, book.cell("05").v))
    members = ml.kmeans(k[None, None].float(), clusters=4).labels[0, 0] == 0
    seen = members & torch.ones(64, 64, dtype=torch.bool).tril()  # [queries, keys]
    mass = [(8**-1 * q[-1] @ k.T).masked_fill(~row, -torch.inf).logsumexp(0) for row in seen[members]]
    assert len({round(x.item(), 9) for x in mass}) == members.sum() > 1  # one point, as many sums as members


def test_19_squares_that_double_are_few(book):
    leaf, tokens, many, few = book.says(
        r"With blocks of (\d+) alone the past of the last query of ([\d,]+) tokens is (\d+) of them, .*? it is (\d+)\."
    )
    last = int(tokens // leaf) - 1  # the number of its leaf: so many leaves before it
    assert (last, last.bit_count()) == (many, few)


def test_19_where_a_leaf_ends_the_treatment_jumps(book):
    book.says(r"a (jump) where a leaf ends: the query before the border reads its leaf exactly")
    ran = book.cell("05")
    out = ml.MuSe(clusters=32, leaf=256)(ran.q, ran.k, ran.v, causal=True)
    wrong = (out - ran.exact)[0, 0].norm(dim=1)
    assert wrong[248:256].max() < 1e-4 < wrong[256:264].min()

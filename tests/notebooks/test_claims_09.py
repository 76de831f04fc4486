"""What notebook 09 says about training, computed; numbers are those of cells and exercises.

What it trains is smaller here: its sentences name no number of a live run. Numbers of records come from the records.
"""

import itertools
import json
import math
import statistics
import sys

import pytest
import scipy.stats
import torch
from claims import Notebook

import multipole_lab as ml
from multipole_lab.bench.recorded import record
from multipole_lab.measure import operations, share_of_exact
from multipole_lab.method_text import parse_method
from multipole_lab.training import PRESETS
from multipole_lab.training.comparison_result import figure, table
from multipole_lab.training.run import SETTINGS
from multipole_lab.training.texts.corpus import Sequences
from multipole_lab.training.texts.sources import is_heldout

SMALLER = {
    '"context": 1024, "steps": 60, "every": 20, "heldout_blocks": 4': (
        '"context": 256, "steps": 3, "every": 3, "heldout_blocks": 1'
    ),
    "MuSe(clusters=8, leaf=256)": "MuSe(clusters=8, leaf=64)",
    "megabytes=2.0": "megabytes=0.4",
    '("tiny", "paper")': '("tiny",)',
    "steps=10, every=10": "steps=2, every=2",
    "steps=20": "steps=2",
    "(512, 1024, 2048, 4096)": "(128, 256)",
    "steps=5, every=5": "steps=2, every=2",
    '"heldout", preset.context, 4': '"heldout", preset.context, 1',
}
RECORDS = ("16k-central", "16k-six", "64k-six", "64k-six-seed1")


@pytest.fixture(scope="module")
def book():
    return Notebook("09")


@pytest.fixture(scope="module")
def small():
    """The notebook with a shorter text, fewer steps and fewer tokens."""
    book = Notebook("09")
    for words, instead in SMALLER.items():
        found = [cell for cell in book.cells if words in cell.source]
        assert found, words
        for cell in found:
            cell.source = cell.source.replace(words, instead)
    return book


def of(name):
    return record(f"training-h100-{name}")


def test_02_and_exercise_3_what_causal_attention_costs(book):
    full, causal = operations(ml.Exact(), 4096), operations(ml.Exact(), 4096, causal=True)
    book.says(r"exact attention (\$N\^2 D\$) products a head, half of the (\$2 N\^2 D\$) of full attention")
    assert full == 2 * 4096**2 * 64
    assert causal == pytest.approx(4096**2 * 64, rel=1e-3)
    book.says(r"(\$N L D \+ \\tfrac92\\, N C D \\log_2 \(N/L\)\$) in all")
    method, said = ml.MuSe(clusters=8, leaf=256), {}
    for levels, n in enumerate((512, 1024, 2048, 4096), start=1):
        counted = operations(method, n, causal=True) / 64
        assert counted == pytest.approx(n * 256 + 4.5 * n * 8 * levels, rel=0.01)
        said[n] = share_of_exact(method, n, causal=True)
    shares = book.says(
        r"at each of the four; (\d+%) of the products at 512, (\d+%) at 1,024, (\d+%) at 2,048, (\d+%)"
    )
    assert list(said.values()) == pytest.approx(shares, abs=0.006)
    (part,) = book.says(r"though it needs a (third) of the products")
    assert part == "third"
    assert said[1024] == pytest.approx(1 / 3, abs=0.02)


def test_03_gradients_are_those_of_the_approximation(book):
    """Against differences, in float64, with steps so small that no key changes its cluster."""
    book.says(r"autograd gives the exact gradient \*(of the approximation)\*")
    one, generator = ml.load_sample("smollm2")[15], torch.Generator().manual_seed(0)
    q, k, v = one.q[:, :3, :96].double(), one.k[:, :1, :96].double(), one.v[:, :1, :96].double()
    method = ml.MuSe(clusters=4, leaf=24, near=1)
    ways = [torch.randn(x.shape, generator=generator).double() for x in (q, k, v)]

    def energy(step):
        return (
            method(*(x + step * way for x, way in zip((q, k, v), ways, strict=True)), causal=True)
            .square()
            .sum()
        )

    x = [part.clone().requires_grad_() for part in (q, k, v)]
    slopes = torch.autograd.grad(method(*x, causal=True).square().sum(), x)
    along = sum((slope * way).sum() for slope, way in zip(slopes, ways, strict=True))
    assert float(energy(1e-6) - energy(-1e-6)) / 2e-6 == pytest.approx(float(along), rel=1e-5)


def test_07_gradients_are_no_worse_than_the_output(book):
    output, *gradients = book.cell("06").column(r"error of \w+ *: (\S+)")
    queries, rest, out = book.says(
        r"no worse than the output here: ([\d.]+) for the queries and ([\d.]+) .*?, against ([\d.]+)\."
    )
    assert (output, gradients) == (out, [queries, rest, rest])
    assert max(gradients) <= output


def test_09_the_models_are_those_that_are_described(book):
    layers, width = book.says(r"positions by rotation, (\w+) layers, a width of (\d+)\.")
    assert (PRESETS["tiny"].layers, PRESETS["tiny"].width) == (layers, width)
    assert (PRESETS["paper"].layers, PRESETS["paper"].context) == (7, 16_384)


def test_16_all_records_are_runs(book):
    book.says(r"In \*\*all of these records the clusters are (runs) of consecutive positions\*\*")
    for name in (f"training-h100-{name}" for name in RECORDS):
        assert parse_method(record(name)["preset"]["method"]).partition == "runs"
        assert record(name)["date"] in ("2026-11-23", "2026-11-24")
    assert parse_method(record("training-tiny")["preset"]["method"]).partition == "runs"


def test_16_a_step_reads_as_many_tokens_at_either_length(book):
    step, length, steps = book.says(
        r"A step reads ([\d,]+) tokens, as four texts of ([\d,]+) or as one; (\d+) steps are ten million"
    )
    for name, texts in (("16k-central", 4), ("16k-six", 4), ("64k-six", 1), ("64k-six-seed1", 1)):
        preset = record(f"training-h100-{name}")["preset"]
        assert preset["batch"] == texts
        assert preset["context"] * texts == step == 4 * length
    assert steps * step == pytest.approx(1e7, rel=0.05)


def test_17_one_layer_of_seven_saves_less_than_in_the_paper(book):
    share = book.says(
        r"attention is (\d+%) of a step at 16,384 tokens, and one layer of seven is less than a (tenth)"
    )
    (row,) = of("16k-central")["seeds"]
    assert row["exact_attention_seconds"] / row["exact_seconds"] == pytest.approx(share[0], abs=0.005)
    saved, paper, layer, step, free = book.says(
        r"([\d.]+%) less time a step where the paper has ([\d.]+%)\. "
        r"One layer is (\d+) ms of (\d+) here, .* ([\d.]+%): in"
    )
    assert -row["seconds_difference"] / 100 == pytest.approx(saved, abs=5e-4)
    one = row["by_layer"]["3"]["exact"]
    assert (round(one * 1e3), round(row["exact_seconds"] * 1e3)) == (layer, step)
    assert one / row["exact_seconds"] == pytest.approx(free, abs=5e-4)
    assert free < 0.1
    assert free < paper  # so that layer was a larger part there
    assert book.says(r"\*\*([\d.]+%) less time, and a loss ([\d.]+%) higher\*\*") == (0.122, 0.0036)


def test_19_six_layers_save_29_and_65_percent(book):
    (short,) = book.says(r"two seeds: (\d+%) less time for each token")
    for row in of("16k-six")["seeds"]:
        assert -row["seconds_difference"] / 100 == pytest.approx(short, abs=0.006)
    share, long = book.says(r"attention is (\d+%) of a step, and MuSe takes (\d+%) of the step's time away")
    for row in of("64k-six")["seeds"] + of("64k-six-seed1")["seeds"]:
        assert row["exact_attention_seconds"] / row["exact_seconds"] == pytest.approx(share, abs=0.005)
        assert -row["seconds_difference"] / 100 == pytest.approx(long, abs=0.006)
    assert book.says(r"grew from (\d+%) to (\d+%)\. Does") == (short, long)


def test_23_seeds_of_different_lengths_are_not_averaged(book):
    few, many = book.says(r"seeds ended at (\d+) and at (\d+), and their table has no mean")
    found = of("16k-six")
    assert [row["steps"] for row in found["seeds"]] == [few, many]
    assert "no mean" in table(found)
    assert "mean  " not in table(found)
    assert "Held-out loss" not in figure(found).layout.title.text


def test_26_no_difference_of_the_losses_can_be_told_from_chance(book):
    text = book.cell("25").printed
    most, near, far = book.says(
        r"at most ([\d.]+%) away from .*?, where two seeds are ([\d.]+) to ([\d.]+%) apart"
    )
    rows = book.cell("25").rows(r"([\d.]+)% +([+-]\S+)% +([+-]\S+)%")
    apart, *off = zip(*rows, strict=True)
    off = off[0] + off[1]
    assert max(map(abs, off)) / 100 == pytest.approx(most)
    assert (min(apart), max(apart) / 100) == (near, pytest.approx(far))
    assert min(off) < 0 < max(off)
    assert [step for (step,) in book.cell("25").rows(r"(?m)^[\d,]+ +(\d+) ")] == [50, 50, 100, 150]
    assert len(text.splitlines()) - 1 == len(rows) == 4


def test_31_the_second_half_of_a_text_is_more_work(book):
    busy, less, gap, whole = book.says(
        r"rank 1 computes for (\d+%) of the step and rank 0 for (\d+%); the longest gap in rank 0's "
        r"upper lane, (\d+) "
        r"ms of (\d+), is spent waiting for rank 1"
    )
    figure = book.cell("30").value
    assert f"Rank 1 computes for {busy:.0%} of the step, rank 0 for {less:.0%};" in figure.layout.title.text
    first, second = (profile["lanes"] for profile in book.cell("30").run["profiles"])
    assert first["step"][0][1] == pytest.approx(whole, abs=0.5)
    pauses = [(b[0] - a[1], a[1], b[0]) for a, b in itertools.pairwise(first["compute"])]
    length, begin, end = max(pauses)
    assert length == pytest.approx(gap, abs=0.5)
    worked = sum(max(0.0, min(end, b) - max(begin, a)) for a, b in second["compute"])
    assert worked > 0.9 * length, "the other rank is at work meanwhile"


def test_26_a_laptops_size_shows_no_sign_either(book):
    tiny = record("training-tiny")
    said = book.says(
        r"the three differences are (-[\d.]+%), \+([\d.]+%) and (-[\d.]+%): .* takes (\d+) to (\d+%) less"
    )
    assert [row["heldout_loss_difference"] / 100 for row in tiny["seeds"]] == pytest.approx(
        said[:3], abs=5e-5
    )
    assert [row["steps"] for row in tiny["seeds"]] == [300] * 3
    saved = [1 - row["by_layer"]["1"]["muse"] / row["by_layer"]["1"]["exact"] for row in tiny["seeds"]]
    assert (round(100 * min(saved)), round(max(saved), 2)) == said[3:]


def test_exercise_1_a_leaf_as_long_as_the_text_is_exact(small):
    assert abs(small.solution(1)[0].value) < 1e-3


def test_exercise_2_two_rows_to_compare(small):
    assert small.solution(2)[0].column(r"(?m)^(?:held-out loss)? +(\d) +2 +\d\.\d{4} ") == [0, 1]


def test_exercise_3_times_of_the_layer_are_there(small):
    assert small.solution(3)[0].printed.count("'muse'") == 2


def test_exercise_4_either_model_reads_as_well_both_ways(small):
    small.says(r"Each model's two losses agree to a (tenth) of a percent")
    losses = small.solution(4)[0].column(r"learned with \w+, reads with \w+: ([\d.]+)\n")
    assert len(losses) == 4
    for sdpa, muse in (losses[:2], losses[2:]):
        assert muse == pytest.approx(sdpa, rel=1e-3)


def test_32_what_was_recorded_for_2_000_steps(book):
    found = record("losses-h200-16k-2000-steps")
    preset = found["preset"]
    steps, length, millions = book.says(
        r"([\d,]+) steps of one text of ([\d,]+) tokens each, (\d+) million tokens"
    )
    assert (preset["steps"], preset["batch"], preset["context"]) == (steps, 1, length)
    assert steps * length / 1e6 == pytest.approx(millions, abs=0.5)
    assert preset["warmup"] <= steps / 10
    assert [run["seed"] for run in found["runs"]] == [0, 1, 1]
    layers = {side: used and used["layers"] for side, used in found["sides"].items()}
    assert layers["exact"] is None
    assert (layers["k-means in layer 3"], layers["runs in layers 1 to 6"]) == ([3], [1, 2, 3, 4, 5, 6])
    texts, held = book.says(r"A held-out loss is that of (\d+) texts, ([\d,]+) tokens")
    assert (preset["heldout_blocks"], preset["heldout_blocks"] * preset["context"]) == (texts, held)
    assert held < found["text"]["splits"]["heldout"]["tokens"]
    by_means = found["sides"]["k-means in layers 1 to 6"]["method"]
    keys, queries, either = book.says(
        r"by runs \((\d+) clusters of keys, (\d+) of queries, .*? \(`ml\.MuSe\(\)`: (\d+) of either\)"
    )
    by_runs = parse_method(found["sides"]["runs in layers 1 to 6"]["method"])
    assert (by_runs.clusters, by_runs.query_clusters) == (keys, queries)
    assert (parse_method(by_means).clusters, parse_method(by_means).query_clusters) == (either, None)
    assert by_means == "MuSe()"
    assert parse_method(by_means).partition == "kmeans"
    assert "seconds" not in json.dumps(found)


def test_34_the_table_has_every_side_that_both_seeds_finished(book):
    rows = book.cell("34").rows(r"([+-][\d.]+)% +([+-][\d.]+)%")
    assert len(rows) == 3
    means = [statistics.mean(row) for row in rows]
    said = book.says(
        r"the differences are \$(-[\d.]+) .*? central layer, \$(-[\d.]+) .*? six layers and "
        r"\$(-[\d.]+) .*? runs in six"
    )
    assert means == pytest.approx(said, abs=0.05)
    spreads = book.says(r"standard deviations of ([\d.]+)%, ([\d.]+)% and ([\d.]+)%")
    assert [statistics.stdev(row) for row in rows] == pytest.approx(spreads, abs=0.05)


def test_36_where_all_sides_end_and_the_thick_curve(book):
    low, high = book.says(
        r"Every training that reached the last step ended between ([\d.]+) and ([\d.]+) nats"
    )
    ran = book.cell("34")
    ends = [curve[-1] for run in (ran.first, ran.again) for curve in run.values()]
    assert (round(min(ends), 2), round(max(ends), 2)) == (low, high)
    assert ran.rows(r"nats +([\d.]+) +([\d.]+)\n") == [
        (round(ran.first["exact"][-1], 3), round(ran.again["exact"][-1], 3))
    ]
    book.says(r"exact attention against \*itself\*, the (thick) curve")
    *others, itself = book.cell("38").value.data
    assert "itself" in itself.name
    assert itself.line.width > max(curve.line.width for curve in others)


def test_36_what_chance_does_to_a_loss(book):
    ran = book.cell("33")
    end, step, early = book.says(
        r"against \*itself\*, the thick curve: ([\d.]+)% apart at step ([\d,]+), .*? At step ([\d,]+) four"
    )
    steps, exact = ran.apart(ran.once["exact"], ran.again["exact"])
    assert steps[-1] == step
    assert abs(exact[-1]) == pytest.approx(end, abs=0.005)
    twins = [abs(ran.apart(ran.once[side], ran.again[side])[1][steps.index(early)]) for side in ran.again]
    *said, root = book.says(
        r"are ([\d.]+)%, ([\d.]+)%, ([\d.]+)% and ([\d.]+)% away, ([\d.]+)% in the \*\*root mean square"
    )
    assert twins == pytest.approx(said, abs=0.005)
    noise = statistics.mean(x**2 for x in twins) ** 0.5
    assert noise == pytest.approx(root, abs=0.005)
    within, student = book.says(
        r"within ([\d.]+)% \(95%; Student's factor for these four differences, .*? is ([\d.]+)\)"
    )
    assert student == pytest.approx(scipy.stats.t.ppf(0.975, len(twins)), abs=0.005)
    sure = scipy.stats.t.ppf(0.975, len(twins)) * noise / 2**0.5
    assert sure == pytest.approx(within, abs=0.05)
    (worst,) = book.says(r"nor is any likely to be worse than exact attention by more than ([\d.]+)%")
    means = [statistics.mean(row) for row in book.cell("34").rows(r"([+-][\d.]+)% +([+-][\d.]+)%")]
    assert max(means) + sure == pytest.approx(worst, abs=0.05)
    assert all(abs(mean) < sure for mean in means)
    paper, pairs, surer = book.says(
        r"errors of the paper's ([\d.]+)% it takes (\d+) such pairs, and (\d+) to find it"
    )
    assert (2 * noise / paper) ** 2 == pytest.approx(pairs, abs=0.5)
    found = sum(map(statistics.NormalDist().inv_cdf, (0.975, 0.8)))
    assert (found * noise / paper) ** 2 == pytest.approx(surer, abs=0.5)
    (low, high) = book.says(r"are ([\d.]+) to ([\d.]+)% apart after 1,400 steps on a GPU")
    assert (min(twins), max(twins)) == pytest.approx((low, high), abs=0.05)


def test_36_other_seeds_are_hardly_further_apart_than_twins(book):
    ran = book.cell("33")
    seeds = [abs(ran.apart(ran.again[side], ran.first[side])[1][-1]) for side in ran.again]
    *said, root = book.says(
        r"at the end ([\d.]+)%, ([\d.]+)%, ([\d.]+)% and ([\d.]+)%, ([\d.]+)% in the root mean square"
    )
    assert seeds == pytest.approx(said, abs=0.05)
    assert statistics.mean(x**2 for x in seeds) ** 0.5 == pytest.approx(root, abs=0.05)


def test_36_what_the_means_leave_out(book):
    """Exact attention's second training is the worse one at every look, and runs in layer 3 have no second seed."""
    ran = book.cell("33")
    least, most = book.says(
        r"from its first they would lie ([\d.]+) to ([\d.]+) points higher at step 1,800, so nearer to zero"
    )
    moved = []
    assert all(y < 0 for y in ran.apart(ran.once["exact"], ran.again["exact"])[1])
    once, again = (run["exact"][ran.found["steps"].index(1800)] for run in (ran.once, ran.again))
    for side in list(ran.again)[1:]:
        loss = ran.again[side][ran.found["steps"].index(1800)]
        moved.append(100 * (loss / once - loss / again))
        assert loss / again < loss / once < 1
    assert (min(moved), max(moved)) == pytest.approx((least, most), abs=0.005)
    end, earlier = book.says(
        r"exact attention: \+([\d.]+)% with seed 0, and \+([\d.]+)% at step 1,600 of seed 1's first"
    )
    runs = "runs in layer 3"
    assert runs not in ran.again
    assert ran.apart(ran.first[runs], ran.first["exact"])[1][-1] == pytest.approx(end, abs=0.005)
    steps, first = ran.apart(ran.once[runs], ran.once["exact"])
    assert (steps[-1], first[-1]) == (1600, pytest.approx(earlier, abs=0.005))


def test_36_six_layers_of_k_means_lie_below_at_every_look(book):
    book.says(r"K-means in six layers lies below exact attention at each of its (twenty) looks")
    curves = [trace.y for trace in book.cell("38").value.data if "layers 1 to 6" in trace.name]
    assert sum(map(len, curves)) == 20
    assert all(y < 0 for curve in curves for y in curve)


def test_37_the_timed_records_have_no_window_and_no_clusters_by_k_means(book):
    book.says(r"(No run here) asks whether a window or a smaller model of the same cost would do as well")
    (slower,) = book.says(
        r"One alone of those with times has clusters by k-means, on an H200 in the central layer: ([\d.]+%) \*more\*"
    )
    means = record("training-h200-16k-kmeans-central")
    assert (parse_method(means["preset"]["method"]).partition, means["preset"]["muse_layers"]) == (
        "kmeans",
        [3],
    )
    assert means["summary"]["seconds_difference"]["mean"] / 100 == pytest.approx(slower, abs=6e-4)
    methods = [of(name)["preset"]["method"] for name in RECORDS]
    # Another partition than the one that stands without being named.
    assert all(method.startswith("MuSe(") and "partition=" in method for method in methods)


def test_07_each_document_has_one_chance_in_twenty(book):
    book.says(r"(Each has one chance in twenty), drawn by a hash of its name and however long it is")
    held = [is_heldout(f"{i}.py", seed=0) for i in range(20_000)]
    assert sum(held) / len(held) == pytest.approx(1 / 20, abs=0.005)
    assert held[:99] == [is_heldout(f"{i}.py", seed=0) for i in range(99)]


def test_15_a_live_run_may_end_sooner(book):
    (steps,) = book.says(
        r"say much after (\d+) steps of one seed, or fewer: both sides stop after `max_seconds`"
    )
    code = "".join(cell.source for cell in book.cells if cell.cell_type == "code")
    assert f'"steps": {steps:.0f}' in code
    assert "max_seconds=25" in code


def test_16_records_are_the_monopole_without_near_clusters_and_early(book):
    (most,) = book.says(
        r"All have the (?:monopole) and no near clusters, .*? And they have (\d+) steps at most"
    )
    for name in RECORDS:
        method = parse_method(of(name)["preset"]["method"])
        assert (method.order, method.near) == ("monopole", 0)
    assert max(row["steps"] for name in RECORDS for row in of(name)["seeds"]) == most


def test_26_the_last_step_has_no_second_seed(book):
    below, step = book.says(
        r"\(The (-[\d.]+%) of the last table is step (\d+), which one seed alone has reached"
    )
    (row,) = of("64k-six")["seeds"]
    assert (row["steps"], round(row["heldout_loss_difference"], 2) / 100) == (step, pytest.approx(below))
    assert all(other["steps"] < step for other in of("64k-six-seed1")["seeds"])


def test_03_clusters_are_made_in_every_forward_pass(book):
    book.says(r"So clusters are made again in \*\*(every forward pass)\*\*")
    one = ml.load_sample("smollm2")[15]
    q, k, v = one.q[:, :3, :256], one.k[:, :1, :256], one.v[:, :1, :256]
    method, turned = (
        ml.MuSe(clusters=8, leaf=64),
        torch.randperm(256, generator=torch.Generator().manual_seed(0)),
    )
    before = method(q, k, v, causal=True)
    method(q, k[:, :, turned], v, causal=True)  # other keys meanwhile leave nothing behind
    assert torch.equal(before, method(q, k, v, causal=True))
    more, exact = book.says(r"recorded on an H200, that layer took (\d+) ms a step instead of (\d+)\.")
    for row in record("training-h200-16k-kmeans-central")["seeds"]:
        layer = row["by_layer"]["3"]
        assert (round(layer["muse"] * 1e3), round(layer["exact"] * 1e3)) == (more, exact)


def test_07_why_notebook_3_has_worse_gradients(book):
    *full, output = book.says(
        r"Notebook 3 had the opposite: ([\d.]+), ([\d.]+) and ([\d.]+), where .*? has ([\d.]+)\."
    )
    causal = book.says(r"with that loss causal attention has ([\d.]+), ([\d.]+) and ([\d.]+), so the")
    ran = book.cell("06")
    towards = torch.randn(1, 3, 1024, 64, generator=torch.Generator().manual_seed(0))

    def wrong(method, mask):
        both = []
        for one in (ml.Exact(), method):
            x = [part.clone().requires_grad_() for part in ran.parts]
            out = one(*x, scale=ran.sample.scale, causal=mask)
            both.append([out.detach(), *torch.autograd.grad((out * towards).sum(), x)])
        return [((m - e).square().sum() / e.square().sum()).item() for e, m in zip(*both, strict=True)]

    of_full, of_causal = wrong(ml.MuSe(), False), wrong(ml.MuSe(clusters=32, leaf=256), True)
    assert of_full == pytest.approx([output, *full], abs=6e-4)
    assert of_causal[1:] == pytest.approx(causal, abs=6e-5)
    assert of_causal[1] > of_causal[0] > of_causal[3]
    times = [a / b for a, b in zip(of_full[1:], of_causal[1:], strict=True)]
    few, many = book.says(
        r"under one loss causal gradients, .*? are forty to a hundred times better than full ones, even with (\d+) "
        r"clusters against (\d+)\."
    )
    assert (few, many) == (32, ml.MuSe().clusters)
    assert (min(times), max(times)) == pytest.approx((40, 100), rel=0.05)


@pytest.mark.skipif(sys.version_info[:3] != (3, 11, 7), reason="another Python has other documents")
def test_07_how_much_is_held_out(book):
    few, documents, held, tokens, part = book.says(
        r"With Python 3\.11\.7 (\w+) long documents of (\d+) are held out, and they have ([\d,]+) of the "
        r"([\d,]+) tokens: (\d+%) and not a twentieth"
    )
    parts = book.cell("08").value
    assert parts["heldout"]["documents"] == few
    assert parts["train"]["documents"] == documents - few
    assert (parts["heldout"]["tokens"], parts["train"]["tokens"]) == (held, tokens - held)
    assert held / tokens == pytest.approx(part, abs=0.005)


def test_26_how_many_pairs_of_seeds_would_do(book):
    spread, said = book.says(
        r"The three differences have one of ([\d.]+)%\. .*? standard error of \$([\d.]+)\\% / \\sqrt n\$"
    )
    many, few, degrees, sure, paper, seeds, last = book.says(
        r"95 times in 100: (\w+) for many seeds, ([\d.]+) for three, .*? \$n - 1 = (\d)\$ \*degrees "
        r"of freedom.*? So "
        r"three seeds say \$\\pm ([\d.]+)\\%\$\. To bring that to the paper's ([\d.]+)% takes about "
        r"(\d+) seeds \(a "
        r"factor of ([\d.]+)\)"
    )
    rows = record("training-tiny")["seeds"]
    differences = [row["heldout_loss_difference"] for row in rows]
    (alone,) = book.says(r"exact attention have a standard deviation of ([\d.]+)% over these seeds")
    losses = [row["exact_heldout_loss"] for row in rows]
    assert 100 * statistics.stdev(losses) / statistics.mean(losses) == pytest.approx(alone, abs=0.05)
    deviation = statistics.stdev(differences)
    assert deviation == pytest.approx(spread, abs=0.005)
    assert said == spread
    factor = [math.nan, math.nan, *(scipy.stats.t.ppf(0.975, n - 1) for n in range(2, 100))]
    assert degrees == len(rows) - 1
    assert (round(factor[len(rows)], 1), round(factor[-1])) == (few, many)
    within = [math.inf, math.inf, *(factor[n] * deviation / n**0.5 for n in range(2, 100))]
    assert within[len(rows)] == pytest.approx(sure, abs=0.05)
    assert within[int(seeds)] <= paper < within[int(seeds) - 1]
    assert factor[int(seeds)] == pytest.approx(last, abs=0.005)
    assert book.says(r"\(The (\d+) above are of a CPU and 300 steps, with a spread of ([\d.]+)%") == (
        seeds,
        spread,
    )
    book.says(
        r"Both sides of a seed begin with the same (weights) and read the same text: they are a \*pair\*"
    )


def test_03_a_step_against_the_gradient_lowers_the_loss_that_is_computed(book):
    book.says(r"a small step against it (lowers) that loss")
    layer, method = ml.load_sample("smollm2")[15], ml.MuSe(clusters=8, leaf=64)
    q, k, v = (x[:, :1, :512].float() for x in (layer.q, layer.k, layer.v))
    towards = torch.randn(v.shape, generator=torch.Generator().manual_seed(0))

    def loss(x):
        return (method(x, k, v, causal=True) * towards).sum()

    x = q.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(x), x)
    assert loss(q - 1e-2 * slope / slope.norm()) < loss(q)


def test_15_and_26_what_a_record_does_not_have(book):
    book.says(r"On a laptop the clock of a run of (60) steps is mostly noise")
    book.says(r"The error of MuSe's output was (not measured) while a model learned")
    for name in RECORDS:
        text = json.dumps(of(name))
        assert '"rse"' not in text
        assert '"error"' not in text
        assert "memory" not in text


def test_21_how_many_times_as_fast_and_the_most_that_can_be_saved(book):
    times, most = book.says(
        r"away: ([\d.]+) times as many tokens a second\. Attention that cost nothing would save the (\d+%)"
    )
    for row in of("64k-six")["seeds"] + of("64k-six-seed1")["seeds"]:
        faster = row["muse_tokens_per_second"] / row["exact_tokens_per_second"]
        assert faster == pytest.approx(times, abs=0.05)
        assert row["exact_attention_seconds"] / row["exact_seconds"] == pytest.approx(most, abs=0.005)


def test_21_from_which_length_a_gpu_gains(book):
    *said, middle, long = book.says(
        r"runs are ([\d.]+) times as fast as exact attention at 16,384 tokens and ([\d.]+) times at "
        r"65,536; 64 "
        r"clusters by k-means ([\d.]+) and ([\d.]+) times\. (So) runs gain below 16,384 already, "
        r"and k-means (begins)"
    )
    found = {}
    for name in ("causal-backward-8x64", "causal-backward-runs-8x64", "causal-backward-runs-8x64-64k"):
        for row in record(f"h100-{name}")["rows"]:
            assert (row["causal"], row["backward"], row["heads"]) == (True, True, 8)
            found[parse_method(row["method"]).partition, row["n"]] = row["speedup"]
    assert parse_method(record("h100-causal-backward-8x64")["rows"][0]["method"]).clusters == 64
    rates = [found[name, n] for name in ("runs", "kmeans") for n in (16_384, 65_536)]
    assert rates == pytest.approx(said, abs=0.05)
    assert rates[0] > 1 > rates[2]
    assert rates[3] > 1


def test_23_equal_time(book):
    seconds, few, many, behind, ahead, look, slower, fewer = book.says(
        r"In the ([\d.]+) s that exact attention takes for (\d+) steps at 65,536 tokens, MuSe takes "
        r"(\d+): exact "
        r"attention is at a loss of ([\d.]+) then, and MuSe was at ([\d.]+) after step (\d+)\. .*? "
        r"central layer, "
        r"([\d.]+%) more time a step, has (\d+%) fewer steps"
    )
    (row,) = of("64k-six")["seeds"]
    assert few * row["exact_seconds"] == pytest.approx(seconds, abs=0.05)
    assert int(few * row["exact_seconds"] / row["muse_seconds"]) == many > look
    losses = {
        side: dict(zip(curve["heldout_step"], curve["heldout_loss"], strict=True))
        for side, curve in of("64k-six")["curves"]["0"].items()
    }
    assert losses["exact"][few] == pytest.approx(behind, abs=0.005)
    assert losses["muse"][look] == pytest.approx(ahead, abs=0.005)
    difference = record("training-h200-16k-kmeans-central")["summary"]["seconds_difference"]["mean"] / 100
    assert difference == pytest.approx(slower, abs=6e-4)
    assert 1 - 1 / (1 + difference) == pytest.approx(fewer, abs=0.005)


def test_16_why_128_and_16_and_how_much_is_held_out(book):
    keys, queries, tried, held = book.says(
        r"no near clusters, (\d+) clusters of keys and (\d+) of queries: of the (\w+) settings "
        r"tried .*? fastest at "
        r"both lengths\. A held-out loss is that of ([\d,]+) tokens"
    )
    for n in (16_384, 65_536):
        scan = record("h100-scan-runs")["rows"]
        rows = {row["method"]: row["ms"] for row in scan if row["n"] == n and row["backward"]}
        fastest = parse_method(min(rows, key=rows.get))
        assert (len(rows), fastest.clusters, fastest.query_clusters) == (tried, keys, queries)
    for name in RECORDS:
        preset, method = of(name)["preset"], parse_method(of(name)["preset"]["method"])
        assert preset["heldout_blocks"] * preset["context"] == held
        assert (method.clusters, method.query_clusters) == (keys, queries)


def test_11_the_held_out_loss_is_of_the_same_first_texts(book):
    texts, tokens = book.says(
        r"the first (\w+) texts of the held-out .*? the same at every look: ([\d,]+) tokens"
    )
    ran = book.cell("08")
    assert ran.preset.heldout_blocks == texts
    assert ran.preset.heldout_blocks * ran.preset.context == tokens
    looked = list(Sequences(ran.corpus, "heldout", ran.preset.context, int(texts)))
    ids = torch.cat([one["input_ids"] for one in looked])
    assert torch.equal(ids, torch.from_numpy(ran.corpus.tokens("heldout")[: int(tokens)].astype("int64")))


def test_16_the_losses_are_between_guessing_and_what_is_learned(book):
    tokens, even, low, high = book.says(
        r"guessing evenly among ([\d,]+) tokens costs .*? = ([\d.]+)\$ nats, and these end between "
        r"([\d.]+) and "
        r"([\d.]+)\."
    )
    losses = [row["exact_heldout_loss"] for name in RECORDS for row in of(name)["seeds"]]
    assert {of(name)["preset"]["vocab"] for name in RECORDS} == {tokens}
    assert math.log(tokens) == pytest.approx(even, abs=0.005)
    assert low < min(losses) < low + 0.05
    assert high - 0.05 < max(losses) < high


def test_26_a_mean_hides_what_is_rare(book):
    loss, rises = book.says(r"one token in a thousand .*? a loss of ([\d.]+) rises by ([\d.]+%)")
    assert 1e-3 / loss == pytest.approx(rises, abs=5e-6)
    longest = record("losses-h200-16k-2000-steps")["runs"][-1]["heldout_loss"]["exact"][-1]
    assert round(longest, 1) == loss


def test_11_both_sides_have_one_preset(small):
    small.says(
        r"(Both sides have one preset): the same rate of learning, the same batches; nothing "
        r"differs but the attention"
    )
    folder = small.cell("13").folder
    exact, muse = (
        json.loads((folder / "seed-0" / side / SETTINGS).read_text()) for side in ("exact", "muse")
    )
    assert exact["rate"] > 0
    differ = {name for name in exact | muse if exact.get(name) != muse.get(name)}
    assert differ == {"attention", "method", "muse_layers"}


def test_41_what_a_single_key_learns(book):
    """The formulas against autograd, for one cluster of the sample about one point."""
    book.says(r"all of them learn the (same): \$\\frac1n\$ of the mean's gradient each")
    book.says(r"\\frac\{\\partial\}\{\\partial v_n\} = (w_n)\\, g_v, \\qquad")
    book.says(
        r"= (w_n) \\big\[\\, g_k \+ s\\,p\\,\\big\(g_a \+ \(k_n - \\tilde k\)\\cdot g_k \+ \(v_n - "
        r"\\tilde v\)\\cdot g_v\\big\)"
    )
    one, scale = ml.load_sample("smollm2")[15], ml.load_sample("smollm2").scale
    p, k, v = (x[0, 0, :20].double() for x in (one.q, one.k, one.v))
    p, (g_k, g_v) = p[0], torch.randn(2, k.shape[-1], generator=torch.Generator().manual_seed(0)).double()
    g_a = 0.7
    k.requires_grad_()
    v.requires_grad_()
    logits = scale * k @ p
    w = logits.softmax(0)
    mean_k, mean_v = w @ k, w @ v
    energy = g_a * logits.logsumexp(0) + mean_k @ g_k + mean_v @ g_v
    by_k, by_v = torch.autograd.grad(energy, (k, v), retain_graph=True)
    own = g_a + (k - mean_k) @ g_k + (v - mean_v) @ g_v
    torch.testing.assert_close(by_v, w[:, None] * g_v)
    torch.testing.assert_close(by_k, w[:, None] * (g_k + scale * own[:, None] * p))
    (plain,) = torch.autograd.grad(k.mean(0) @ g_k, k)
    torch.testing.assert_close(plain, (g_k / len(k)).expand_as(plain))
    book.says(
        r"the matrix \$M = \\sum_n w_n (\(v_n - \\tilde v\)\(k_n - \\tilde k\))\^\{\\mathsf T\}\$ of notebook 3"
    )
    book.says(r"\$v_n\$ gets \$(w_n)\\, G\\, \(k_n - \\tilde k\)\$ on top")
    dipole = (w[:, None, None] * (v - mean_v)[:, :, None] * (k - mean_k)[:, None, :]).sum(0)
    G = torch.randn(dipole.shape, generator=torch.Generator().manual_seed(1)).double()
    (on_top,) = torch.autograd.grad((dipole * G).sum(), v, retain_graph=True)
    torch.testing.assert_close(on_top, w[:, None] * ((k - mean_k) @ G.T))
    (more,) = torch.autograd.grad((dipole @ g_k) @ g_v, k)
    across = more / w.detach()[:, None]
    across = across - (across @ p)[:, None] * p / (p @ p)  # what is not along p
    assert (across - across[0]).norm() > 0.1 * across.norm()  # differs from key to key


def test_19_what_a_faster_layer_saves(book):
    times, layer, kept, saves, measured, wanted, third, share = book.says(
        r"the layer becomes ([\d.]+) times as fast, which makes ([\d.]+%) · ([\d.]+) = ([\d.]+%), "
        r"and ([\d.]+%) was "
        r"measured\. To save ([\d.]+%) at \$s = (\d)\$ takes \$f = (\d+)\\%\$"
    )
    (row,) = of("16k-central")["seeds"]
    f = row["by_layer"]["3"]["exact"] / row["exact_seconds"]
    s = row["by_layer"]["3"]["exact"] / row["by_layer"]["3"]["muse"]
    assert (s, f, 1 - 1 / s) == (
        pytest.approx(times, abs=0.05),
        pytest.approx(layer, abs=5e-4),
        pytest.approx(kept, abs=0.005),
    )
    assert f * (1 - 1 / s) == pytest.approx(saves, abs=5e-4)
    assert -row["seconds_difference"] / 100 == pytest.approx(measured, abs=5e-4)
    assert round(100 * wanted / (1 - 1 / third)) == share


def test_45_the_differences_have_no_trend(book):
    begin, end, nats, moved, *six = book.says(
        r"from step ([\d,]+) to step ([\d,]+) exact attention's loss falls by ([\d.]+) nats with "
        r"either seed, and none of the "
        r"seven differences moves by more than ([\d.]+) points\. \(K-means in six layers: "
        r"-([\d.]+)% and -([\d.]+)% with "
        r"seed 0, -([\d.]+)% and -([\d.]+)% with seed 1\.\)"
    )
    ran = book.cell("33")
    first, last = (ran.found["steps"].index(step) for step in (begin, end))
    moves, seen = [], []
    for run in (ran.first, ran.again):
        exact = run["exact"]
        assert exact[first] - exact[last] == pytest.approx(nats, abs=0.005)
        for side in list(run)[1:]:
            apart = ran.apart(run[side], exact)[1]
            moves.append(apart[last] - apart[first])
            if side == "k-means in layers 1 to 6":
                seen += [-apart[first], -apart[last]]
    assert len(moves) == 7
    assert max(map(abs, moves)) == pytest.approx(moved, abs=0.005)
    assert min(moves) < 0 < max(moves)
    assert seen == pytest.approx(six, abs=0.005)


def test_37_what_a_hundredth_of_a_nat_is(book):
    nats, more, few, many, begin, end = book.says(
        r"What would ([\d.]+) nat mean\? (\d%) more perplexity, or (\d+) to (\d+) more steps at the "
        r"rate at which exact "
        r"attention learns from step ([\d,]+) to ([\d,]+)\."
    )
    assert math.exp(nats) - 1 == pytest.approx(more, abs=5e-4)
    ran = book.cell("33")
    steps = ran.found["steps"]
    rates = [
        (run["exact"][steps.index(begin)] - run["exact"][steps.index(end)]) / (end - begin)
        for run in (ran.first, ran.again)
    ]
    assert sorted(round(nats / rate) for rate in rates) == [few, many]


def test_44_which_share_of_pairs_is_exact(book):
    leaf, length, share, longer, less, rest = book.says(
        r"With a leaf of ([\d,]+) tokens 1,024 / ([\d,]+) = ([\d.]+%) of a layer's pairs are exact, "
        r"at ([\d,]+) tokens "
        r"([\d.]+%); .*? in one layer of seven (\w+) layers see everything"
    )
    assert leaf / length == share
    assert leaf / longer == pytest.approx(less, abs=5e-4)
    for n in (length, longer):  # pairs of blocks of a leaf, of all pairs of a text, both causal
        assert (n // leaf) * leaf**2 / n**2 == leaf / n
    for name in RECORDS:
        assert f"leaf={int(leaf)}" in of(name)["command"]
        assert of(name)["preset"]["context"] in (length, longer)
    one = of("16k-central")["preset"]
    assert one["layers"] - len(one["muse_layers"]) == rest
    book.says(r"(neither was recorded)\.")
    for name in RECORDS:
        for sides in of(name)["curves"].values():
            assert not any("position" in key or "task" in key for side in sides.values() for key in side)

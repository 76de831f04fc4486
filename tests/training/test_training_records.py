"""What the guide to training says of recorded runs, from the records."""

import re
from pathlib import Path

import pytest
import scipy.stats

from multipole_lab.bench.recorded import record
from multipole_lab.training.comparison_result import figure, table

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "training.md").read_text(encoding="utf-8")
H200 = {
    "runs in layer 3 of 7": "runs-central",
    "k-means in layer 3 of 7": "kmeans-central",
    "runs in layers": "runs-six",
}


def said(pattern):
    """The numbers that the guide says, in one line whatever its breaks."""
    found = re.search(pattern, re.sub(r"\s+", " ", GUIDE))
    assert found, pattern
    return [float(x.replace(",", "")) for x in found.groups()]


@pytest.mark.parametrize("words", H200)
def test_the_table_of_the_h200(words):
    cells = next(line for line in GUIDE.splitlines() if line.startswith(f"| {words}")).strip("|").split("|")
    numbers = [[float(x) for x in re.findall(r"[+-]?\d+(?:\.\d+)?", cell)] for cell in cells[1:]]
    found = record(f"training-h200-16k-{H200[words]}")
    assert (found["device"], len(found["seeds"])) == ("NVIDIA H200", 2)
    mean = {name: x["mean"] for name, x in found["summary"].items()}
    assert numbers[0] == pytest.approx([1e3 * mean["exact_seconds"], 1e3 * mean["muse_seconds"]], abs=0.06)
    assert numbers[1] == pytest.approx([mean["seconds_difference"]], abs=0.5 if "layers" in words else 0.06)
    change = [
        100 * (row["by_layer"]["3"]["muse"] / row["by_layer"]["3"]["exact"] - 1) for row in found["seeds"]
    ]
    assert numbers[2] == pytest.approx([sum(change) / 2], abs=0.6)
    loss = found["summary"]["heldout_loss_difference"]
    assert numbers[3] == pytest.approx([loss["mean"], loss["deviation"]], abs=0.006)
    assert abs(loss["mean"]) < 2 * loss["deviation"]  # no more than the seeds differ
    steps = {row["steps"] for row in found["seeds"]}
    tokens = said(r"two seeds, (\d+) steps or ([\d.]+) million tokens each")
    assert [*steps, found["preset"]["batch"] * found["preset"]["context"] * 176 / 1e6] == pytest.approx(
        tokens, abs=0.06
    )


LONG = record("losses-h200-16k-2000-steps")


@pytest.mark.parametrize("side", [side for side in LONG["sides"] if side != "exact"])
def test_the_losses_of_2_000_steps(side):
    seed_0, _, seed_1 = (run["heldout_loss"] for run in LONG["runs"])
    row = next(
        line for line in GUIDE.splitlines() if re.match(rf"\| {side}( of 7)?( \(`MuSe\(\)`\))? \| [+-]", line)
    )
    cells = [[float(x) for x in re.findall(r"[+-]?\d+\.\d+", cell)] for cell in row.strip("|").split("|")[1:]]
    differences = [100 * (run[side][-1] / run["exact"][-1] - 1) for run in (seed_0, seed_1) if side in run]
    assert [x for cell in cells[: len(differences)] for x in cell] == pytest.approx(differences, abs=0.005)
    if len(differences) == 2:
        noise = sum((100 * (twin / seed_1[name][6] - 1)) ** 2 / 4 for name, twin in _twins()) ** 0.5
        interval = scipy.stats.t.ppf(0.975, 4) * noise / 2**0.5
        assert cells[2] == pytest.approx([sum(differences) / 2, interval], abs=0.05)
        assert said(r"\(([\d.]+)% in the root mean square of four\)") == pytest.approx([noise], abs=0.005)
        paper, pairs = said(r"For two standard errors of the paper's ([\d.]+)% it takes (\d+) pairs")
        assert (2 * noise / paper) ** 2 == pytest.approx(pairs, abs=0.5)


def test_how_far_the_twins_of_seed_1_are_apart():
    *ends, step = said(r"were ([\d.]+) to ([\d.]+)% apart at step ([\d,]+)")
    assert LONG["steps"][6] == step
    apart = [abs(100 * (twin / LONG["runs"][2]["heldout_loss"][name][6] - 1)) for name, twin in _twins()]
    assert [min(apart), max(apart)] == pytest.approx(ends, abs=0.005)
    first = LONG["runs"][1]["heldout_loss"]
    difference, step = said(r"runs in layer 3 of 7 \| \+0\.88% \| ([+-][\d.]+)% at step ([\d,]+)")
    last = LONG["steps"].index(step)
    measured = 100 * (first["runs in layer 3"][last] / first["exact"][last] - 1)
    assert measured == pytest.approx(difference, abs=0.005)
    (other,) = said(r"\(from the first exact training; ([+-][\d.]+)% from the second\)")
    second = LONG["runs"][2]["heldout_loss"]["exact"]
    assert 100 * (first["runs in layer 3"][last] / second[last] - 1) == pytest.approx(other, abs=0.005)


def _twins():
    """What seed 1's first training had reached at step 1,400, for those that were trained again."""
    _, first, again = (run["heldout_loss"] for run in LONG["runs"])
    return [(name, first[name][6]) for name in again]


def test_when_one_layer_can_save_what_the_paper_says():
    rows = re.findall(r"^\| (?:16,384|65,536) tokens, H\d00 \|(.*)\|$", GUIDE, re.MULTILINE)
    rows = [[float(x) for x in re.findall(r"([\d.]+)%", row)] for row in rows]
    needed, least = said(r"what ([\d.]+)% would need \|.*?more than (\d+)%")
    short, long = (record(name) for name in ("training-h200-16k-runs-central", "training-h100-64k-six"))
    parts, shares = [], []
    for found in (short, long):
        row = found["seeds"][0]
        layer = row["by_layer"]["3"]
        parts += [100 * layer["exact"] / row["exact_seconds"], 100 * (1 - layer["muse"] / layer["exact"])]
        shares.append(100 * row["exact_attention_seconds"] / row["exact_seconds"])
    for row, (part, taken), share in zip(rows, (parts[:2], parts[2:]), shares, strict=True):
        assert row == pytest.approx([part, taken, part * taken / 100, share], abs=0.6)
        assert row[2] == pytest.approx(part * taken / 100, abs=0.06)
    assert least == pytest.approx(7 * needed, abs=0.6)
    measured = short["summary"]["seconds_difference"]["mean"]
    assert said(
        r"Of the ([\d.]+)% that the first row foretells the whole step showed ([\d.]+)%"
    ) == pytest.approx([rows[0][2], -measured], abs=0.06)
    shares = said(
        r"On the H100 one layer of seven is ([\d.]+) ms of ([\d.]+): a layer that cost nothing would save ([\d.]+)%\. "
        r"The ([\d.]+)% above are of the H200, whose step is shorter: ([\d.]+) ms of ([\d.]+)\."
    )
    older = record("training-h100-16k-central")["seeds"][0]
    rows = [
        (1e3 * row["by_layer"]["3"]["exact"], 1e3 * row["exact_seconds"])
        for row in (older, short["seeds"][0])
    ]
    (a, b), (c, d) = rows
    assert shares == pytest.approx([a, b, 100 * a / b, 100 * c / d, c, d], abs=0.12)


@pytest.mark.parametrize("name", ["h100-16k-central", "h100-16k-six", "h100-64k-six", "h200-16k-runs-six"])
def test_a_record_is_shown_in_the_names_of_today(name):
    found = record(f"training-{name}")
    for words in (table(found), figure(found).layout.title.text):
        assert "partition='runs'" in words.replace("<br>", " ").replace("\n", " ")

"""Panels by their traits, as a slider would set them: what is drawn, exported, and said of a bad choice."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from every_panel import ONE_FIGURE, takes_sample, titled

from multipole_lab import panels
from multipole_lab.measure.heads import one_head
from multipole_lab.models.samples.sample import Sample
from multipole_lab.panels.common.shown import parts_of
from multipole_lab.panels.common.sync import changes

pytestmark = pytest.mark.usefixtures("few_candidates")


TOKENS = 512


@pytest.fixture(scope="module")
def sample():
    """Three layers of made-up queries and keys in groups: 4 query heads on 2 key heads."""
    random = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in (1, 2, 3):
        centres = torch.randn(12, 16, generator=random)
        group = torch.randint(0, 12, (TOKENS,), generator=random)
        for part, heads in (("q", 4), ("k", 2), ("v", 2)):
            noise = 0.3 * torch.randn(1, heads, TOKENS, 16, generator=random)
            tensors[f"layer.{layer}.{part}"] = (centres[group] + noise).half()
    ids = torch.arange(TOKENS)
    words = [f" word{i % 9}" for i in range(TOKENS)]
    return Sample([1, 2, 3], ids, words, scale=0.25, rope={}, provenance={}, tensors=tensors)


def make(name, sample):
    if name == "expansion":
        return panels.expansion(steps=15)
    return getattr(panels, name)(**({"sample": sample} if takes_sample(name) else {}))


MOVES = {
    "blocks": {"layer": 3, "head": 3, "context": 256, "leaf": 64, "clusters": 8, "near": 2, "order": "dipole",
               "colour": "error"},
    "clusters": {"layer": 3, "head": 3, "context": 256, "clusters": 32, "cap": 1.0, "iterations": 3,
                 "seed": 4, "spotlight": 1, "view": "3-D"},
    "cost": {"tokens": 1024, "heads": 4, "size": 64, "batch": 2, "layers": 1, "clusters": 16, "near": 2, "leaf": 64,
             "order": "dipole", "method": "Window", "budget": 64, "attention": "full"},
    "decode": {"layer": 3, "head": 1, "context": 256, "budget": 64, "share": 4, "sinks": 0, "recent": 16, "step": 7,
               "levels": "one", "others": "dropped"},
    "expansion": {"p_x": -1.0, "p_y": 2.0, "query_x": 0.0, "query_y": -1.0, "clusters": 3, "spread": 0.3,
                  "seed": 2, "order": "dipole", "field": "output"},
    "error": {"layer": 3, "head": 3, "context": 256, "clusters": 16, "cap": 1.0, "iterations": 3, "seed": 4,
              "near": 2, "method": "centroid", "order": "dipole"},
    "front": {"layer": 1, "context": 256, "budget": 200, "attention": "causal"},
    "lens": {"layer": 3, "head": 2, "context": 256, "query": 200, "clusters": 16, "near": 4, "leaf": 64,
             "order": "dipole", "attention": "full"},
    "matrix": {"layer": 3, "head": 2, "context": 256, "attention": "causal", "sort": "cluster", "clusters": 16,
               "near": 4, "order": "dipole", "leaf": 64},
    "roofline": {"device": "T4", "tokens": 1024, "clusters": 16, "near": 4, "head": 128},
    "speed": {"layer": 1, "clusters": 16, "iterations": 0, "near": 1},
    "writing": {"layer": 3, "head": 1, "context": 256, "budget": 64, "levels": "one", "others": "dropped", "word": 7},
}  # fmt: skip


QUICK = [name for name in MOVES if name not in ("cost", "front", "speed", "writing")]  # those measure


def test_every_panel_of_a_sample_is_moved():
    assert set(MOVES) == set(ONE_FIGURE) - {"tuner"}  # which has a file of its own


@pytest.mark.parametrize("name", MOVES)
def test_every_control_is_described_and_shown(name, sample):
    panel = make(name, sample)
    for control in panel.controls.values():
        assert control.description
        assert control.tooltip
        assert getattr(control, "continuous_update", False) is False  # before anything has been measured
    assert panel.message == ""
    assert panel.figure().data, "an empty picture"


@pytest.mark.parametrize(("name", "control"), [(name, c) for name in QUICK for c in MOVES[name]])
def test_moving_one_control_changes_the_picture(name, control, sample):
    panel = make(name, sample)
    if control == "order" and name == "expansion":
        panel.set(field="output")  # the dipole corrects values; the log mass has none
    if control == "leaf" and name == "matrix":
        panel.set(attention="causal")
    before = panel.figure().to_json()
    panel.controls[control].value = MOVES[name][control]
    assert panel.message == ""
    assert panel.figure().to_json() != before
    assert panel.state()[control] == MOVES[name][control]


def left_behind(panel):
    """What the widget on the page still has of an earlier picture, or lacks of the present one."""
    shown, wanted = panel._shown, parts_of(panel.figure())
    assert len(shown._data) == len(wanted["data"])
    layout, *traces = map(changes, [shown._layout, *shown._data], [wanted["layout"], *wanted["data"]])
    return [*layout, *(f"data[{i}].{path}" for i, trace in enumerate(traces) for path in trace)]


@pytest.mark.parametrize("name", QUICK)
def test_the_widget_on_the_page_equals_the_static_figure(name, sample):
    panel = make(name, sample)
    for control, value in MOVES[name].items():
        panel.controls[control].value = value
        assert left_behind(panel) == [], f"by {control}"


@pytest.mark.parametrize("name", QUICK)
def test_reset_restores_the_first_state_and_picture(name, sample):
    panel = make(name, sample)
    state, picture = panel.state(), panel.figure().to_json()
    panel.set(**MOVES[name])
    assert panel.state() != state
    panel.reset()
    assert panel.state() == state
    assert panel.figure().to_json() == picture


@pytest.mark.parametrize("name", QUICK)
def test_the_line_that_a_panel_copies_makes_it_again(name, sample):
    panel = make(name, sample)
    call = f"{name}({'sample' if takes_sample(name) else ''})"
    assert panel.code == f"ml.panels.{call}"
    panel.set(**MOVES[name])
    again = eval(panel.code, {"ml": SimpleNamespace(panels=panels), "sample": sample})
    assert again.state() == panel.state()
    assert again.message == ""


def test_too_many_clusters_is_explained_and_the_panel_stays_usable(sample):
    panel = panels.clusters(sample)
    before = titled(panel)
    panel.set(context=256, clusters=512)
    assert "512" in panel.message
    assert "256" in panel.message
    assert titled(panel) == before
    panel.set(clusters=32)
    assert panel.message == ""
    assert "256 keys become 32 clusters" in titled(panel)


@pytest.mark.parametrize(
    ("given", "words"),
    [(42, "got int"), ("no such sample", "there are smollm2"), ("/tmp/x.safetensors", "missing")],
)
def test_what_is_no_sample_is_explained_and_the_shipped_one_shown(given, words):
    panel = panels.clusters(given)
    assert words in panel.message
    assert "Shown is smollm2" in panel.message
    panel.set(context=256)  # usable, and the message stays until there is a sample that was asked for
    assert "256 keys" in titled(panel)
    assert words in panel.message
    panel.use("smollm2")
    assert panel.message == ""


@pytest.mark.parametrize("name", ["blocks", "clusters", "decode", "error", "front", "speed"])
def test_another_sample_can_be_opened_by_its_path(name, sample, tmp_path):
    other = sample.crop(300)
    path = other.save(tmp_path / "other")
    (tmp_path / "words.safetensors").write_text("no tensors")
    (tmp_path / "words.json").write_text('{"format": "a poem"}')
    panel = make(name, sample)
    panel._source.value = str(tmp_path / "words.safetensors")
    assert "not the record of a sample" in panel.message
    assert len(panel.sample) == TOKENS
    panel._source.value = str(path)
    assert panel.message == ""
    assert len(panel.sample) == 300
    lengths = [value for _, value in panel.controls["context"]._options_full]
    assert 300 in lengths
    assert max(lengths) == 300 or name == "speed"  # which draws tokens again beyond the end
    panel.figure()
    panel.reset()
    assert panel.sample is sample
    assert panel._source.value == ""
    assert panel.message == ""


def test_a_control_or_a_value_that_does_not_exist_is_explained_and_moves_nothing(sample):
    panel = panels.clusters(sample)
    before = panel.state()
    for choice, words in (
        ({"clusters": 32, "layer": 99}, "layer: 99 is not possible; allowed are 1, 2, 3."),
        ({"head": 7}, "head: 7 is not possible; 0 to 3 is allowed."),
        ({"flavour": 1}, "flavour: this panel has no such control; it has layer, head"),
        ({"seed": "many"}, "seed: 'many' is not possible"),
    ):
        panel.set(**choice)
        assert words in panel.message
        assert panel.state() == before
    panel.set(layer=3)
    assert panel.message == ""


def test_larger_type_changes_the_type_and_nothing_else(sample):
    panel = panels.clusters(sample)
    before, text = panel.figure(), titled(panel)
    panel._large.value = True
    large = panel.figure()
    assert large.layout.title.font.size > before.layout.title.font.size
    assert large.layout.xaxis.tickfont.size > 12
    assert large.layout.margin.t > before.layout.margin.t
    assert titled(panel) == text
    assert [trace.to_plotly_json()["name"] for trace in large.data] == [trace.name for trace in before.data]
    assert left_behind(panel) == []
    panel._large.value = False
    assert panel.figure().to_json() == before.to_json()


def test_export_gives_csv_json_and_a_page_that_needs_no_network(sample):
    panel = panels.clusters(sample)
    name, _, text = panel.export("csv")
    assert name == "clusters.csv"
    assert text.splitlines()[0] == "token,cluster,axis_1,axis_2"
    assert len(text.splitlines()) == TOKENS + 1
    record = json.loads(panel.export("json")[2])
    assert record["state"] == panel.state()
    assert len(record["data"]["cluster"]) == TOKENS
    page = panel.export("html")[2]
    assert "clusters of about" in page
    assert "<script src=" not in page
    with pytest.raises(ValueError, match="'csv', 'json' or 'html', got 'pdf'"):
        panel.export("pdf")


def test_the_error_panel_shows_the_error_of_the_method_itself(sample):
    from multipole_lab.attention.exact import Exact
    from multipole_lab.attention.muse import MuSe
    from multipole_lab.measure.errors import per_query_error

    panel = panels.error(sample)
    panel.set(clusters=16, head=2)
    layer, kwargs = sample[2], {"scale": sample.scale}
    exact = Exact()(layer.q, layer.k, layer.v, **kwargs)
    approx = MuSe(clusters=16)(layer.q, layer.k, layer.v, **kwargs)
    wanted = (approx - exact).square().sum((-1, -2)) / exact.square().sum((-1, -2))
    np.testing.assert_allclose(panel.table()["relative_squared_error"], wanted[0], rtol=1e-3)
    assert panel.figure().data[0].x[2] == 2
    panel._clicked(None, SimpleNamespace(xs=[1]), None)
    assert panel.state()["head"] == 1
    place = per_query_error(approx, exact)[0, 1]
    shown = [float(text.rstrip("%")) / 100 for text in panel.figure().data[2].text]
    np.testing.assert_allclose(shown, place.sort(descending=True).values[:10], rtol=0.05)


def test_the_ring_around_p_and_a_click_move_p_to_the_sliders_steps():
    panel = panels.expansion(steps=9)
    ring = {"shapes[0].x0": -1.35, "shapes[0].x1": -0.65, "shapes[0].y0": 1.79, "shapes[0].y1": 2.49}
    panel._dragged({"new": {"relayout_data": ring}})
    assert (panel.state()["p_x"], panel.state()["p_y"]) == pytest.approx((-1.0, 2.2))
    shape = panel._shown._layout["shapes"][0]
    assert (shape["x0"] + shape["x1"], shape["y0"] + shape["y1"]) == pytest.approx((-2.0, 4.4))
    panel._dragged({"new": {"relayout_data": {"xaxis.range[0]": -1.0}}})  # a zoom moves no p
    panel._dragged({"new": None})
    assert panel.state()["p_x"] == pytest.approx(-1.0)
    panel._clicked(None, SimpleNamespace(xs=[9.0], ys=[0.31]), None)
    assert (panel.state()["p_x"], panel.state()["p_y"]) == pytest.approx((3.0, 0.4))


def test_the_blocks_panel_refuses_leaves_too_small_to_see(sample):
    panel = panels.blocks(sample)
    panel.most_leaves = 8
    panel.set(context=512, leaf=32)
    assert "leaf: 32 cuts 512 tokens into more than 8 leaves" in panel.message
    panel.set(leaf=64)
    assert panel.message == ""
    assert sorted(set(panel.table()["size"])) == [64, 128, 256]


def test_a_head_reads_its_key_head(sample):
    q, k, _ = one_head(sample[1], head=3, length=100)
    assert torch.equal(q[0, 0], sample[1].q[0, 3, :100])
    assert torch.equal(k[0, 0], sample[1].k[0, 1, :100])
    with pytest.raises(ValueError, match="heads 0 to 3, got 4"):
        one_head(sample[1], 4, 100)

"""What a page makes of a panel's messages: at any time the very figure that a page loaded now would be given."""

import base64

import numpy as np
import pytest
from every_panel import ONE_FIGURE, takes_sample
from plotly.basedatatypes import Undefined

import multipole_lab as ml
from multipole_lab import panels

MOVES = {
    "clusters": [{"clusters": 8}, {"view": "3-D"}, {"spotlight": 2}, {"view": "2-D"}],
    "blocks": [{"colour": "error"}, {"leaf": 32}],
    "cost": [{"tokens": 1024}, {"method": "Window"}],
    "decode": [{"budget": 16}, {"step": 3}],
    "error": [{"method": "centroid"}, {"head": 1}],
    "expansion": [{"field": "output"}, {"order": "dipole"}, {"p_x": 1.0}],
    "lens": [{"query": 7}, {"attention": "full"}, {"query": 8}],
    "matrix": [{"sort": "cluster"}, {"attention": "causal"}, {"sort": "text"}],
    "roofline": [{"device": "T4"}, {"tokens": 1024}],
    "front": [{"budget": 200}],
    "speed": [{"clusters": 16}],
    "tuner": [{"max_error": 0.1}],
    "writing": [{"budget": 16}, {"word": 3}],
}


class Page:
    """The model of a figure in a page: what plotly's own code there makes of the state and of every message."""

    def __init__(self, shown):
        state = shown.get_state()
        self.data, self.layout = state["_widget_data"], state["_widget_layout"]
        for kind in ("update", "restyle", "relayout", "addTraces", "deleteTraces", "moveTraces", "removeTraceProps",
                     "removeLayoutProps", "animate"):  # fmt: skip
            shown.observe(
                lambda change, kind=kind: change.new is None or self.hear(kind, change.new), f"_py2js_{kind}"
            )

    def hear(self, kind, message):
        if kind == "update":
            self.restyle(message["style_data"], message["style_traces"])
            self.relayout(message["layout_data"])
        elif kind == "restyle":
            self.restyle(message["restyle_data"], message["restyle_traces"])
        elif kind == "relayout":
            self.relayout(message["relayout_data"])
        elif kind == "addTraces":
            self.data += message["trace_data"]
        elif kind == "deleteTraces":
            self.data = [trace for i, trace in enumerate(self.data) if i not in message["delete_inds"]]
        else:
            raise AssertionError(f"no panel sends {kind}")

    def restyle(self, changes, traces):
        for path, values in changes.items():
            values = values if isinstance(values, list) else [values]
            for i, trace in enumerate(traces):
                put(self.data[trace], path, values[i % len(values)])

    def relayout(self, changes):
        for path, value in changes.items():
            put(self.layout, path, value)


def put(place, path, value):
    assert value is not Undefined, f"{path}: the model of the page keeps this as the word '_undefined_'"
    *way, last = path.split(".")
    for name in way:
        place = place.setdefault(name, {})
    if value is None:
        place.pop(last, None)
    else:
        place[last] = value


def plain(x):
    """Without what is the same to plotly: arrays and lists, an empty group and none."""
    if isinstance(x, dict) and "buffer" in x:
        return plain(np.frombuffer(x["buffer"], dtype=x["dtype"]).tolist())
    if isinstance(x, dict) and "bdata" in x:
        table = np.frombuffer(base64.b64decode(x["bdata"]), dtype=x["dtype"])
        return plain(table.reshape([int(size) for size in x["shape"].split(",")]).tolist())
    if isinstance(x, dict):
        named = {name: plain(one) for name, one in x.items() if name != "uid"}
        return {name: one for name, one in named.items() if one is not None and one != {}}
    if isinstance(x, np.ndarray):
        return plain(x.tolist())
    if isinstance(x, list | tuple):
        return [plain(one) for one in x]
    return None if isinstance(x, float) and x != x else x


def test_every_panel_is_here():
    assert set(MOVES) == set(ONE_FIGURE)


@pytest.mark.parametrize("name", MOVES)
def test_the_page_has_the_figure_that_a_page_loaded_now_is_given(name):
    sample = (ml.load_sample("smollm2").crop(512),) if takes_sample(name) else ()
    panel = getattr(panels, name)(*sample)
    page = Page(panel._shown)
    for state in [*MOVES[name], "large", "reset"]:
        if state == "large":
            panel._large.value = True
        elif state == "reset":
            panel.reset()
        else:
            panel.set(**state)
        panel.figure()
        assert panel.message == ""
        state = panel._shown.get_state()
        assert plain(page.data) == plain(state["_widget_data"])
        assert plain(page.layout) == plain(state["_widget_layout"])
        assert all(state[key] is None for key in state if key.startswith("_py2js_"))


def test_what_a_reader_did_stays_until_reset():
    panel = panels.clusters(ml.load_sample("smollm2").crop(512))
    shown = panel._shown
    for axis in ("xaxis", "yaxis"):  # as the page reports a zoom
        shown.plotly_relayout({f"{axis}.range": [1.0, 2.0], f"{axis}.autorange": False})
    panel.set(clusters=8)
    assert list(shown.layout.xaxis.range) == [1.0, 2.0]
    panel.reset()
    assert shown.layout.xaxis.range is None
    assert shown.layout.xaxis.autorange is True
    panel.set(view="3-D")
    shown.plotly_relayout({"scene.camera": {"eye": {"x": 2.0, "y": 0.0, "z": 0.0}}})
    panel.set(seed=3)
    assert shown.layout.scene.camera.eye.x == 2.0
    panel.reset()
    panel.set(view="3-D")
    assert shown.layout.scene.camera.eye.x == panel.figure().layout.scene.camera.eye.x != 2.0

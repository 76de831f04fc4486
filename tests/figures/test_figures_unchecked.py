"""Figures that plotly does not check at every move are what it makes of them when it does."""

import json

import plotly.graph_objects as go
import pytest

import multipole_lab as ml

PANELS = {
    "clusters": [{}, {"view": "3-D"}],
    "expansion": [{}, {"field": "output", "order": "dipole"}],
    "lens": [{}, {"query": 7}],
    "matrix": [{}, {"sort": "cluster"}],
}


@pytest.mark.parametrize(
    ("name", "state"), [(name, state) for name, states in PANELS.items() for state in states]
)
def test_plotlys_own_checks_change_nothing(name, state):
    given = [] if name == "expansion" else [ml.load_sample("smollm2").crop(256)]
    figure = getattr(ml.panels, name)(*given).at(**state)._work.picture.figure  # figure() is a checked copy
    assert json.loads(go.Figure(figure).to_json()) == json.loads(figure.to_json())

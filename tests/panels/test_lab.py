"""The desk of several panels: shared controls move all of them, and its line makes it again."""

import pytest

import multipole_lab as ml
from multipole_lab import panels


@pytest.fixture(scope="module")
def sample():
    return ml.load_sample("smollm2").crop(256)


@pytest.fixture
def desk(sample):
    return panels.lab(sample, ("lens", "clusters"), clusters=8)


def arranged(panel):
    settings = panel._settings
    return [*settings.main.children, *settings.more.inside.children]


def values(desk, name):
    return {panel.name: panel.state()[name] for panel in desk.panels.values() if name in panel.controls}


def test_a_move_of_a_shared_control_shows_in_every_panel_that_has_it(desk):
    before = {name: panel.figure().to_json() for name, panel in desk.panels.items()}
    assert values(desk, "clusters") == {"lens": 8, "clusters": 8}
    desk.controls["clusters"].value = 16
    assert values(desk, "clusters") == {"lens": 16, "clusters": 16}
    assert all(panel.figure().to_json() != before[name] for name, panel in desk.panels.items())
    desk.panels["lens"].controls["head"].value = 2  # a panel may move it, too
    assert desk.controls["head"].value == 2
    assert values(desk, "head") == {"lens": 2, "clusters": 2}


def test_a_control_that_is_shared_stands_on_the_desk_alone(desk):
    for panel in desk.panels.values():
        own = [control.description for control in arranged(panel)]
        assert not {"layer", "head", "context", "near", "order"} & set(own)
    assert "word" in [control.description for control in arranged(desk.panels["lens"])]


def test_a_panel_is_made_when_it_is_first_shown_and_comes_with_the_shared_values(desk):
    assert set(desk.panels) == {"lens", "clusters"}
    desk.controls["near"].value = 1
    desk._toggles["matrix"].value = True
    assert desk.panels["matrix"].state()["near"] == 1
    assert desk.panels["matrix"] in desk._grid.children
    desk._toggles["lens"].value = False
    assert desk.panels["lens"] not in desk._grid.children
    desk.controls["near"].value = 3
    assert values(desk, "near") == {"lens": 1, "matrix": 3}  # what is hidden computes nothing
    desk._toggles["lens"].value = True
    assert values(desk, "near") == {"lens": 3, "matrix": 3}


def test_its_line_makes_the_same_desk_again(desk, sample):
    assert panels.lab(sample, ("lens",)).code == "ml.panels.lab(sample, show=('lens',))"
    desk.set(near=1, own={"lens": {"query": 7}})
    assert desk.code == (
        "ml.panels.lab(sample, clusters=8, near=1, show=('lens', 'clusters'), own={'lens': {'query': 7}})"
    )
    assert desk.code in desk._code.value.replace("&#x27;", "'")
    again = eval(desk.code, {"ml": ml, "sample": sample})
    assert again.state() == desk.state()
    assert again.figure().to_json() == desk.figure().to_json()
    desk.reset()
    assert desk.code == "ml.panels.lab(sample, show=('lens', 'clusters'))"


def test_what_does_not_exist_moves_nothing_and_is_said(desk, sample):
    before = desk.state()
    for state, words in (
        ({"cluster": 8}, "cluster: the desk has no such control; did you mean 'clusters'?"),
        ({"clusters": 3}, "clusters: 3 is not possible; allowed are 2, 4"),
        ({"show": ["lense"]}, "show: there is no panel 'lense'; did you mean 'lens'?"),
        ({"own": {"speeed": {}}}, "own: there is no panel 'speeed'; did you mean 'speed'?"),
    ):
        desk.set(near=5, **state)
        assert words in desk.message
        assert desk.state() == before
        with pytest.raises(ValueError, match=words.split("?")[0]):
            panels.lab(sample, **state)
    desk.set(near=1)
    assert desk.message == ""


def test_it_prints_one_line_and_leaves_the_first_picture_and_all_words(desk):
    assert "\n" not in repr(desk)
    assert desk.figure().to_json() == desk.panels["lens"].figure().to_json()
    data = desk._repr_mimebundle_()
    data = data[0] if isinstance(data, tuple) else data
    assert data["text/plain"].startswith("lab panel: ")
    assert "become 8 clusters" in data["text/plain"]

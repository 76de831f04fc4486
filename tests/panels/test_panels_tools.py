"""What every panel can do besides its figure: settings folded away, undo, play, hold, a link, what the page reports."""

import asyncio
import json
from types import SimpleNamespace

import pytest
from every_panel import ONE_FIGURE, takes_sample

import multipole_lab as ml
from multipole_lab import panels

QUICK = [name for name in ONE_FIGURE if name not in ("cost", "front", "speed", "writing")]  # those measure


@pytest.fixture(scope="module")
def sample():
    return ml.load_sample("smollm2").crop(256)


@pytest.fixture(scope="module")
def made(sample):
    """A panel by its name, made once."""
    kept = {}

    def make(name):
        if name not in kept:
            kept[name] = getattr(panels, name)(*((sample,) if takes_sample(name) else ()))
        kept[name].reset()
        return kept[name]

    return make


def told(panel, **content):
    """What the page's code would send."""
    panel._porter._handle_custom_msg(content, [])


def pressed(panel, words):
    """The button of that name."""
    rows = [row for row in panel.children if "ml-buttons" in row._dom_classes]
    return next(one for row in rows for one in row.children if getattr(one, "description", "") == words)


@pytest.mark.parametrize("name", QUICK)
def test_up_to_four_controls_are_in_sight_and_all_others_under_more(name, made):
    panel = made(name)
    settings = panel._settings
    main, rest = settings.main.children, settings.more.inside.children
    assert 1 <= len(main) <= 4
    assert not set(panel.main) - set(panel.controls)
    assert set(panel.controls.values()) == {*main, *rest} - set(panel._extra())
    assert settings.more.inside.layout.display == "none"
    settings.more.value = True
    assert settings.more.inside.layout.display is None
    settings.more.value = False
    assert (settings.more.layout.display == "none") == (not rest)


@pytest.mark.parametrize("name", QUICK)
def test_every_control_has_a_sentence_behind_its_label(name, made):
    panel = made(name)
    extra = {"sample", "own text"} if takes_sample(name) else set()
    assert set(panel._porter.about) == {control.description for control in panel.controls.values()} | extra
    for words, sentence in panel._porter.about.items():
        assert len(sentence.split()) > 3, words
        assert sentence.endswith(".")
        assert sentence[:1] == sentence[:1].upper() or ": " in sentence


def test_a_choice_explains_each_of_its_options(made):
    assert (
        "monopole: one weighted mean value per cluster; dipole: also how"
        in made("lens")._porter.about["order"]
    )


@pytest.mark.parametrize("name", QUICK)
def test_undo_takes_moves_back_one_after_the_other(name, made):
    panel = made(name)
    undo, states = panel._history, [panel.state()]
    while not undo.button.disabled:
        panel.undo()
    panel.reset()
    for moved in list(panel.controls)[:2]:
        control = panel.controls[moved]
        values = [v for _, v in control._options_full] if hasattr(control, "_options_full") else [control.min]
        panel.set(**{moved: next(v for v in [*values, getattr(control, "max", None)] if v != control.value)})
        states.append(panel.state())
    assert panel.message == ""
    assert not undo.button.disabled
    picture = panel.figure().to_json()
    for state in states[-2::-1]:
        undo.button.click()
        assert panel.state() == state
    assert panel.figure().to_json() != picture
    assert undo.button.disabled
    panel.undo()  # nothing is left
    assert panel.state() == states[0]


def test_a_drag_is_one_move_and_another_sample_is_one_too(sample):
    panel = panels.clusters(sample)
    for seed in (1, 2, 3):
        panel.controls["seed"].value = seed
    panel.use(sample.crop(200))
    assert len(panel.sample) == 200
    panel.undo()
    assert panel.sample is sample
    assert panel.state()["seed"] == 3
    panel.undo()
    assert panel.state()["seed"] == 0
    assert panel._history.button.disabled


def test_undo_on_the_desk_takes_back_shared_and_own_moves(sample):
    desk = panels.lab(sample, ("clusters",), clusters=8)
    first = desk.state()
    desk.set(near=5)
    second = desk.state()
    desk.set(own={"clusters": {"seed": 3}})
    for state in (second, first):
        desk.undo()
        assert desk.state() == state
    assert desk._history.button.disabled


def test_a_picture_is_held_beside_the_next_ones_and_says_what_differs(made):
    panel = made("clusters")
    panel._hold.button.value = True
    words, place = panel._hold.box.children
    held = place.children[0]
    panel.set(clusters=8, view="3-D")
    assert "Held: clusters 16, view 2-D. Now: clusters 8, view 3-D." in words.value
    assert "become 16 clusters" in held.layout.title.text
    assert "become 8 clusters" in panel._shown.layout.title.text
    panel._hold.button.value = False
    assert panel._hold.box.children == ()
    assert "ml-holding" not in panel._dom_classes


@pytest.mark.parametrize(
    ("name", "control"), [(n, getattr(panels, n)) for n in QUICK if n in ("clusters", "decode")]
)
def test_play_walks_a_control_from_first_to_last_and_is_undone_as_one_move(name, control, sample):
    async def watch():
        panel = control(sample)
        panel._player.pause = 0
        start, seen = panel.state()[panel.plays], []
        panel.controls[panel.plays].observe(lambda change: seen.append(change["new"]), "value")
        panel._player.button.value = True
        while panel._player.playing:
            await asyncio.sleep(0.01)
        slider = panel.controls[panel.plays]
        assert [*dict.fromkeys(seen)] == [
            n for n in range(slider.min, slider.max + 1) if n != start or n in seen
        ]
        assert not panel._player.button.value
        panel.undo()
        return panel.state()[panel.plays] == start

    assert asyncio.run(watch())


def test_a_move_stops_what_plays(sample):
    async def watch():
        panel = panels.clusters(sample)
        panel._player.button.value = True
        await asyncio.sleep(0.3)
        assert panel._player.playing
        panel.controls["seed"].value = 4
        assert not panel._player.playing
        assert not panel._player.button.value
        at = panel.state()["iterations"]
        await asyncio.sleep(1.0)
        return panel.state()["iterations"] == at

    assert asyncio.run(watch())


@pytest.mark.parametrize("name", QUICK)
def test_a_link_brings_the_state_to_another_panel(name, made, sample):
    panel, sent = made(name), []
    control = next(c for c in panel.controls.values() if hasattr(c, "_options_full"))
    moved = {n for n, c in panel.controls.items() if c is control}.pop()
    panel.set(**{moved: next(v for _, v in control._options_full if v != control.value)})
    panel._porter.send = lambda content, *_: sent.append(content)
    saved = next(one for one in panel.children if "ml-folded" in one._dom_classes)
    next(one for one in saved.children if one.description == "Link").click()
    assert sent[0]["kind"] == "link"
    state = panel.state()
    panel.reset()
    told(panel, kind="state", text=sent[0]["text"])
    assert panel.state() == state
    assert panel.message == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [("no json", ""), ("[1]", ""), ('{"seed": "many"}', "'many' is not possible"), ('{"self": 1}', "self"),
     ('{"layer": [1]}', "[1] is not possible")],
)  # fmt: skip
def test_a_link_that_somebody_wrote_breaks_nothing(text, words, made):
    panel = made("clusters")
    state = panel.state()
    told(panel, kind="state", text=text)
    assert words in panel.message
    assert panel.state() == state


def test_the_link_of_a_desk_brings_its_state_and_what_is_none_is_explained(sample):
    desk = panels.lab(sample, ("clusters",), clusters=8)
    desk.set(near=3, own={"clusters": {"seed": 2}})
    state = desk.state()
    other = panels.lab(sample, ("clusters",))
    told(other, kind="state", text=json.dumps(state))
    assert other.state() == state
    told(other, kind="state", text='{"show": 5}')
    assert "cannot be shown" in other.message
    assert other.state() == state


def test_drawn_is_said_when_the_page_shows_the_last_picture(made):
    panel = made("clusters")
    panel.set(seed=1)
    told(panel, kind="shown", drawn=panel._porter.drawn - 1)  # an earlier picture
    assert "computed in" in panel._status.value
    panel._status._heard -= 2  # a page that takes two seconds
    told(panel, kind="shown", drawn=panel._porter.drawn)
    assert "drawn in 2," in panel._status.value


def test_a_panel_that_fills_the_screen_has_large_type(made):
    panel = made("clusters")
    told(panel, kind="present", on=True)
    assert panel._large.value
    told(panel, kind="present", on=False)
    assert not panel._large.value


def test_measure_again_measures(sample, monkeypatch):
    module = __import__("multipole_lab.panels.front", fromlist=["front"])
    calls = []
    cost = SimpleNamespace(index=0, ms=1.0, exact_ms=2.0, rse=0.1)
    monkeypatch.setattr(module, "measure", lambda *args, **_: calls.append(args) or [cost])
    one = [ml.search.candidates.candidates(256, False)[0]]
    monkeypatch.setattr(module, "candidates", lambda *_: one)
    panel = panels.front(sample)
    pressed(panel, "Measure again").click()
    assert len(calls) == 2

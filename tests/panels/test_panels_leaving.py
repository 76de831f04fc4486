"""What a panel leaves in an executed notebook for readers without widgets: a picture and its words."""

import base64
import contextlib
import importlib
import os
import struct
import subprocess
import sys
import time
from types import SimpleNamespace

import browsing
import nbformat
import psutil
import pytest
from every_panel import ONE_FIGURE
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient
from subclasses import derived

from multipole_lab import load_sample, panels
from multipole_lab.figures.common.browser import find_browser
from multipole_lab.panels.common import leaving
from multipole_lab.panels.common.base import Panel

png = importlib.import_module("multipole_lab.figures.common.png")
VIEW = "application/vnd.jupyter.widget-view+json"
CELL = "import multipole_lab as ml\nml.panels.expansion(steps=9)"


def execute(folder):
    """Run one cell with a panel in a kernel, as nbconvert does; return the data of its display."""
    cell = nbformat.v4.new_code_cell(CELL)
    notebook = nbformat.v4.new_notebook(cells=[cell])
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", store_widget_state=False,
                            resources={"metadata": {"path": str(folder)}})  # fmt: skip
    client.execute()
    assert "widgets" not in notebook.metadata
    return next(output.data for output in cell.outputs if output.output_type == "execute_result")


def shape(picture):
    """Width and height in pixels of a PNG."""
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", picture[16:24])


def test_an_executed_panel_leaves_a_picture_its_words_and_the_live_widget(tmp_path, monkeypatch):
    browsing.find_browser()
    monkeypatch.setenv("MULTIPOLE_LAB_PICTURES", "png")
    data = execute(tmp_path)
    picture = base64.b64decode(data["image/png"])
    width, height = shape(picture)
    assert width == 900
    assert height >= 300
    assert len(picture) > 10_000  # lines and text, not an empty sheet
    assert "expansion panel" in data["text/plain"]
    assert VIEW in data


def test_a_person_at_a_live_front_end_waits_for_no_picture(tmp_path, monkeypatch):
    browser = browsing.failing_browser(tmp_path, "hangs")
    monkeypatch.setenv("BROWSER_PATH", str(browser))
    monkeypatch.setenv("MULTIPOLE_LAB_PICTURES", "png")
    manager, client = start_new_kernel(cwd=str(tmp_path))
    try:
        results = []
        # A front end with a person allows input; nbclient does not.
        client.execute_interactive(CELL, allow_stdin=True, timeout=60, output_hook=results.append)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    data = [m["content"]["data"] for m in results if m["msg_type"] == "execute_result"]
    assert [set(one) for one in data] == [{"text/plain", VIEW}]
    assert not [m for m in results if m["msg_type"] == "stream"]
    assert not browser.with_suffix(".started").exists()


def test_colab_draws_a_panel_that_is_a_cells_last_value(monkeypatch):
    assert leaving._manager() == {}
    asked, widgets = [], SimpleNamespace(_installed_url="https://a.place/manager.js")
    colab = SimpleNamespace(enable_custom_widget_manager=lambda: asked.append(1), _widgets=widgets)
    monkeypatch.setitem(sys.modules, "google.colab.output", colab)
    monkeypatch.setenv("MULTIPOLE_LAB_PICTURES", "none")
    data, metadata = panels.expansion(steps=9)._repr_mimebundle_()
    assert VIEW in data
    assert metadata == {VIEW: {"colab": {"custom_widget_manager": {"url": widgets._installed_url}}}}
    assert asked


@pytest.fixture
def kernel(monkeypatch):
    """Have displays made as in a notebook's kernel; what a front end allows can be set."""
    request = {"content": {"allow_stdin": False}}
    monkeypatch.setattr(leaving, "_kernel", lambda: SimpleNamespace(get_parent=lambda: request))
    monkeypatch.setattr(png, "_given_up", False)
    monkeypatch.setenv("MULTIPOLE_LAB_PICTURES", "png")
    return request["content"]


@pytest.fixture(scope="module")
def every():
    """One panel of every kind, by its name; those that measure have little to do."""
    module = importlib.import_module("multipole_lab.panels.front")
    sample = load_sample("smollm2").crop(512)
    with pytest.MonkeyPatch.context() as patch:
        candidates = module.candidates
        patch.setattr(module, "candidates", lambda *args: candidates(*args)[:2])
        made = {name: _make(getattr(panels, name), sample) for name in ONE_FIGURE}
    kinds = {kind for kind in derived(Panel) if not derived(kind)}
    assert {type(panel) for panel in made.values()} == kinds
    return made


def _make(function, sample):
    """Call a panel's function, with the sample if it takes one."""
    try:
        return function(sample=sample)
    except TypeError:
        return function()


def bundle(panel):
    """A panel's data as a display shows it."""
    data = panel._repr_mimebundle_()
    return data[0] if isinstance(data, tuple) else data


@pytest.mark.parametrize("name", ONE_FIGURE)
def test_every_panel_leaves_a_picture(name, every, kernel):
    browsing.find_browser()
    picture = base64.b64decode(bundle(every[name])["image/png"])
    assert shape(picture)[0] == 900
    assert len(picture) > 10_000
    browsing.SHOTS.mkdir(exist_ok=True)
    (browsing.SHOTS / f"picture-{name}.png").write_bytes(picture)


@pytest.mark.parametrize("how", browsing.FAILING)
def test_a_browser_that_fails_is_tried_once_and_keeps_no_panel_waiting(
    how, every, kernel, monkeypatch, tmp_path, capsys
):
    browser = browsing.failing_browser(tmp_path, how)
    monkeypatch.setenv("BROWSER_PATH", str(browser))
    monkeypatch.setattr(png, "SECONDS", 1)
    began = time.perf_counter()
    for panel in every.values():
        assert set(bundle(panel)) == {"text/plain", VIEW}
    assert time.perf_counter() - began < 20  # one second of waiting; the rest is a busy computer's
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert str(browser) in said[0]
    assert browser.with_suffix(".started").exists() == (how not in ("absent", "is no program"))
    assert not living(browser)


def living(browser, seconds=10):
    """The processes of a stand-in's group that still run: one that has been killed may take a moment to end."""
    started = browser.with_suffix(".started")
    found, until = [], time.monotonic() + seconds
    while started.exists():
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                group, ended = os.getpgid(process.pid), process.status() == psutil.STATUS_ZOMBIE
                if group == int(started.read_text()) and not ended:
                    found.append(process.pid)
        if not found or time.monotonic() > until:
            break
        time.sleep(0.05)
    return found


def test_interrupting_the_kernel_ends_the_browser(every, kernel, monkeypatch, tmp_path):
    browser = browsing.failing_browser(tmp_path, "hangs with a child that holds its output")
    monkeypatch.setenv("BROWSER_PATH", str(browser))

    class Interrupted(subprocess.Popen):
        def wait(self, timeout=None):
            if timeout is None:
                return super().wait()
            until = time.monotonic() + 60
            while not browser.with_suffix(".started").exists() and time.monotonic() < until:
                time.sleep(0.01)
            raise KeyboardInterrupt

    monkeypatch.setattr(png.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        bundle(every["expansion"])
    assert browser.with_suffix(".started").exists()
    assert not living(browser)


def test_without_pictures_the_words_and_the_live_widget_are_left(every, kernel, monkeypatch, tmp_path):
    browser = browsing.failing_browser(tmp_path, "hangs")
    monkeypatch.setenv("BROWSER_PATH", str(browser))
    monkeypatch.setenv("MULTIPOLE_LAB_PICTURES", "none")
    data = bundle(every["expansion"])
    assert set(data) == {"text/plain", VIEW}
    assert "expansion panel" in data["text/plain"]
    assert not browser.with_suffix(".started").exists()


def test_with_a_live_front_end_a_panel_still_at_work_is_left_at_work(every, kernel, monkeypatch, tmp_path):
    browser = browsing.failing_browser(tmp_path, "hangs")
    monkeypatch.setenv("BROWSER_PATH", str(browser))
    kernel["allow_stdin"] = True
    panel = every["expansion"]
    monkeypatch.setattr(
        panel, "_flush", lambda: pytest.fail("the reader was kept waiting for the work to end")
    )
    assert set(bundle(panel)) == {"text/plain", VIEW}
    assert not browser.with_suffix(".started").exists()


@pytest.mark.parametrize("kaleido", [True, False])
def test_only_a_program_is_a_browser(kaleido, tmp_path, monkeypatch):
    if not kaleido:
        monkeypatch.setitem(importlib.sys.modules, "choreographer.browsers.chromium", None)
    path = browsing.failing_browser(tmp_path, "ends at once")
    monkeypatch.setenv("BROWSER_PATH", str(path))
    assert find_browser() == str(path)
    path.chmod(0o644)
    assert find_browser() is None
    for none in (tmp_path, tmp_path / "absent", "/dev/null"):
        monkeypatch.setenv("BROWSER_PATH", str(none))
        assert find_browser() is None


def test_a_browser_on_the_path_is_found(tmp_path, monkeypatch):
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    path = browsing.failing_browser(tmp_path, "ends at once")
    path.rename(tmp_path / "chrome")  # the first name that kaleido looks for
    assert find_browser() == str(tmp_path / "chrome")

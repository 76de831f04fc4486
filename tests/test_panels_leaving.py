"""What a panel leaves in an executed notebook for readers without widgets: a picture and its words."""

import base64
import importlib.util
import shutil

import nbformat
import pytest
from nbclient import NotebookClient

VIEW = "application/vnd.jupyter.widget-view+json"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def execute(folder, monkeypatch, pictures):
    """Run one cell with a panel in a kernel; return the data of its display."""
    monkeypatch.setenv("MULTIPOLE_LAB_PICTURES", pictures)
    cell = nbformat.v4.new_code_cell("import multipole_lab as ml\nml.panels.expansion(steps=9)")
    notebook = nbformat.v4.new_notebook(cells=[cell])
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", store_widget_state=False,
                            resources={"metadata": {"path": str(folder)}})  # fmt: skip
    client.execute()
    assert "widgets" not in notebook.metadata
    return next(output.data for output in cell.outputs if output.output_type == "execute_result")


@pytest.mark.skipif(
    not (any(map(shutil.which, BROWSERS)) and importlib.util.find_spec("kaleido")),
    reason="the picture is drawn by kaleido in an installed Chromium",
)
def test_an_executed_panel_leaves_a_picture_its_words_and_the_live_widget(tmp_path, monkeypatch):
    data = execute(tmp_path, monkeypatch, "png")
    picture = base64.b64decode(data["image/png"])
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (int.from_bytes(picture[i : i + 4], "big") for i in (16, 20))
    assert width == 900
    assert height >= 300
    assert len(picture) > 10_000  # lines and text, not an empty sheet
    assert "expansion panel" in data["text/plain"]
    assert VIEW in data


def test_without_pictures_the_words_and_the_live_widget_are_left(tmp_path, monkeypatch):
    data = execute(tmp_path, monkeypatch, "none")
    assert set(data) == {"text/plain", VIEW}
    assert "expansion panel" in data["text/plain"]

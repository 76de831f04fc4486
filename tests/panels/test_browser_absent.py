"""Without a browser its tests are skipped, and counted where nobody overlooks it; CI hides it or fails."""

import os
import subprocess
import sys
from pathlib import Path

import browsing
import pytest

from multipole_lab.figures.common import browser


@pytest.fixture
def absent(monkeypatch):
    monkeypatch.setattr(browser, "find_browser", lambda: None)
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    monkeypatch.delenv("CI", raising=False)


def test_at_a_desk_a_missing_browser_is_a_skip(absent):
    with pytest.raises(pytest.skip.Exception, match=browsing.NO_BROWSER):
        browsing.find_browser()


def test_in_ci_a_missing_browser_is_a_failure(absent, monkeypatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=browsing.NO_BROWSER):
        browsing.find_browser()


def test_in_ci_a_hidden_browser_is_a_skip(absent, monkeypatch):
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("BROWSER_PATH", "/dev/null")
    with pytest.raises(pytest.skip.Exception, match="/dev/null"):
        browsing.find_browser()


def test_skipped_browser_tests_are_counted_above_the_total_also_by_workers(tmp_path):
    (tmp_path / "conftest.py").write_text("from browsing import pytest_terminal_summary\n")
    tests = ["def test_one():\n    browsing.find_browser()", "def test_two():\n    browsing.find_browser()"]
    (tmp_path / "test_browser.py").write_text("\n\n\n".join(["import browsing", *tests]))
    env = {**os.environ, "BROWSER_PATH": "/dev/null", "PYTHONPATH": str(Path(browsing.__file__).parent)}
    env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # only what is needed: seconds less
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-p", "xdist", "-n", "2"], cwd=tmp_path, env=env,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    *_, count, total = done.stdout.strip().splitlines()
    assert "2 skipped" in total
    assert f" 2 browser tests skipped: {browsing.NO_BROWSER}" in count

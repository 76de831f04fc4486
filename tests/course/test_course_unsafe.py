"""Machines that refuse namespaces: nothing is graded there unless it is asked for. And a root with fewer rights."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from submissions import write

from multipole_lab.course.grading import notebook

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"), reason="takes a right of root away"
)
# A user namespace in which no other can be made, and no other namespaces either.
CLOSED = "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set -sys_admin --inh-caps -sys_admin "
CONTAINER = "exec setpriv --bounding-set -sys_admin --inh-caps -sys_admin "
WHO = """
import os
def weights(q, k, scale):
    assert os.geteuid() != 0 and not os.path.exists("/proc/self") and not os.listdir("."), "no walls"
    return torch.ones(len(q), len(k)) / len(k)
"""


def grade_under(shell, folder, *more):
    """Grade one submission to two questions under some command; returns how that ended, and the result or None."""
    write(folder / "in" / "ada" / "A1.ipynb", {"A1-1": WHO})
    content = json.loads((notebook.masters_folder() / "A1.ipynb").read_text())
    kept = ("a1-setup", "A1-1", "A1-1-tests", "A1-2", "A1-2-tests")
    content["cells"] = [c for c in content["cells"] if c["metadata"]["nbgrader"]["grade_id"] in kept]
    (folder / "masters").mkdir(exist_ok=True)
    (folder / "masters" / "A1.ipynb").write_text(json.dumps(content))
    command = [sys.executable, "-m", "multipole_lab.cli", "course", "grade", str(folder / "in"), "--out"]
    command += [str(folder / "out"), "--assignment", "A1", "--masters", str(folder / "masters"), *more]
    done = subprocess.run([*shell, *command], capture_output=True, text=True, check=False)
    result = folder / "out" / "A1" / "results" / "ada.json"
    return done, json.loads(result.read_text()) if result.exists() else None


def under(text):
    return ["sh", "-c", f'{text}"$@"', "sh"]


@needs_root
def test_without_namespaces_nothing_is_graded_unless_it_is_asked_for(tmp_path):
    closed = ["unshare", "-Ur", *under(CLOSED)]
    if subprocess.run([*closed, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces on this machine")
    done, result = grade_under(closed, tmp_path)
    assert done.returncode == 1
    assert result is None
    assert "refuses namespaces" in done.stderr
    assert "--unsafe" in done.stderr
    assert "Traceback" not in done.stderr
    done, result = grade_under(closed, tmp_path, "--unsafe")
    assert done.returncode == 0, done.stderr
    assert [item["earned"] for item in result["items"]] == [0, 5]
    assert "network is not cut off" in done.stderr
    assert "namespaces" not in json.dumps(result), "a student learns nothing of it"


@needs_root
def test_a_root_without_rights_makes_walls_with_a_user_namespace(tmp_path):
    """As in a container: root without CAP_SYS_ADMIN."""
    if subprocess.run(
        [*under(CONTAINER), "unshare", "-Ur", "true"], capture_output=True, check=False
    ).returncode:
        pytest.skip("no user namespaces on this machine")
    done, result = grade_under(under(CONTAINER), tmp_path)
    assert done.returncode == 0, done.stderr
    said = "; ".join(test["reason"] for test in result["items"][0]["tests"])
    assert "no walls" not in said
    assert "off by" in said
    assert result["items"][1]["earned"] == 5

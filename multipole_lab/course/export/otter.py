"""An autograder for otter-grader: the archive that ``otter run`` and ``otter grade`` take."""

from __future__ import annotations

import json
from pathlib import Path

from multipole_lab.course.export import archive, image
from multipole_lab.course.grading.notebook import load_master
from multipole_lab.course.questions import own

_PLUGIN = "multipole_lab.course.export.otter_plugin.Grader"
_RUN = '''\
"""Runs otter-grader in the folder above."""

from pathlib import Path

from otter.run.run_autograder import main

main(str(Path(__file__).resolve().parents[1]))
'''
_TESTS = "No tests are here: the plugin that otter_config.json names grades the notebook in processes of its own.\n"
# otter builds its image with conda when it finds its own set-up script; ours needs nothing of this file.
_ENVIRONMENT = "name: otter-env\n"


def otter(name: str, to: Path, masters: Path | None = None) -> Path:
    """Write ``to/<name>-otter.zip``, an otter-grader configuration.

    The master, with its hidden tests and solutions, is in ``otter_config.json``: otter shows it to nobody, copies it
    nowhere, and gives it to the plugin alone. Students' code does not run in otter's kernel (see `otter_plugin`).

    Parameters
    ----------
    name : such as "A1".
    to : the folder of the archive.
    masters : the folder of the masters; None for those of this checkout.

    Raises
    ------
    ValueError : no such assignment.
    FileNotFoundError : no masters here.
    """
    master = load_master(name, masters)
    config = {
        "lang": "python",
        "show_hidden": True,  # the points, after publication
        "force_public_test_summary": False,  # there are no public tests, of which it would say that all passed
        "plugins": [{_PLUGIN: {"assignment": name, "master": master.text, "questions": own.text_of(name)}}],
    }
    module = _PLUGIN.rpartition(".")[0]
    entries = image.scripts(
        archive.wheel(), f"otter, {module}", "source/run_otter.py", "otter-grader[grading,plugins]>=6.1"
    )
    entries |= {
        "environment.yml": _ENVIRONMENT,
        "otter_config.json": json.dumps(config, indent=1) + "\n",
        "run_otter.py": _RUN,
        "tests/README.txt": _TESTS,
    }
    return archive.write(to / f"{name}-otter.zip", entries, image.PROGRAMS)

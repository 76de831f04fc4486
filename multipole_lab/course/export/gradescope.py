"""An autograder for Gradescope: the archive that an instructor uploads."""

from __future__ import annotations

import json
from pathlib import Path

from multipole_lab.course.export import archive, image
from multipole_lab.course.grading.notebook import load_master
from multipole_lab.course.questions import own

VISIBILITIES = ("after_due_date", "after_published", "visible", "hidden")
_MODULE = "multipole_lab.course.export.gradescope_run"


def gradescope(name: str, to: Path, masters: Path | None = None, visibility: str = VISIBILITIES[0]) -> Path:
    """Write ``to/<name>-gradescope.zip``, to be uploaded under "Configure Autograder".

    It holds ``setup.sh``, ``run_autograder``, the library, ``assignment.json`` and the master with its hidden tests
    and solutions: Gradescope shows the archive to nobody but instructors, and `gradescope_run` keeps it from
    students' code.

    Parameters
    ----------
    name : such as "A1".
    to : the folder of the archive.
    masters : the folder of the masters; None for those of this checkout.
    visibility : when students see points and reasons, in Gradescope's words.

    Raises
    ------
    ValueError : no such assignment, or an unknown visibility.
    FileNotFoundError : no masters here.
    """
    if visibility not in VISIBILITIES:
        raise ValueError(f"visibility is {visibility!r}; {', '.join(VISIBILITIES)} are allowed")
    master = load_master(name, masters)
    entries = image.scripts(archive.wheel(), _MODULE, f"-m {_MODULE} .")
    entries["assignment.json"] = json.dumps({"assignment": name, "visibility": visibility}, indent=1) + "\n"
    entries[f"masters/{name}.ipynb"] = master.text
    if questions := own.text_of(name):
        entries[str(own.path_of(name, Path("masters")))] = questions
    return archive.write(to / f"{name}-gradescope.zip", entries, image.PROGRAMS)

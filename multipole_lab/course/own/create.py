"""`multipole-lab course new`: an assignment of one's own, begun with one that is small and whole."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from multipole_lab import files
from multipole_lab.course.questions.own import NAME, path_of
from multipole_lab.course.questions.question import ASSIGNMENTS


def create(name: str, to: Path) -> tuple[Path, Path]:
    """Write ``A6.ipynb``, the master, and ``a6.py``, its questions.

    Parameters
    ----------
    name : letters and digits, such as "A6" or "HW3".
    to : the folder of your masters; made where it is not there.

    Raises
    ------
    ValueError : a name that cannot be, or files of that name: nothing is written over.
    """
    taken = [one for one in ASSIGNMENTS if one.lower() == name.lower()]
    if taken or not NAME.fullmatch(name):
        why = (
            f"there is {taken[0]} in the library"
            if taken
            else "a letter and then letters and digits are needed"
        )
        raise ValueError(f"assignment is {name!r}; {why}: A6, HW3")
    notebook, questions = to / f"{name}.ipynb", path_of(name, to)
    there = [str(path) for path in (notebook, questions) if path.exists()]
    if there:
        raise ValueError(f"{' and '.join(there)} would be written over; choose another name or folder")
    to.mkdir(parents=True, exist_ok=True)
    template = resources.files("multipole_lab.course.own.template")
    for path, source in ((questions, "a0.py"), (notebook, "A0.ipynb")):
        text = template.joinpath(source).read_text(encoding="utf-8")
        files.write(path, text.replace("A0", name).replace("a0", name.lower()))
    return notebook, questions

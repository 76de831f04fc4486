"""An assignment inside an nbgrader course: its source notebook, the master beside it, and the configuration."""

from __future__ import annotations

import json
from pathlib import Path

from multipole_lab import files
from multipole_lab.course.grading.markers import BEGIN_TESTS, END_TESTS
from multipole_lab.course.grading.notebook import load_master
from multipole_lab.course.questions import own

# Where the configuration is not read, nbgrader's own grading meets this in place of the hidden tests, and gives no
# points that the course's grader would not give.
REFUSAL = (
    """raise RuntimeError("graded by multipole_lab.course.export.nbgrader_steps: see nbgrader_config.py")"""
)
_IMPORT = "from multipole_lab.course.export.nbgrader_steps import configure"
_CONFIG = f"""\
from pathlib import Path

{_IMPORT}

c = get_config()
configure(c, Path(__file__).parent / "masters")
"""


def nbgrader(name: str, to: Path, masters: Path | None = None) -> Path:
    """Put an assignment into the nbgrader course ``to``; a second run writes the same bytes.

    ``source/<name>/<name>.ipynb`` is the master without its hidden tests and with no points for the bonus, so that
    nbgrader's maximum leaves the bonus out. ``masters/<name>.ipynb`` is the master itself, by which
    `nbgrader_steps.grade` grades. ``nbgrader_config.py`` is written where there is none.

    Parameters
    ----------
    name : such as "A1".
    to : the course's folder, which no student may read.
    masters : the folder of the masters; None for those of this checkout.

    Returns
    -------
    The source notebook.

    Raises
    ------
    ValueError : no such assignment, or a configuration of the course's own that does not name the grader; the message
        has the lines to add.
    FileNotFoundError : no masters here.
    """
    master = load_master(name, masters)
    config = to / "nbgrader_config.py"
    if config.is_file() and _IMPORT not in config.read_text(encoding="utf-8"):
        raise ValueError(
            f"{config} does not name this course's grader; add to it, then run this again:\n\n{_CONFIG}"
        )
    source = to / "source" / name / f"{name}.ipynb"
    written = {to / "masters" / f"{name}.ipynb": master.text, source: source_text(master.text)}
    if questions := own.text_of(
        name
    ):  # students get them with the notebook: nbgrader copies what is beside it
        written |= dict.fromkeys((own.path_of(name, path.parent) for path in tuple(written)), questions)
    for path, text in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, text)
    if not config.is_file():
        files.write(config, _CONFIG)
    return source


def source_text(master: str) -> str:
    """The master's text as nbgrader's source: a refusal in place of hidden tests, no points for the bonus."""
    content = json.loads(master)
    for cell in content["cells"]:
        metadata = cell["metadata"]
        text = "".join(cell["source"])
        if BEGIN_TESTS in text:
            before, _, rest = text.partition(BEGIN_TESTS)
            _, _, after = rest.partition(END_TESTS)
            cell["source"] = f"{before}{BEGIN_TESTS}\n{REFUSAL}\n{END_TESTS}{after}"
        if metadata.get("multipole_lab", {}).get("bonus"):
            metadata["nbgrader"]["points"] = 0
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

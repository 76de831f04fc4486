"""Write the repository's public address where readers start: `address.py OWNER/NAME [ROOT]`. Again for another one.

Notebooks get links to Colab, Kaggle and Binder and a cell that installs what is missing only there, and the project its
links. It waits for the address, and for the name on PyPI to be ours: a reader's first cell must install no stranger's.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

MARK = "<!-- open elsewhere -->"
IDENTITY = "elsewhere-99"
# JupyterLab stays out: whoever needs this cell has a page of his own. Plain Python, so that tests can run it.
INSTALL = """\
import importlib.util
import os
import sys

if importlib.util.find_spec("multipole_lab") is None:  # on Colab and Kaggle; elsewhere this cell does nothing
    wanted = "multipole_lab 'accelerate>=1.1' 'anywidget>=0.9.13' 'ipywidgets>=8.1'"
    os.system(f"{sys.executable} -m pip install -q {wanted}")
if "google.colab" in sys.modules:
    sys.modules["google.colab"].output.enable_custom_widget_manager()"""


def links(repository: str, notebook: str) -> str:
    """One line that opens a notebook, named by its path, in a browser elsewhere."""
    at = f"github.com/{repository}/blob/main/{notebook}"
    places = {
        "Colab": f"https://colab.research.google.com/{at.replace('github.com', 'github', 1)}",
        "Kaggle": f"https://www.kaggle.com/kernels/welcome?src=https://{at}",
        "Binder": f"https://mybinder.org/v2/gh/{repository}/main?urlpath=lab/tree/{notebook}",
    }
    opened = ", ".join(f"[{name}]({address})" for name, address in places.items())
    return f"{MARK}Open in {opened}."


def head(notebook: dict, line: str) -> None:
    """Put the line below the first cell's title and the cell that installs behind it; what was there before goes."""
    cells = [cell for cell in notebook["cells"] if cell["id"] != IDENTITY]
    install = {"cell_type": "code", "execution_count": None, "id": IDENTITY, "metadata": {}, "outputs": []}
    notebook["cells"] = [cells[0], install | {"source": INSTALL.splitlines(keepends=True)}, *cells[1:]]
    cell = cells[0]
    lines = [one for one in "".join(cell["source"]).split("\n") if MARK not in one]
    if lines[1:3] == ["", ""]:  # what the line that went leaves
        del lines[1]
    cell["source"] = "\n".join([lines[0], "", line, *lines[1:]]).splitlines(keepends=True)


def project(pyproject: str, repository: str) -> str:
    """pyproject.toml with the project's links."""
    at = f"https://github.com/{repository}"
    rows = {"Repository": at, "Issues": f"{at}/issues", "Changelog": f"{at}/blob/main/CHANGELOG.md"}
    table = "\n".join(["[project.urls]", *(f'{name} = "{url}"' for name, url in rows.items()), "\n"])
    without = re.sub(r"\[project\.urls\]\n(?:[^\[\n].*\n)*\n", "", pyproject)
    return without.replace("[project.scripts]", table + "[project.scripts]", 1)


def readme(text: str, repository: str) -> str:
    """The README with pictures that PyPI's page can show, too."""
    at = rf"https://raw.githubusercontent.com/{repository}/main/docs/"
    return re.sub(
        r"\]\((?:docs/|https://raw\.githubusercontent\.com/[\w./-]+?/main/docs/)(\w+\.png)\)",
        rf"]({at}\1)",
        text,
    )


def main(arguments: list[str]) -> int:
    """Change what must change, and name it."""
    if not arguments or not re.fullmatch(r"[\w.-]+/[\w.-]+", arguments[0]):
        print("Usage: address.py OWNER/NAME [ROOT]", file=sys.stderr)
        return 2
    repository, root = arguments[0], Path(*arguments[1:] or (Path(__file__).resolve().parents[2],))
    changes = {root / "pyproject.toml": project, root / "README.md": readme}
    new = {path: change(path.read_text(encoding="utf-8"), repository) for path, change in changes.items()}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        head(notebook, links(repository, f"notebooks/{path.name}"))
        new[path] = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    for path, text in new.items():
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(root))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

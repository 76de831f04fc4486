"""Make the site's sources and check what is built: `pages.py make NOTEBOOKS FOLDER`, `pages.py check FOLDER`.

myst-nb could execute the notebooks with its cache (jupyter-cache), but that knows a notebook by its own code: after a
change of the library it would show what the old one printed. So each is run here, every time, by nbclient, which
myst-nb would call too; figures have to be turned into HTML in any case.
"""

from __future__ import annotations

import os
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

HERE = Path(__file__).resolve().parent
PAGES = HERE.parent
PLOTLY = "application/vnd.plotly.v1+json"
# Panels become figures to hover over, and plotly's own figures come as data: both find plotly.js in the page.
SETTINGS = {"MULTIPOLE_LAB_PICTURES": "page", "PLOTLY_RENDERER": "plotly_mimetype", "HF_HUB_OFFLINE": "1"}
# Attributes that make a browser fetch something when it opens the page.
FETCHED = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src")}


def make(notebooks: Path, folder: Path, seconds: int = 300) -> None:
    """Copy the pages and their configuration into ``folder``, and every notebook in executed form beside them."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(PAGES, folder, ignore=shutil.ignore_patterns("__pycache__", "*.py", "site"))
    shutil.copy(HERE / "conf.py", folder)
    for page in (folder / "guides").glob("*.md"):
        page.write_text(for_site(page.read_text(encoding="utf-8")), encoding="utf-8")
    shutil.copytree(notebooks / "images", folder / "notebooks/images")
    for path in sorted(notebooks.glob("*.ipynb")):
        print(f"executing {path.name}", flush=True)
        execute(path, folder / "notebooks" / path.name, seconds)


def execute(source: Path, target: Path, seconds: int = 300) -> None:
    """Run a notebook where it stands and write it with its outputs."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(source, as_version=4)
    client = NotebookClient(
        notebook, timeout=seconds, kernel_name="python3", store_widget_state=False,
        resources={"metadata": {"path": str(source.parent)}},
    )  # fmt: skip
    client.execute(env={**os.environ, **SETTINGS})
    for cell in notebook.cells:
        cell.source = for_site(cell.source) if cell.cell_type == "markdown" else cell.source
        cell.outputs = [for_page(output) for output in cell.get("outputs", [])] if "outputs" in cell else []
        if cell.cell_type != "code":
            del cell["outputs"]
    nbformat.write(notebook, target)


def for_site(text: str) -> str:
    """Lead from a notebook to a page of ``docs/``, and from a guide to a notebook: the site has both in its root."""
    return text.replace("](../docs/", "](../").replace("](../../notebooks/", "](../notebooks/")


def for_page(output):
    """Turn a figure's data into HTML that draws it; leave every other output as it is."""
    data = output.get("data", {})
    if PLOTLY in data:
        import plotly.io

        from multipole_lab.figures.common.theme import CONFIG

        figure = data.pop(PLOTLY)
        data["text/html"] = plotly.io.to_html(
            {"data": figure["data"], "layout": figure["layout"]},
            CONFIG,
            full_html=False,
            include_plotlyjs=False,
        )
    return output


class Links(HTMLParser):
    """What a page leads to (``href``), what it fetches when opened, and the places in it that can be led to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.led, self.fetched, self.places = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes) -> None:
        """Note the addresses and the place of one element."""
        found = dict(attributes)
        self.places.update(filter(None, (found.get("id"), found.get("name"))))
        for name in ("href", "src"):
            if found.get(name):
                fetches = (tag, name) in FETCHED and found.get("rel") not in ("canonical", "next", "prev")
                (self.fetched if fetches else self.led).append(found[name])


def check(folder: Path) -> list[str]:
    """Return a sentence for every link within the site that leads nowhere, and all that is fetched from outside."""
    pages = {path.resolve(): Links(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html")}
    wrong = []
    for path, links in pages.items():
        name = path.relative_to(folder.resolve())
        for address in [*links.led, *links.fetched]:
            url = urlsplit(address)
            if url.scheme in ("http", "https") or url.netloc:
                if address in links.fetched:
                    wrong.append(f"{name} fetches {address}")
                continue
            if url.scheme:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                wrong.append(f"{name} leads to {address}, which is not there")
            elif url.fragment and target in pages and unquote(url.fragment) not in pages[target].places:
                wrong.append(f"{name} leads to {address}, which has no such place")
    return wrong


def main(arguments: list[str]) -> int:
    """Do what the command line asks."""
    if arguments[0] == "make":
        make(Path(arguments[1]), Path(arguments[2]))
        return 0
    wrong = check(Path(arguments[1]))
    print("\n".join([*wrong, f"{len(wrong)} links are wrong"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

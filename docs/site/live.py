"""Pages of the panels that need no kernel: `live.py FOLDER [PANEL ...]`; without names all of them, and the tour.

They load what stands beside them, and nothing from elsewhere: a folder that is copied to a stick works from there. The
tour is one file.
"""

from __future__ import annotations

import html
import inspect
import json
import re
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import plotly
from otherwise import of_a_page
from plans import DESK, PLANS
from states import Plan, compute, packed

import multipole_lab as ml
from multipole_lab.figures.common.theme import CONFIG
from multipole_lab.panels.common.style import STYLE
from multipole_lab.panels.page.manuscript import Manuscript
from multipole_lab.panels.page.story import Story
from multipole_lab.panels.tools.hearing import EXPORT

HERE = Path(__file__).resolve().parent
PLOTLY = Path(plotly.__file__).parent / "package_data/plotly.min.js"
MOST_MEGABYTES = 3.0  # of a panel's states
LINKS = {
    "index.html": "All panels",
    "tour.html": "The tour",
    "lab.html": "The desk",
    "gallery.html": "All figures",
}
STILL = (
    "Nothing is computed here: the pictures were made when the page was built, and the sliders choose among them. "
    "In JupyterLab (<code>multipole-lab lab</code>) every control moves, on your own tensors too. "
    "Times are those of the machine that built the page."
)


def make(folder: Path, names: Iterable[str] = ()) -> None:
    """Write the pages of the named panels into ``folder``; without names of all panels, the desk, tour and gallery."""
    chosen = list(names) or list(PLANS)
    (folder / "states").mkdir(parents=True, exist_ok=True)
    shutil.copy(PLOTLY, folder / "plotly.min.js")
    (folder / "player.js").write_text(player(), encoding="utf-8")
    for name in chosen:
        keep(folder, name, PLANS[name])
        about = words_of(name)
        said = f"<p>{html.escape(about)} {html.escape(PLANS[name].ask)}</p>"
        body = f"<h1>The {name} panel</h1>{said}{section(name)}<p>{STILL}</p>"
        write(folder, name, f"The {name} panel", body, [name])
    if names:
        return
    import gallery
    import tour

    for name, plan in DESK.items():
        keep(folder, f"desk-{name}", plan)
    desk = "".join(f"<h2>{name}</h2>{section(f'desk-{name}', tied=True)}" for name in DESK)
    first = f"<h1>The desk</h1><p>A slider that two panels have moves in both. {STILL}</p>"
    write(folder, "lab", "The desk: panels side by side", first + desk, [f"desk-{name}" for name in DESK])
    cards = "".join(
        f'<li><a href="{name}.html"><b>{name}</b></a><br>{html.escape(words_of(name))}</li>' for name in PLANS
    )
    begin = 'New here? <a href="tour.html">The tour</a> shows the first six in their order and tells what they mean.'
    body = f'<h1>Panels without a kernel</h1><p>{begin}</p><ul class="cards">{cards}</ul><p>{STILL}</p>'
    write(folder, "index", "Panels without a kernel", body, [])
    write(folder, "gallery", "All figures", gallery.body(), [], drawn=True)
    tour_body, needed = tour.body(set(PLANS))
    write(folder, "tour", "A tour of multipole attention", tour_body, needed, whole=True)


def keep(folder: Path, name: str, plan: Plan) -> None:
    """Compute a panel's states and keep them as a script: a page that is opened as a file may load no data."""
    began = time.perf_counter()
    states = compute(plan)
    letters = packed(states)
    words = f"{name}: {len(states['states'])} states, {len(letters) / 1e6:.2f} MB"
    print(f"{words}, {time.perf_counter() - began:.0f} s", flush=True)
    if len(letters) > MOST_MEGABYTES * 1e6:
        raise ValueError(f"{words}; at most {MOST_MEGABYTES:g} MB are allowed: take states out of plans.py")
    line = f"(window.multipole_states ??= {{}})[{json.dumps(name)}] = {json.dumps(letters)};\n"
    (folder / "states" / f"{name}.js").write_text(line, encoding="utf-8")


def section(states: str, tied: bool = False) -> str:
    """The place of a player in a page."""
    more = ' data-tied="1"' if tied else ""
    label = html.escape(states.removeprefix("desk-"))
    return (
        f'<section class="player ml-panel" id="{states}" data-states="{states}"{more} aria-label="{label} panel">'
        "<noscript>This picture moves by JavaScript, which is switched off.</noscript></section>"
    )


def player() -> str:
    """The script of all pages: the player, plotly's settings, and the page code of the widgets above figures."""
    parts = {kind.__name__: str(kind._esm).replace(EXPORT, "return render;") for kind in (Story, Manuscript)}
    code = ",\n".join(f"{name}: (() => {{{text}}})()" for name, text in parts.items())
    settings = f"window.multipole_config = {json.dumps(CONFIG)};\nwindow.multipole_parts = {{{code}}};\n"
    return settings + (HERE / "player.js").read_text(encoding="utf-8")


def write(
    folder: Path,
    name: str,
    title: str,
    body: str,
    states: list[str],
    whole: bool = False,
    drawn: bool = False,
) -> None:
    """Write one page; a ``whole`` one has everything inside, a ``drawn`` one figures that do not move."""
    sources = ["plotly.min.js", *(f"states/{one}.js" for one in states), *(["player.js"] if states else [])]
    sources = sources if states or drawn else []
    scripts = {source: f'<script src="{source}"></script>' for source in sources}
    if whole:
        scripts = {
            source: f"<script>{safe((folder / source).read_text(encoding='utf-8'))}</script>"
            for source in sources
        }
    first, last = (
        "plotly.min.js",
        "".join(text for source, text in scripts.items() if source != "plotly.min.js"),
    )
    links = " ".join(f'<a href="{page}"{current(page, name)}>{words}</a>' for page, words in LINKS.items())
    text = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">\n'
        f"{STYLE}<style>{(HERE / 'player.css').read_text(encoding='utf-8')}</style>{scripts.get(first, '')}</head>\n"
        f'<body><nav aria-label="pages">{links}</nav><main>{body}</main>{last}</body></html>\n'
    )
    (folder / f"{name}.html").write_text(text, encoding="utf-8")


def current(page: str, name: str) -> str:
    """The mark of the link that leads to the page it stands on."""
    return ' aria-current="page"' if page == f"{name}.html" else ""


def safe(script: str) -> str:
    """A script that can stand inside a page: no word in it ends the element."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def words_of(name: str) -> str:
    """What a panel is, in the first paragraph of its module's docstring."""
    module = sys.modules[getattr(ml.panels, name).__module__]
    first = inspect.getdoc(module).split("\n\n")[0].replace("\n", " ")
    first = of_a_page(re.sub(r"^The \w+ panel: ", "", first))
    return first[:1].upper() + first[1:]


if __name__ == "__main__":
    make(Path(sys.argv[1]), sys.argv[2:])

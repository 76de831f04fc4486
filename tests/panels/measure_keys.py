"""How long a key takes to become a picture in a real JupyterLab.

    PYTHONPATH=tests/helpers python -P tests/panels/measure_keys.py

The time begins with the key's event in the page and ends after the first frame that has the last change of the picture,
the panel's line of status apart. Beside it the processor's time of the page's main thread and of the kernel, which say
how much of the wall's time another program took.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import browsing
import nbformat
import psutil

# The slider that is moved; more to press before: moves by (slider, key).
CASES = {
    "clusters": ("clusters", []),
    "expansion": ("p x", []),
    "lens": ("word", []),
    "matrix": ("near", []),
    "matrix of 4,096": ("near", [("context", "End")]),
}
KEYS = ["ArrowRight", "ArrowLeft"]

# Notes when a key goes down, and when a figure or what is read beside it last changed: seen in the frame after that.
_WATCH = """name => {
    window.keys_watch?.disconnect();
    window.removeEventListener("keydown", window.keys_down, true);
    const panel = document.querySelector(`.ml-panel[aria-label='${name} panel']`);
    const parts = [...panel.querySelectorAll(".js-plotly-plot, .ml-story")];
    const seen = window.keys_seen = { down: 0, first: 0, last: 0, frames: 0 };
    window.keys_down = (event) => Object.assign(seen, { down: event.timeStamp, first: 0, last: 0, frames: 0 });
    window.addEventListener("keydown", window.keys_down, true);
    let waits = false;
    window.keys_watch = new MutationObserver(() => {
        if (waits) return;
        waits = true;
        requestAnimationFrame(() => {
            const channel = new MessageChannel();
            channel.port1.onmessage = () => {
                waits = false;
                seen.last = performance.now();
                seen.first ||= seen.last;
                seen.frames += 1;
            };
            channel.port2.postMessage(0);
        });
    });
    const all = { subtree: true, childList: true, attributes: true, characterData: true };
    for (const part of parts) window.keys_watch.observe(part, all);
}"""


def write_notebook(path, panels):
    """A notebook with these panels, whose kernel says which process it is."""
    start = f"""\
import os, pathlib
import multipole_lab as ml
pathlib.Path({str(path.with_name("kernel"))!r}).write_text(str(os.getpid()))
sample = ml.load_sample("smollm2")"""
    cells = [start] + [f"ml.panels.{name}({'' if name == 'expansion' else 'sample'})" for name in panels]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


def measure(lab, kernel, case, presses):
    """Press a key so often, each time when all is still; return rows of wall, page and kernel milliseconds, frames."""
    name = case.split()[0]
    slider, before = CASES[case]
    panel = lab.panel(name)
    lab.settled(panel)
    lab.until_fitting(panel)
    for other, key in before:
        lab.unfold(panel, "More")
        panel.get_by_role("slider", name=other, exact=True).focus()
        lab.page.keyboard.press(key)
        lab.page.wait_for_timeout(3000)
        lab.settled(panel)
    panel.get_by_role("slider", name=slider, exact=True).focus()
    chrome = lab.page.context.new_cdp_session(lab.page)
    chrome.send("Performance.enable", {"timeDomain": "threadTicks"})

    def page_seconds():
        return {m["name"]: m["value"] for m in chrome.send("Performance.getMetrics")["metrics"]}[
            "TaskDuration"
        ]

    def kernel_seconds():
        times = kernel.cpu_times()
        return times.user + times.system

    lab.page.evaluate(_WATCH, name)
    rows = []
    for i in range(presses + 2):
        page, python = page_seconds(), kernel_seconds()
        lab.page.keyboard.press(KEYS[i % 2])
        lab.page.wait_for_function(
            "() => keys_seen.last && performance.now() - keys_seen.last > 600", polling=200
        )
        seen = lab.page.evaluate("() => keys_seen")
        spent = page_seconds() - page, kernel_seconds() - python
        rows.append(
            (seen["last"] - seen["down"], 1000 * spent[0], 1000 * spent[1], seen["first"] - seen["down"])
        )
    return rows[2:]  # the first ones warm up


def main():
    """Measure the panels that are named, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "cases", nargs="*", default=list(CASES), help=f"of {', '.join(CASES)}; all by default"
    )
    parser.add_argument("--presses", type=int, default=15)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            browsing.chromium() as browser,
            browsing.jupyter_lab(folder, BROWSER_PATH="/dev/null") as (url, token),
        ):
            panels = dict.fromkeys(case.split()[0] for case in chosen.cases)
            write_notebook(folder / "notebooks/keys.ipynb", panels)
            lab = browsing.Notebook(browser.new_page(viewport={"width": 1280, "height": 1200}))
            lab.open(url, token, "keys.ipynb")
            errors = lab.run_all()
            assert not errors, errors
            kernel = psutil.Process(int((folder / "notebooks/kernel").read_text()))
            print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors; milliseconds, medians")
            print(f"{'':16} {'wall':>6} {'p90':>6} {'of':>12} {'page':>6} {'kernel':>6} {'first change':>6}")
            for case in chosen.cases:
                rows = measure(lab, kernel, case, chosen.presses)
                wall, page, _, first = (statistics.median(column) for column in zip(*rows, strict=True))
                python = statistics.mean(row[2] for row in rows)
                late = statistics.quantiles((row[0] for row in rows), n=10)[-1]
                ends = f"{min(r[0] for r in rows):.0f} to {max(r[0] for r in rows):.0f}"
                print(
                    f"{case:16} {wall:6.0f} {late:6.0f} {ends:>12} {page:6.0f} {python:6.0f} {first:6.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()

"""`multipole-lab lab`: copy the notebooks to a folder of the reader's and open JupyterLab on the tour."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from multipole_lab import extras, folders
from multipole_lab.jupyter.copies import Copied, copy_notebooks

FOLDER = "multipole-lab"  # a hyphen: Python must not take it for the package


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add ``lab`` to the command line."""
    parser = subparsers.add_parser(
        "lab",
        help="open the notebooks in JupyterLab",
        description="Copy the notebooks to a folder, where a file that is there stays as it is, and open JupyterLab on "
        "the tour: for this computer only, at an address with a token.",
    )
    add = parser.add_argument
    add("--notebooks", metavar="DIR", default=FOLDER, help=f"the folder; default: {FOLDER}, in this one")
    add("--port", type=_port, default=8888, help="the next free port where that one is taken; default: 8888")
    add("--no-browser", action="store_true", help="print the address and open nothing")
    add("--copy-only", action="store_true", help="copy the notebooks and end, for VS Code and others")


def run(args: argparse.Namespace) -> int:
    """Copy, say what was copied, and become JupyterLab, which asks before it ends on Ctrl-C."""
    if not args.copy_only:
        extras.require("the lab", "lab", "jupyterlab", "ipykernel", "ipywidgets", "anywidget")
    folder = Path(args.notebooks).expanduser().absolute()
    try:
        copied = copy_notebooks(folder)
    except OSError as error:
        print(
            f"the notebooks cannot be copied to {folder}: {error}; name another folder with --notebooks DIR",
            file=sys.stderr,
        )
        return 1
    print(told(folder, copied), flush=True)
    if not args.copy_only:
        os.execv(sys.executable, server(folder, args.port, browser=not args.no_browser))
    return 0


def told(folder: Path, copied: Copied) -> str:
    """What was copied where, as sentences; a reader's own files by name."""
    text = f"{len(copied.new)} files copied to {folder}" if copied.new else f"All files are in {folder}"
    if not copied.kept:
        return f"{text}."
    names = ", ".join(copied.kept)
    fresh = shlex.join(["multipole-lab", "lab", "--notebooks", f"{folder}-fresh"])
    return f"{text}. Kept, and not as this version ships them: {names}. A whole set beside yours: {fresh}"


def server(folder: Path, port: int, browser: bool = True) -> list[str]:
    """The command line of JupyterLab with the lab's own settings: on 127.0.0.1, with a token, asking nobody."""
    settings = folders.shipped_folder("notebooks") / "settings/jupyter_lab_config.py"
    command = [sys.executable, "-m", "jupyterlab", f"--config={settings}", f"--ServerApp.port={port}",
               f"--ServerApp.root_dir={folder}"]  # fmt: skip
    return command if browser else [*command, "--no-browser"]


def _port(text: str) -> int:
    """A port that a user may take."""
    if not text.isdecimal() or not 1 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 1 to 65535")
    return int(text)

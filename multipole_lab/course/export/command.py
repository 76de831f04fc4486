"""`multipole-lab course gradescope`, `otter` and `nbgrader`: an assignment for each of these systems."""

from __future__ import annotations

import argparse
from pathlib import Path

STEPS = {
    "gradescope": "write the archive that Gradescope grades by",
    "otter": "write the archive that otter-grader grades by",
    "nbgrader": "put assignments into an nbgrader course",
}


def add_steps(steps: argparse._SubParsersAction) -> None:
    """Add the steps to those of ``multipole-lab course``; what takes masters has an argument for them already."""
    for step, summary in STEPS.items():
        one = steps.add_parser(step, help=summary, description=summary)
        one.add_argument("assignments", nargs="+", metavar="A1", help="which ones")
        one.add_argument("--to", type=Path, required=True, metavar="DIR", help="where to write them")
        one.add_argument("--masters", type=Path, metavar="DIR", help="the masters, as for the other steps")
        if step == "gradescope":
            one.add_argument(
                "--visibility",
                metavar="WHEN",
                help="when students see points: after_due_date (this by default), after_published, visible, hidden",
            )


def run(args: argparse.Namespace) -> int:
    """Write what was asked for; returns the exit status."""
    from multipole_lab.course.export.gradescope import VISIBILITIES, gradescope
    from multipole_lab.course.export.nbgrader_course import nbgrader
    from multipole_lab.course.export.otter import otter

    for name in args.assignments:
        if args.step == "gradescope":
            print(gradescope(name, args.to, args.masters, args.visibility or VISIBILITIES[0]))
        else:
            print((otter if args.step == "otter" else nbgrader)(name, args.to, args.masters))
    if args.step == "nbgrader":
        print(f"Next, in {args.to}: nbgrader generate_assignment {args.assignments[0]}")
    return 0

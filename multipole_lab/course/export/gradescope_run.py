"""What runs on Gradescope: ``python -m multipole_lab.course.export.gradescope_run /autograder``.

The format of ``results.json`` is at https://gradescope-autograders.readthedocs.io/en/latest/specs/.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from multipole_lab import files
from multipole_lab.course.export.one import grade_one, keep_from_others, lines


def main(argv: list[str] | None = None) -> int:
    """Grade ``submission/`` into ``results/results.json``.

    If the grader itself fails there is no results.json, so that Gradescope tells student and instructor, and gives
    no points rather than none of them.
    """
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("root", type=Path, help="the folder that is /autograder there")
    args = parser.parse_args(argv)
    root = args.root.resolve()
    asked = json.loads((root / "source" / "assignment.json").read_text(encoding="utf-8"))
    target = root / "results" / "results.json"
    target.unlink(missing_ok=True)
    alone = keep_from_others(root / name for name in ("source", "submission", "results"))
    result = grade_one(root / "submission", asked["assignment"], root / "source" / "masters", unsafe=alone)
    files.write(target, json.dumps(results(result, asked["visibility"]), indent=1) + "\n")
    print("\n".join([f"{result['earned']:g} of {result['possible']:g}", *result["notes"]]))
    return 0


def results(result: dict, visibility: str) -> dict:
    """Gradescope's results.json of a grade; one test for each question, and everything as plain text.

    The bonus has no maximum, so that maxima add up to what is possible without it. A written answer has no score: it
    is shown to whoever reads it by Gradescope's own rubric.
    """
    tests = []
    for item in result["items"]:
        test = {"number": item["question"], "name": item["title"], "visibility": visibility}
        if item["manual"]:
            test |= {"name": f"{item['title']} (written, {item['points']:g} points)", "status": "passed"}
            said = [item["answer"] or "no answer"]
        else:
            said = lines(item)
            test |= {"score": item["earned"], "status": _status(item["earned"] >= item["points"])}
            if item["bonus"]:
                test["name"] += f" (up to {item['points']:g} more)"
            else:
                test["max_score"] = item["points"]
        tests.append(test | {"output": "\n".join(said)})
    problem = f"The file could not be graded: {result['problem']}." if result["problem"] else ""
    return {
        "score": result["earned"] + result["bonus"],
        "execution_time": result["seconds"],
        "output": problem,
        "output_format": "text",
        "test_output_format": "text",
        "test_name_format": "text",
        "visibility": visibility,
        "stdout_visibility": "hidden",
        "tests": tests,
    }


def _status(passed: bool) -> str:
    return "passed" if passed else "failed"


if __name__ == "__main__":
    raise SystemExit(main())

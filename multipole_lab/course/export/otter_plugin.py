"""What otter-grader calls: the library's grader in place of otter's kernel, which would share a process with tests."""

from __future__ import annotations

import tempfile
from pathlib import Path

from multipole_lab import extras
from multipole_lab.course.export.one import grade_one, keep_from_others
from multipole_lab.course.questions import own


class Grader:
    """An otter plugin, named in ``otter_config.json`` with ``{"assignment": "A1", "master": <its text>,
    "questions": <those of an assignment of one's own, or "">}``.

    otter then runs an empty notebook, and gets the results of ours. If the grader fails, so does otter's run: there
    are no results rather than results without points.
    """

    def __init__(self, submission_path: str, submission_metadata: dict, plugin_config: dict) -> None:
        self.path, self.config = submission_path, plugin_config
        self.result: dict = {}

    def before_execution(self, submission: object) -> object:
        """Grade the file; what otter is to run instead has no cells."""
        extras.require("a notebook for otter", "course", "nbformat")
        import nbformat

        path = Path(self.path)
        alone = keep_from_others(path.parents[1] / name for name in ("source", "submission", "results"))
        with tempfile.TemporaryDirectory(prefix="multipole-lab-master-") as folder:
            assignment = self.config["assignment"]
            Path(folder, f"{assignment}.ipynb").write_text(self.config["master"], encoding="utf-8")
            if questions := self.config["questions"]:
                own.path_of(assignment, Path(folder)).write_text(questions, encoding="utf-8")
            self.result = grade_one(path, assignment, Path(folder), unsafe=alone)
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        return nbformat.v4.new_notebook(metadata={"kernelspec": kernel})

    def after_grading(self, results: object) -> None:
        """Put the points into otter's results: a test file a question, a test case a hidden test."""
        results.results = {
            item["question"]: _test_file(item) for item in self.result["items"] if not item["manual"]
        }
        if self.result["problem"]:
            results.set_output(f"The file could not be graded: {self.result['problem']}.")

    def generate_report(self) -> str:
        """What the instructor reads beside the points."""
        result = self.result
        bonus = f", and {result['bonus']:g} for the bonus" if result["bonus"] else ""
        return "\n".join([f"{result['earned']:g} of {result['possible']:g}{bonus}", *result["notes"]])


def _test_file(item: dict) -> object:
    """One question as otter's results know it. The bonus adds to what is earned, and nothing to what is possible."""
    from otter.test_files import TestCase
    from otter.test_files.abstract_test import TestCaseResult
    from otter.test_files.ottr_test import OttrTestFile  # the one that holds results that come from elsewhere

    tests = item["tests"] or [
        {"name": "all tests", "earned": 0.0, "points": item["points"], "reason": item["reason"]}
    ]
    file = OttrTestFile(f"{item['question']} {item['title']}", item["question"], [], all_or_nothing=False)
    for test in tests:
        points = 0 if item["bonus"] else test["points"]
        case = TestCase(test["name"], "", True, points, None, None)
        file.test_cases.append(case)
        said = test["reason"] or "passed"
        file.test_case_results.append(TestCaseResult(case, said, test["earned"] >= test["points"]))
    file.update_score(item["earned"])
    return file

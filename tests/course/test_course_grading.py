"""Submissions of assignment 1 in good faith, right and wrong, and files that are none: each scores what it should."""

import pytest
from submissions import RIGHT, reasons, small_master, solution_cells, write

from multipole_lab.course.grading import notebook
from multipole_lab.course.grading.submission import grade_submission


def test_the_solutions_score_everything(grade):
    assert grade()[0] == RIGHT


# --- wrong in good faith --------------------------------------------------------------------------

NAIVE = """
def weights(q, k, scale):
    grown = torch.exp(scale * q @ k.T)
    return grown / grown.sum(1, keepdim=True)
"""
WRONG = {
    "the scale is forgotten": (NAIVE.replace("scale * q", "q"), 0, "off by"),
    "the maximum is not subtracted": (NAIVE, 3, "NaN"),
    "wrong axis": (NAIVE.replace("1, keepdim", "0, keepdim"), 0, "off by"),
    "all NaN": ("def weights(q, k, scale):\n    return torch.full((len(q), len(k)), torch.nan)", 0, "NaN in"),
    "fp16 overflows": (NAIVE.replace("scale * q @ k.T", "(scale * 9 * q).half() @ k.half().T"), 0, "NaN"),
    "a constant": (
        "def weights(q, k, scale):\n    return torch.full((len(q), len(k)), 1 / len(k))",
        0,
        "off by",
    ),
    "a Python list": (NAIVE.replace("True)", "True).tolist() if 0 else [1.0]"), 0, "tensor is expected"),
    "transposed": (
        NAIVE.replace("True)\n", "True)\n").replace("return ", "return (").rstrip() + ").T\n",
        0,
        "shape",
    ),
    "no return": (NAIVE.replace("return ", ""), 0, "return"),
    "an exception": ("def weights(q, k, scale):\n    return q @ k", 0, "RuntimeError"),
    "a syntax error": ("def weights(q, k, scale)\n    return q", 0, "SyntaxError"),
    "not written": ("def weights(q, k, scale):\n    raise NotImplementedError", 0, "not written yet"),
    "a deleted cell": (None, 0, "is missing"),
    "a renamed function": (NAIVE.replace("def weights", "def my_weights"), 0, "renamed to `my_weights`"),
    "no function at all": ("weights = 3", 0, "there is no function"),
    "the library is called": (
        "def weights(q, k, scale):\n    from multipole_lab.attention.expansion import softmax_lse\n    return 1",
        0,
        "does not allow",
    ),
    "a forbidden function": (
        "def weights(q, k, scale):\n    return (scale * q @ k.T).softmax(1)",
        0,
        "softmax",
    ),
    "a forbidden function, hidden": (
        "def weights(q, k, scale):\n    return getattr(torch, 'soft' + 'max')(scale * q @ k.T, 1)",
        0,
        "'getattr'",
    ),
    "scipy": (
        "def weights(q, k, scale):\n    from scipy.special import expit\n    return 1",
        0,
        "does not allow scipy",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_in_good_faith(grade, name):
    source, points, reason = WRONG[name]
    earned, result = grade({"A1-1": source})
    assert earned == {"A1.1": points, "A1.2": 5.0}
    assert reason in reasons(result)


@pytest.mark.parametrize("by", [-1, 1])
def test_a_mask_off_by_one_scores_nothing(grade, by):
    source = solution_cells()["A1-3"].replace("position[:, None]", f"position[:, None] + {by}")
    assert grade({"A1-3": source}, names=("A1.3",))[0] == {"A1.3": 0.0}


def test_a_solution_with_notebook_commands_and_noise_is_graded(grade):
    source = (
        "%matplotlib inline\n!pip list\n" + solution_cells()["A1-1"] + "\nprint('hello')\nweights.__doc__"
    )
    extra = [
        "%%time\nraise ValueError('a cell of the student')",
        "ml.load_sample('smollm2')",
        "import plotly",
    ]
    assert grade({"A1-1": source}, extra=extra)[0] == RIGHT


def test_a_function_may_stand_in_another_cell(grade):
    source = solution_cells()["A1-1"]
    assert grade({"A1-1": None}, extra=[source])[0] == RIGHT


# --- files that are no submissions ----------------------------------------------------------------


def huge(path):
    with open(path, "wb") as file:
        file.truncate(100_000_000)


FILES = {
    "not JSON": (lambda p: p.write_text("%PDF-1.4 " * 50), "not JSON"),
    "empty": (lambda p: p.write_text(""), "not JSON"),
    "JSON but no notebook": (lambda p: p.write_text("[1, 2]"), "no notebook"),
    "nested without end": (lambda p: p.write_text("[" * 200_000), "nested more than 64"),
    "not text": (lambda p: p.write_bytes(b"\xff\xfe\x00binary"), "not text"),
    "100 MB": (huge, "100 MB"),
    "a link": (lambda p: p.symlink_to(notebook.masters_folder() / "A1.ipynb"), "no notebook file"),
    "nothing": (lambda p: None, "no notebook file"),
    "another language": (
        lambda p: write(p, metadata={"kernelspec": {"name": "julia-1.11", "language": "julia"}}),
        "'julia', not Python",
    ),
    "cells that are no cells": (
        lambda p: p.write_text('{"cells": [1, null, {"source": 5}], "metadata": 7}'),
        "",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_submission_scores_nothing_and_says_why(fork_server, tmp_path, name):
    make, reason = FILES[name]
    make(tmp_path / "A1.ipynb")
    result = grade_submission(small_master(), tmp_path / "A1.ipynb", fork_server)
    assert result["earned"] == 0
    assert reason in result["problem"]
    assert all(item["reason"] for item in result["items"])


def test_an_unexpected_kernel_of_python_is_noted(grade):
    earned, result = grade(metadata={"kernelspec": {"name": "conda-env-course-py", "language": "python"}})
    assert earned == RIGHT
    assert "conda-env-course-py" in result["notes"][0]

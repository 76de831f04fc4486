"""RULER's tasks: what is asked stands in the text, a context fits its length, and a report has dense beside."""

import random

import pandas
import pytest
import torch
from tiny_models import save_byte_llama, tiny

from multipole_lab import cli
from multipole_lab.evaluation.reader import Reader
from multipole_lab.evaluation.report import compression
from multipole_lab.evaluation.ruler.command import TASKS, table
from multipole_lab.evaluation.ruler.needles import needles
from multipole_lab.evaluation.ruler.puzzle import Puzzle, fitting, words
from multipole_lab.threads import one_thread

SENTENCES = ["One lamp stood afar. ", "Eleven lamps are near. "]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_byte_llama(tmp_path_factory.mktemp("model") / "tiny")


def count(text):
    return len(text.split())


@pytest.mark.parametrize("task", TASKS)
def test_the_answers_stand_in_a_context_of_the_length_and_not_in_the_question(task):
    for tokens in (300, 1200):
        puzzle, size = fitting(TASKS[task], "a", SENTENCES, tokens, count)
        assert size == count(puzzle.context + puzzle.question)
        assert 0.9 * tokens < size <= tokens
        assert all(answer in puzzle.context for answer in puzzle.answers)
        assert not any(answer in puzzle.question for answer in puzzle.answers)
        assert puzzle.score(" and ".join(puzzle.answers).upper()) == 1
        assert puzzle.score("nothing of it") == 0
        assert (puzzle, size) == fitting(TASKS[task], "a", SENTENCES, tokens, count)
        assert puzzle != fitting(TASKS[task], "b", SENTENCES, tokens, count)[0]
    with pytest.raises(ValueError, match="9 tokens are too few for this task"):
        fitting(TASKS[task], "a", SENTENCES, 9, count)


def test_there_are_thirteen_tasks_and_several_needles():
    assert len(TASKS) == 13
    keys = {task: len(fitting(TASKS[task], "a", SENTENCES, 400, count)[0].answers) for task in TASKS}
    assert keys["niah_multivalue"] == keys["niah_multiquery"] == 4
    assert keys["vt"] == 5
    assert keys["cwe"] == 10
    puzzle = TASKS["niah_multikey_1"](20, random.Random(0), SENTENCES)
    assert puzzle.context.count("One of the special magic numbers for") == 4
    puzzle = needles(20, random.Random(0), SENTENCES, hay="needles")
    assert puzzle.context.count("One of the special magic numbers for") == 21


def test_words_are_different_and_none_is_a_part_of_another():
    names = words(random.Random(0), 3000)
    assert len(set(names)) == 3000
    text = f" {' '.join(names)} "
    assert sum(text.count(name) for name in names[:300]) == 300


def test_variables_are_named_after_the_ones_that_they_copy():
    context = TASKS["vt"](30, random.Random(3), SENTENCES).context
    steps = [part.split(".")[0] for part in context.split("VAR ")[1:] if "=" in part.split(".")[0]]
    known = {steps[0].split(" = ")[0]}
    assert steps[0].split(" = ")[1].isdigit()
    assert len(TASKS["vt"](30, random.Random(3), SENTENCES).answers) == 5
    assert known <= set(TASKS["vt"](30, random.Random(3), SENTENCES).answers)


def test_a_score_is_a_share_and_the_table_has_errors_and_dense_beside():
    assert Puzzle("", "", ("one", "two")).score("ONE lamp") == 0.5
    scores = {"dense": [1.0, 0.5, 0.0, 1.0], "MuSe()": [0.5, 0.5, 0.0, 1.0]}
    rows = pandas.DataFrame(
        {
            "id": str(i),
            "method": method,
            "task": "vt" if i < 2 else "cwe",
            "length": 64,
            "score": x,
            "seconds": 1.0,
        }
        for method, values in scores.items()
        for i, x in enumerate(values)
    )
    found = table(rows, list(scores)).set_index(["task", "method"])
    assert found.loc[("all", "dense"), "score"] == 0.625
    assert found.loc[("all", "MuSe()"), "to dense"] == -0.125
    assert found.loc[("all", "MuSe()"), "± s.e. "] == pytest.approx(0.125)
    assert found.loc[("vt", "dense"), "± s.e."] == pytest.approx(0.25)
    assert found.loc[("cwe", "MuSe()"), "to dense"] == 0
    assert "compression ratio" not in found


def test_a_clustered_caches_budget_stands_in_the_report_as_kvpress_counts_it():
    rows = pandas.DataFrame(
        {"tokens": [2000, 4000], "task": "vt", "length": 64, "score": 1.0, "seconds": 1.0}
    )
    # Exact keys: 10 sinks, 128 + 256 / 2 last ones, and 5% of 2,000 or 4,000.
    ratio = 1 - (266 / 2000 + 0.05 + 266 / 4000 + 0.05) / 2
    assert compression("MultipoleCache(budget=0.05)", rows)["compression ratio"] == pytest.approx(ratio)
    assert compression("MultipoleCache(budget=128)", rows[:1])["compression ratio"] == 1 - 394 / 2000
    # 1,734 keys in 109 clusters, these in 28; all of so few are looked at.
    assert compression("MultipoleCache(budget=128)", rows[:1])["with centroids"] == 1 - (394 + 137) / 2000
    assert compression("MultipoleCache(budget=9, recent=4000)", rows)["compression ratio"] == 0
    assert compression("dense", rows) == compression("MuSe()", rows) == {}
    lines = [rows.assign(id=["a", "b"], method=name) for name in ("dense", "MultipoleCache()")]
    assert table(pandas.concat(lines), ["dense", "MultipoleCache()"])["compression ratio"].notna().sum() == 2


@pytest.mark.parametrize("method", ["dense", "Exact()", "MultipoleCache(budget=4096)"])
def test_what_is_written_is_the_models_own_continuation(method):
    model = tiny("llama")
    model.generation_config.eos_token_id = None
    ids = torch.randint(3, 64, (40,), generator=torch.Generator().manual_seed(0))
    expected = model.generate(ids[None], max_new_tokens=9, do_sample=False, pad_token_id=0)[0, 40:].tolist()
    assert Reader(model, method).write(ids.tolist(), 9) == expected


def test_the_command_runs_for_a_drop_in_and_for_the_cache(folder, tmp_path, capsys):
    asked = [
        "eval",
        "ruler",
        "--model",
        folder,
        "--max-tokens",
        "900",
        "--lengths",
        "700",
        "900",
        "--new-tokens",
        "4",
    ]
    asked += ["--tasks", "niah_single_2", "vt", "--method", "MuSe(clusters=8, leaf=32)"]
    asked += ["--method", "MultipoleCache(budget=16)", "--out", str(tmp_path / "out")]
    with one_thread():
        assert cli.main(asked) == 0
    shown = capsys.readouterr().out
    assert "niah_single_2" in shown
    found = pandas.read_csv(tmp_path / "out/table.csv")
    assert len(found) == 2 * 3 * 3
    assert set(found["method"]) == {"dense", "MuSe(clusters=8, leaf=32)", "MultipoleCache(budget=16)"}
    assert "RULER" in (tmp_path / "out/report.html").read_text(encoding="utf-8")
    with one_thread():
        assert (
            cli.main([*asked[:4], "--max-tokens", "60", "--tasks", "vt", "--out", str(tmp_path / "b")]) == 1
        )
    assert "tokens are too few for this task" in capsys.readouterr().err

"""LongBench v2 from a file or from `datasets`: what is read, how it is cut, what is refused."""

import json
import sys
import types

import pytest

from multipole_lab.evaluation import longbench
from multipole_lab.evaluation.longbench import FIELDS, build_prompt, read_records


def record(i=0, **changes):
    words = {
        "_id": f"q{i}",
        "length": "short",
        "difficulty": "easy",
        "answer": "B",
        "context": "Once upon a time. ",
    }
    return {**dict.fromkeys(FIELDS, "word"), **words, **changes}


class Bytes:
    """A token a byte; optionally with a chat template."""

    def __init__(self, chat=False):
        self.chat_template = "yes" if chat else None

    def __call__(self, text, add_special_tokens=True, verbose=True):
        return {"input_ids": list(text.encode())}

    def decode(self, ids, skip_special_tokens=False):
        return bytes(ids).decode(errors="replace")

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        assert not tokenize
        assert add_generation_prompt
        return f"<user>{messages[0]['content']}<bot>"


def write(path, *lines):
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_records_are_read_in_order_and_further_fields_left_out(tmp_path):
    path = write(tmp_path / "data.jsonl", record(0, more=1), "", record(1, context="zwölf"))
    assert list(read_records(path)) == [record(0), record(1, context="zwölf")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"_id": "x", ', "is no JSON"),
        ("[]", "is a list"),
        ({"_id": "x"}, "lacks domain, sub_domain"),
        (record(1, answer="E"), "answer is 'E'"),
        (record(1, answer=2), "answer is a int"),
        (record(1, context=None), "context is a NoneType"),
        (record(1, context="  "), "context is empty"),
        (record(0), "'q0' stands in line 1 too"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, said):
    path = write(tmp_path / "data.jsonl", record(0), "", line, record(9))
    with pytest.raises(ValueError, match=r"data.jsonl, line 3") as caught:
        list(read_records(path))
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"none.jsonl does not exist"):
        list(read_records(tmp_path / "none.jsonl"))
    with pytest.raises(ValueError, match="is a folder"):
        list(read_records(tmp_path))
    with pytest.raises(ValueError, match=r"empty.jsonl is empty"):
        list(read_records(write(tmp_path / "empty.jsonl", "", " ")))


def test_a_prompt_that_fits_is_whole():
    before, after = build_prompt(record(question="Who?", choice_C="The cat {context}"), Bytes(), 4000)
    assert "Once upon a time. \n" in before
    assert after.startswith("</text>")
    assert "this question: Who?\n" in after
    assert "(C) The cat {context}\n" in after
    assert after.endswith("\nThe correct answer is (")


@pytest.mark.parametrize("chat", [False, True])
def test_a_long_prompt_loses_its_middle_and_nothing_else(chat):
    context = "".join(f"[{i}]" for i in range(2000))
    long = record(context=context, question="Who?")
    before, after = build_prompt(long, Bytes(chat), 1500)
    whole = before + after
    assert 1450 < len(whole.encode()) <= 1500
    assert before.startswith("<user>Please read" if chat else "Please read")
    assert whole.endswith("<bot>The correct answer is (" if chat else "\nThe correct answer is (")
    assert "[0][1][2]" in before
    assert "[1998][1999]" in before
    assert "[1000]" not in whole
    assert "Who?" in after


def test_a_question_longer_than_half_keeps_its_end():
    before, after = build_prompt(record(question="w " * 3000, choice_D="the last"), Bytes(), 1500)
    assert "(D) the last" in after
    with pytest.raises(ValueError, match="no space"):
        build_prompt(record(), Bytes(), 20)


def test_without_a_file_the_hub_is_asked_through_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install datasets.*--data"):
        list(longbench.from_hub())

    def load_dataset(name, split):
        assert (name, split) == ("THUDM/LongBench-v2", "train")
        return [record(0), record(1)]

    stand_in = types.ModuleType("datasets")
    stand_in.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", stand_in)
    assert [one["_id"] for one in longbench.from_hub()] == ["q0", "q1"]

    def offline(name, split):
        raise ConnectionError("no route")

    stand_in.load_dataset = offline
    with pytest.raises(OSError, match=r"no route.*--data"):
        list(longbench.from_hub())

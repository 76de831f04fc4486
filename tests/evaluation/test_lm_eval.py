"""The model ``multipole`` of lm-eval: with exact attention the numbers of ``hf``, whatever the batch."""

import json
import os

import pytest
import torch
from tiny_models import save_byte_llama

from multipole_lab.cli import main

TEXT = "eleven lamps seen from afar are one lamp, and one lamp seen from nearby is eleven lamps. " * 4
TASKS = {
    "choice": "output_type: multiple_choice\ndoc_to_text: '{{context}}'\ndoc_to_choice: '{{choices}}'\n"
    "doc_to_target: 1\nmetric_list: [{metric: acc}, {metric: acc_norm}]\n",
    "text": "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{context}}'\n"
    "metric_list: [{metric: bits_per_byte}]\n",
    "words": "output_type: generate_until\ndoc_to_text: '{{context}}'\ndoc_to_target: one\n"
    "generation_kwargs: {until: ['@@'], max_gen_toks: 8, do_sample: false}\nmetric_list: [{metric: exact_match}]\n",
}


real = pytest.mark.slow  # lm-eval prepares its tasks each time


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random model with a byte tokenizer, and three tasks over rows of different lengths."""
    folder = tmp_path_factory.mktemp("lm_eval")
    save_byte_llama(folder / "model")
    rows = [
        {"context": TEXT[i : i + n], "choices": [" one", " lamp afar"]}
        for i, n in ((0, 40), (7, 150), (3, 231))
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, task in TASKS.items():
        data = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / 'rows.jsonl'}}}}}"
        (folder / f"{name}.yaml").write_text(f"task: lab_{name}\n{data}\ntest_split: test\n{task}")
    return folder


@pytest.fixture
def evaluated(folder):
    """The numbers of every row, by task, of one of lm-eval's models."""
    lm_eval = pytest.importorskip("lm_eval", reason="pip install lm-eval")
    os.environ["HF_DATASETS_OFFLINE"] = "1"
    from lm_eval.tasks import TaskManager

    from multipole_lab.evaluation.harness import model as _  # noqa: F401  enters the name

    def run(name, batch=3, **arguments):
        found = lm_eval.simple_evaluate(
            model=name, model_args={"pretrained": str(folder / "model"), "dtype": "float32", **arguments},
            tasks=[f"lab_{task}" for task in TASKS], batch_size=batch, device="cpu", bootstrap_iters=0,
            task_manager=TaskManager(include_path=str(folder)),
        )  # fmt: skip
        rows = {
            task: [row["filtered_resps"] for row in found["samples"][task]]
            for task in sorted(found["samples"])
        }
        return rows, found["config"]

    return run


def numbers(rows):
    return torch.tensor(
        [value for task in ("lab_choice", "lab_text") for row in rows[task] for value in flat(row)]
    )


def flat(x):
    return [value for one in x for value in flat(one)] if isinstance(x, list | tuple) else [float(x)]


@real
def test_exact_attention_gives_the_digits_of_hf(evaluated):
    expected, _ = evaluated("hf")
    got, config = evaluated("multipole", method="Exact()")
    torch.testing.assert_close(numbers(got), numbers(expected), rtol=1e-6, atol=1e-5)
    assert got["lab_words"] == expected["lab_words"]
    assert config["attention_calls"]["approximated"] > 0
    assert config["method"] == "Exact()"


@real
def test_a_method_gives_a_row_the_same_numbers_alone_and_beside_longer_ones(evaluated):
    method = "MuSe(clusters=4,near=1,leaf=16)"
    alone, _ = evaluated("multipole", batch=1, method=method)
    beside, _ = evaluated("multipole", batch=3, method=method)
    exact, _ = evaluated("multipole", method="Exact()")
    torch.testing.assert_close(numbers(beside), numbers(alone), rtol=1e-4, atol=1e-2)
    assert (numbers(alone) - numbers(exact)).abs().max() > 0.1


@real
def test_a_cache_generates_and_layers_are_chosen(evaluated):
    expected, _ = evaluated("hf")
    got, _ = evaluated("multipole", method="MultipoleCache(budget=4096)")
    assert got == expected
    _, config = evaluated("multipole", method="Window(size=4)", layers="1")
    assert config["attention_calls"]["approximated"] > 0


def test_without_lm_eval_the_command_says_what_installs_it(monkeypatch, capsys):
    monkeypatch.setattr("multipole_lab.extras.is_there", lambda module: module != "lm_eval")
    assert main(["eval", "lm-eval", "run", "--model", "multipole"]) == 1
    assert "pip install 'lm-eval>=0.4.9'" in capsys.readouterr().err

"""The table of model families: what it finds is what the page says, and nothing in it is wrong."""

import re
from pathlib import Path

import pytest
import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

import multipole_lab as ml
from multipole_lab.cli import main
from multipole_lab.decoding.layer import ClusteredLayer
from multipole_lab.evaluation.families.checks import asked, cached, captured, drop_in
from multipole_lab.evaluation.families.command import FAMILIES, Row, ask, summary, table
from multipole_lab.evaluation.families.tiny import tiny_parts
from multipole_lab.interface.refusing import _UNKNOWN
from multipole_lab.models import drop_in as replaced

PAGE = Path(__file__).parents[2] / "docs/models.md"
QUICK = ("llama", "gemma2", "gpt_oss", "t5", "vit")


def rows_of_page():
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines[1:]}


@pytest.mark.parametrize(
    "family", [pytest.param(one, marks=[] if one in QUICK else pytest.mark.slow) for one in FAMILIES]
)
def test_the_page_says_what_the_check_finds(family):
    rows, page = ask(family), rows_of_page()
    assert [str(row) for row in rows] == [page[row.label] for row in rows]
    assert not any(row.wrong or row.untested for row in rows)


def test_the_page_has_every_family_and_nothing_wrong():
    page = rows_of_page()
    assert {label.split()[0] for label in page} == set(FAMILIES)
    assert not [line for line in page.values() if "wrong" in line]
    assert set(FAMILIES) <= set(CONFIG_MAPPING_NAMES)


def test_a_family_without_known_sizes_is_untested_and_an_unknown_one_named(capsys, tmp_path):
    (row,) = ask("timm_wrapper")
    assert row.untested
    assert "untested" in str(row)
    assert main(["models", "check", "lama"]) == 1
    assert "no family 'lama'; did you mean 'llama'?" in capsys.readouterr().err
    assert main(["models", "check", "llama", "--out", str(tmp_path / "page.md")]) == 0
    page = (tmp_path / "page.md").read_text()
    assert "| llama | works | works | works |" in page
    assert f"{len(CONFIG_MAPPING_NAMES) - 1} other families of transformers' list are untested" in page
    assert table([row]).splitlines()[-1] == str(row)
    assert summary([row, Row("other")])[1] == "**untested** (2): timm_wrapper, other.\n"


@pytest.mark.parametrize("question", [drop_in, captured, cached], ids=lambda one: one.__name__)
def test_what_changes_the_numbers_is_found_to_be_wrong(question, monkeypatch):
    (part,) = tiny_parts("llama")

    def off(function):
        def changed(*args, **kwargs):
            out = function(*args, **kwargs)
            return 1.1 * out if isinstance(out, torch.Tensor) else out

        return changed

    assert asked(question, part).kind == "works"
    monkeypatch.setattr(ml.Exact, "__call__", off(ml.Exact.__call__))
    monkeypatch.setattr(replaced, "apply", off(replaced.apply))
    monkeypatch.setattr(ClusteredLayer, "attend", off(ClusteredLayer.attend))
    assert asked(question, part).kind == "wrong"


def test_models_pass_nothing_to_their_attention_that_is_neither_known_nor_refused():
    known = {"module", "query", "key", "value", "attention_mask", "scaling", "dropout", "is_causal", "s_aux"}
    known |= {"sliding_window", "position_ids", "output_attentions", "deterministic"}
    known |= {"indices", "block_indices"}  # refused on every way in
    known |= {f"{what}_{side}" for what in ("cu_seq_lens", "max_length") for side in "qk"}
    found = {}
    for path in Path(transformers.__file__).parent.glob("models/*/modeling_*.py"):
        text = path.read_text(encoding="utf-8")
        for call in re.findall(r"= attention_interface\(\n(.*?)\n\s+\)\n", text, re.S):
            for name in re.findall(r"^\s+(\w+)=", call, re.M):
                found.setdefault(name, path.stem)
        for signature in re.findall(r"def eager_attention_forward\((.*?)\)(?: ->.*)?:\n", text, re.S):
            for name in re.findall(r"^\s+(\w+)\s*:", signature, re.M):
                found.setdefault(name, path.stem)
    assert {"softcap", "position_bias", "dropout", "query"} <= set(found)
    assert not {name: where for name, where in found.items() if name not in known | set(_UNKNOWN)}


def test_a_model_that_chooses_keys_for_each_query_is_refused_by_name():
    (part,) = tiny_parts("deepseek_v32")
    with ml.Exact().on(part.model), pytest.raises(ValueError, match="DeepseekV32Attention chooses keys"):
        part.read()


def test_a_picture_and_a_sound_give_captures(tmp_path):
    for family, tokens in (("vit", 17), ("whisper", 28)):
        part = tiny_parts(family)[0]
        inputs = {name: x[:1] for name, x in part.inputs.items()}
        sample = ml.capture(part.model, None, inputs, layers=[1], to=tmp_path / family, dtype=torch.float32)
        again = ml.load_sample(tmp_path / f"{family}.safetensors")
        assert sample.tokens == again.tokens == [str(i) for i in range(tokens)]
        assert not sample.provenance["causal"]
        assert list(sample.provenance["inputs"].values()) == [list(x.shape) for x in inputs.values()]
        assert torch.equal(sample[1].q, again[1].q)
    with pytest.raises(ValueError, match=r"text\['input_features'\] is of shape \(2, 16, 56\); one row"):
        ml.capture(part.model, None, part.inputs, layers=[1])


@pytest.mark.parametrize("family", ["diffllama", "gpt_oss"])
def test_a_cache_stays_exact_where_a_layers_values_or_logits_are_not_plain(family):
    """Heads whose values are mixed after the cache, and learned sinks: a step over clusters would leave them out."""
    (part,) = tiny_parts(family)
    assert asked(cached, part).kind == "exact"


def test_a_model_whose_text_layers_keep_their_attention_to_themselves_is_refused():
    (part,) = tiny_parts("git")
    with pytest.raises(
        ValueError, match="GitForCausalLM does not go through transformers' attention interface"
    ):
        ml.Exact().on(part.model).__enter__()

"""The command captures, and finds out whether a capture can be had again."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from multipole_lab import cli
from multipole_lab.models import Sample, loading


class Letters:
    """One token a letter."""

    def __call__(self, text, truncation=False, max_length=None):
        return {"input_ids": [ord(c) % 64 for c in text][: max_length if truncation else None]}

    def decode(self, ids, **_):
        return "".join(chr(64 + i) for i in ids)


@pytest.fixture(autouse=True)
def model(monkeypatch):
    """A tiny model under every name."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "vocab_size": 64}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)).eval()
    monkeypatch.setattr(loading, "load_model", lambda *_, **__: (model, Letters()))
    return model


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("eleven lamps seen from afar\n" * 3)
    return path


@pytest.fixture
def captured(text, tmp_path, capsys):
    """A file captured by the command."""
    out = tmp_path / "new folder" / "sample"
    arguments = ["capture", "tiny", str(text), "--layers", "2", "0", "--max-tokens", "50"]
    assert cli.main([*arguments, "--source", "wheel", "--out", str(out)]) == 0
    assert "50 tokens, layers [0, 2]" in capsys.readouterr().out
    return out


def test_capture(captured, text):
    sample = Sample.load(captured)
    assert len(sample) == 50
    assert sample.provenance["text_file"] == "text.txt"
    assert sample.provenance["command"] == (
        f"multipole-lab capture tiny {text} --layers 2 0 --max-tokens 50 --source wheel --out '{captured}'"
    )


def test_positions_and_precision_reach_the_model_and_the_record(text, tmp_path, monkeypatch, model):
    asked = {}
    monkeypatch.setattr(loading, "load_model", lambda *_, **given: (asked.update(given) or model, Letters()))
    longer = ["--positions", "99", "--dtype", "bfloat16", "--out", str(tmp_path / "sample")]
    assert cli.main(["capture", "tiny", str(text), "--layers", "0", *longer]) == 0
    assert (asked["positions"], asked["dtype"]) == (99, torch.bfloat16)
    assert "--positions 99 --dtype bfloat16" in Sample.load(tmp_path / "sample").provenance["command"]


def test_verify(captured, text, model, capsys):
    again = ["capture", "tiny", str(text), "--verify", str(captured)]
    assert cli.main(again) == 0
    assert "the same to fp16 rounding (largest difference: 0.00 steps" in capsys.readouterr().out
    with torch.no_grad():
        model.model.layers[2].self_attn.k_proj.weight.mul_(1.01)
    assert cli.main(again) == 1
    out = capsys.readouterr().out
    assert "NOT the same" in out
    assert "layer 0: largest differences q 0.00e+00 (0.00 steps)" in out


def test_verify_with_another_text(captured, text, capsys):
    text.write_text("another text")
    assert cli.main(["capture", "tiny", str(text), "--verify", str(captured)]) == 1
    assert "text.txt is not the text that" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"lamps", ["--layers", "7"], "layers contains 7"),
        (b"lamps", ["--max-tokens", "0"], "max_tokens is 0"),
        (b"", [], "text is empty"),
        (b"caf\xe9 au lait", [], "is not UTF-8 text: invalid continuation byte at byte 3"),
    ],
)
def test_errors_are_one_line(text, tmp_path, capsys, content, options, message):
    text.write_bytes(content)
    out = tmp_path / "out"
    assert cli.main(["capture", "tiny", str(text), "--layers", "0", *options, "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("multipole-lab capture: ")
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("out*"))


def test_a_missing_file(tmp_path, capsys):
    assert cli.main(["capture", "tiny", str(tmp_path / "none.txt"), "--out", str(tmp_path / "out")]) == 1
    assert "none.txt" in capsys.readouterr().err


def test_out_or_verify_is_needed(text):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["capture", "tiny", str(text)])


def test_the_shipped_sample_names_the_command_of_the_help(capsys):
    from multipole_lab.folders import data_folder

    with pytest.raises(SystemExit):
        cli.main(["capture", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    record = json.loads((data_folder() / "smollm2.json").read_text(encoding="utf-8"))
    assert record["provenance"]["command"] in shown

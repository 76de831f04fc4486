"""What was measured where: CPU times on a machine with a GPU are the processor's, and every record says so."""

import importlib
import inspect
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import fake_gpu
import pytest
import torch
from every_panel import titled

import multipole_lab as ml
from multipole_lab import cli, environment as measured, figures, panels
from multipole_lab.bench import command as bench_command
from multipole_lab.bench.kernels.work import measure_device
from multipole_lab.bench.recorded import record, records
from multipole_lab.environment import Measured, machine, typed_command, versions
from multipole_lab.measure import inputs, lengths
from multipole_lab.models.samples.sample import LayerSample, Sample
from multipole_lab.panels.common.timed import TimedPanel
from multipole_lab.search import candidates

FACTS = {"device", "dtype", "command", "date", "versions", "system"}
VERSIONS = {"python", "torch", "cuda", "triton", "transformers", "multipole_lab", "commit"}
ROOT = Path(ml.__file__).parents[1]

# The smallest problem of every benchmark there is. One without an entry here fails, and so does one that records
# nothing.
SMALLEST = {
    "attention": "--n 64 --heads 1 --dim 8 --sample random --clusters 4 --repeats 1",
    "decode": "--keys 700 --heads 2 1 --head-size 8 --steps 1 --joins 1",
    "generate": (
        "--prompt 40 --new 2 --turns 1 --layers 1 --hidden 16 --heads 2 1 --head-size 8 --vocabulary 32 "
        "--eager"
    ),
    "kernels": "--device cpu --n 32 --heads 1 1 --head-size 16 --clusters 2 --only sort --repeats 1 --dtype float32",
    "kmeans": "--n 64 --heads 1 --clusters 2 --iterations 1 --sample random --dim 4 --repeats 1",
    "memory": "--n 64 --heads 1 --dim 8 --clusters 4",
    "parallel": "--ranks 1 --n 64 --clusters 4 --sample random",
    "sparsity": "--n 64 --clusters 4 --near 0",
}


@pytest.fixture
def gpu(monkeypatch):
    fake_gpu.pretend(monkeypatch)


@pytest.fixture
def sample():
    generator = torch.Generator().manual_seed(0)
    heads = {"q": 4, "k": 2, "v": 2}
    tensors = {
        f"layer.1.{part}": torch.randn(1, count, 160, 8, generator=generator).half()
        for part, count in heads.items()
    }
    return Sample([1], torch.arange(160), ["x"] * 160, scale=0.35, rope={}, provenance={}, tensors=tensors)


def check(facts, device=None, dtype="float32"):
    """The facts are all there, and of the processor."""
    assert set(facts) >= FACTS
    assert set(facts["versions"]) == VERSIONS
    assert facts["device"] == (device or machine("cpu"))
    assert facts["dtype"] == dtype
    assert facts["command"].startswith(("multipole-lab", "ml.", "train_run"))
    assert fake_gpu.NAME not in json.dumps(facts)


# --- the names ------------------------------------------------------------------------------------


def test_a_name_is_of_the_device_that_is_asked_for(gpu):
    assert machine("cuda") == machine(torch.device("cuda", 1)) == fake_gpu.NAME
    assert fake_gpu.NAME not in machine("cpu")
    assert re.search(r", 1 thread$", machine("cpu", threads=1))
    assert re.search(r", 7 threads$", machine("cpu", threads=7))
    with pytest.raises(TypeError, match="device"):
        machine()


def test_words_name_device_and_precision_and_a_line_has_all(gpu):
    found = Measured.here("cuda", torch.bfloat16, "ml.tune")
    assert found.words == "NVIDIA Fake, bfloat16"
    for word in (found.words, f"torch {torch.__version__}", found.date, "ml.tune"):
        assert word in str(found)
    assert Measured(**json.loads(json.dumps(found.facts()))) == found
    assert set(versions()["versions"]) == VERSIONS


def test_one_place_asks_for_names_and_versions():
    # What says that a GPU is missing or too old is no measurement.
    messages = ("multipole_lab/diagnosis", "kernels/common/checks.py")
    asks = re.compile(r"get_device_name|platform\.processor|/proc/cpuinfo|torch\.version\.cuda|\"versions\":")
    places = {
        path.relative_to(ROOT).as_posix()
        for folder in ("multipole_lab", "kernels")
        for path in (ROOT / folder).rglob("*.py")
        if asks.search(path.read_text(encoding="utf-8"))
    }
    assert {path for path in places if not path.startswith(messages)} == {"multipole_lab/environment.py"}


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (
            ["/a b/bin/multipole-lab", "tune", "--method", "MuSe(near=2)"],
            "multipole-lab tune --method 'MuSe(near=2)'",
        ),
        (["/lib/multipole_lab/cli.py", "doctor"], "multipole-lab doctor"),
        (["/lib/ipykernel_launcher.py", "-f", "/home/me/kernel.json"], "ml.tune"),
        ([""], "ml.tune"),
    ],
)
def test_a_command_is_what_was_typed_and_nothing_of_a_notebooks(argv, command, monkeypatch):
    monkeypatch.setattr("sys.argv", argv)
    assert typed_command("ml.tune") == command


def test_a_folder_that_is_no_checkout_has_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(ml, "__file__", str(tmp_path / "multipole_lab" / "__init__.py"))
    assert measured._commit.__wrapped__() is None
    (tmp_path / ".git").mkdir()  # something that git does not read
    assert measured._commit.__wrapped__() is None


# --- what is recorded -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", bench_command.BENCHES)
def test_every_benchmark_records_where_it_measured(name, gpu, tmp_path, capsys):
    if name == "kernels" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("kernels run on a CPU only in Triton's interpreter")
    file = tmp_path / "record.json"
    assert cli.main(["bench", name, *SMALLEST[name].split(), "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    check(found, machine("cpu", threads=1) if name == "parallel" else None)
    assert found["rows"]
    assert found["device"] in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", ["tune", "sweep"])
def test_searches_on_a_cpu_name_the_processor(command, gpu, sample, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sample.save(tmp_path / "mine")
    options = ["--sample", "mine.safetensors", "--device", "cpu", "--repeats", "1", "--json", "found.json"]
    methods = [word for n in (4, 8, 16) for word in ("--method", f"MuSe(clusters={n})")]
    page = ["--html", "found.html"] if command == "sweep" else []
    assert cli.main([command, *options, *page, *methods]) in (0, 1)
    record = json.loads(Path("found.json").read_text())
    check(record["measured"])
    assert record.get("machine", machine("cpu")) == machine("cpu")
    assert f"{machine('cpu')}, float32" in " ".join(capsys.readouterr().out.split())
    for path in Path("found.html"), *Path("runs").iterdir():
        assert not path.exists() or fake_gpu.NAME not in path.read_text()
    (journal,) = Path("runs").iterdir()
    check(json.loads(journal.read_text().splitlines()[0]))


def test_a_search_goes_on_only_with_the_versions_it_was_begun_with(sample, tmp_path, monkeypatch):
    out = tmp_path / "rows.jsonl"
    ml.sweep(sample, {"clusters": [4]}, device="cpu", repeats=1, out=out)
    monkeypatch.setattr(measured, "_version", lambda package: "99.0")
    with pytest.raises(ValueError, match="other settings: versions"):
        ml.sweep(sample, {"clusters": [4]}, device="cpu", repeats=1, out=out)


def test_tables_say_where_they_were_measured(gpu, sample):
    for table in (
        ml.compare(sample, [ml.MuSe(clusters=4)], repeats=1, device="cpu"),
        ml.sweep(sample, {"clusters": [4, 8, 16]}, device="cpu", repeats=1),
    ):
        check(table.attrs["measured"])
        assert str(table).splitlines()[-1] == f"measured on {machine('cpu')}, float32"
        assert f"measured on {machine('cpu')}, float32" in table._repr_html_()
    assert str(ml.search.fit_cost_model(table)).endswith(f"on {machine('cpu')}, float32")
    assert "measured on" in str(ml.search.recommended(table, 9.0))


def test_a_comparison_of_trainings_names_every_machine_it_ran_on(gpu, tmp_path):
    from multipole_lab.training import Preset, comparison as comparing, comparison_result as compared
    from multipole_lab.training.run import Run

    preset = Preset(context=64)
    corpus = SimpleNamespace(record={"text_sha256": "0"})
    runs = {0: {side: Run(preset, corpus, None, 0, "cpu", tmp_path / side) for side in compared.SIDES}}
    found = comparing._write(tmp_path, preset, corpus, runs, "cpu", "sdpa", False)
    check(found)
    check(runs[0]["exact"].measured.facts())
    for side, name in zip(compared.SIDES, ("first", "second"), strict=True):
        (tmp_path / side).mkdir()
        row = {"step": 1, "loss": 3.0, "seconds": 1.0, "attention_seconds": 0.5, "device": name}
        (tmp_path / side / "log.jsonl").write_text(json.dumps(row) + "\n")
    assert (
        comparing._write(tmp_path, preset, corpus, runs, "cpu", "sdpa", False)["device"] == "first and second"
    )


def test_the_row_of_a_training_names_the_device_of_its_seconds(gpu):
    from multipole_lab.training.clocks import AttentionClock
    from multipole_lab.training.trainer import Recorder

    rows = []
    journal = SimpleNamespace(write=rows.append)
    recorder = Recorder(1, 1, 64, "cpu", AttentionClock("cpu"), journal)
    recorder.on_log(None, SimpleNamespace(global_step=1), None, logs={"loss": 1.0, "learning_rate": 0.1})
    assert rows[0]["device"] == machine("cpu")


def test_decoding_a_model_is_recorded_with_the_device_it_ran_on(gpu, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM, LlamaConfig

    from multipole_lab.evaluation import generate

    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, eos_token_id=None,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    asked = {}
    monkeypatch.setattr(
        "multipole_lab.models.loading.load_model", lambda *_, **given: (asked.update(given) or model, None)
    )
    monkeypatch.setattr(generate, "read_tokens", lambda *_: torch.arange(43)[None] % 50)
    file = tmp_path / "loss.json"
    short = ["--prompt", "40", "--tokens", "2", "--dtype", "bfloat16"]
    assert cli.main(["eval", "generate", *short, "--json", str(file)]) == 0
    assert asked["dtype"] == torch.bfloat16
    check(json.loads(file.read_text()))


def test_the_roof_of_this_machine_bears_the_name_of_what_was_measured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: fake_gpu.NAME)
    if not torch.cuda.is_available():
        assert measure_device().name == machine("cpu")


@pytest.mark.parametrize("name", sorted(path.stem for path in records()))
def test_what_was_recorded_before_can_still_be_read(name):
    found = record(name)
    assert found["device"]
    assert found["versions"]["torch"]
    if "summary" in found:  # what `train compare` wrote
        from multipole_lab.training.comparison_result import figure, table

        words = f"{found['device']}, {({'no': 'float32', 'bf16': 'bfloat16 autocast'})[found['preset']['precision']]}"
        assert words in table(found)
        assert words in figure(found).layout.title.text.replace("<br>", " ")


# --- what is drawn --------------------------------------------------------------------------------


def test_every_figure_of_times_takes_the_name_of_the_machine():
    times = re.compile(r"(^|_)(ms|seconds|speedup|losses)$")
    from multipole_lab.figures import training

    for draw in [*(getattr(figures, name) for name in figures.__all__), training.training]:
        parameters = inspect.signature(draw).parameters
        if any(times.search(name) for name in parameters):
            assert {"machine", "device"} & set(parameters), draw.__name__


def timed_panels():
    """The panels whose figure takes the name of the machine."""
    for name in panels.__all__:
        draw = getattr(
            importlib.import_module(f"multipole_lab.panels.{name}"), "draw", None
        )  # a desk draws others
        if draw is not None and "machine" in inspect.signature(draw).parameters:
            yield name


def quick(monkeypatch, asked):
    """No clock: what the panels measure by notes the device and answers at once."""

    def pace(*_, device, **__):
        asked.append(device)
        yield lengths.Pace(160, 2.0, 1.0, 0.1, "flash")

    def costs(layer, length, chosen, *_, device, **__):
        asked.append(device)
        return (candidates.Cost(i, 1.0, 2.0, 0.1) for i in range(len(chosen)))

    for panel, name, stub in (("speed", "time_lengths", pace), ("front", "measure", costs)):
        monkeypatch.setattr(importlib.import_module(f"multipole_lab.panels.{panel}"), name, stub)


@pytest.mark.parametrize("name", list(timed_panels()))
@pytest.mark.parametrize(("device", "words"), [("cuda", "NVIDIA Fake, bfloat16"), ("cpu", "float32")])
def test_every_panel_of_times_names_what_it_timed(name, device, words, gpu, sample, monkeypatch):
    asked = []
    quick(monkeypatch, asked)
    monkeypatch.setattr("multipole_lab.panels.common.timed.chosen_device", lambda _: device)
    panel = getattr(panels, name)(sample)
    assert isinstance(panel, TimedPanel)
    threads = 1 if name in ("cost", "writing") else None
    on_cpu = device == "cpu" or name == "writing"  # a text is replayed on the processor
    expected = f"{machine('cpu', threads)}, float32" if on_cpu else words
    assert expected in titled(panel)
    assert set(panel.table()["measured_on"]) <= {expected}
    assert set(asked) <= {device}
    exported = json.loads(panel.export("json")[2])
    assert set(exported["measured"]) == FACTS
    assert exported["measured"]["dtype"] == expected.rpartition(", ")[2]
    if device == "cpu":
        assert fake_gpu.NAME not in titled(panel) + json.dumps(exported)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_speed_and_front_time_the_precision_of_the_device_and_err_against_float32(dtype, monkeypatch):
    layer = LayerSample(*torch.randn(3, 1, 1, 32, 8, generator=torch.Generator().manual_seed(0)))
    monkeypatch.setattr(inputs, "default_dtype", lambda device: dtype)
    seen = []

    def method(q, k, v, **kwargs):
        seen.append(q.dtype)
        return ml.Exact()(q, k, v, **kwargs)

    (pace,) = filter(None, lengths.time_lengths(layer, [32], method, seconds=0.0, device="cpu"))
    one = candidates.Candidate("exact", "", method)
    (cost,) = filter(None, candidates.measure(layer, 32, [one], turns=1, device="cpu"))
    assert set(seen) == {dtype}
    for rse in (pace.rse, cost.rse):
        assert (rse < 1e-9) == (dtype == torch.float32)  # half precision is no error of zero
    assert pace.baseline == "sdpa"

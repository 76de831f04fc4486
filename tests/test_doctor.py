"""The doctor: true findings on this machine, a command for each lack, an exit status to rely on."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from multipole_lab import cli, diagnosis, doctor
from multipole_lab.diagnosis import Finding


@pytest.fixture(scope="module")
def findings() -> dict[str, Finding]:
    return {finding.name: finding for finding in diagnosis.examine()}


def test_this_machine_can_run_the_lab(findings):
    assert not [finding for finding in findings.values() if finding.level == "problem"]


def test_versions_of_what_matters(findings):
    for name in (
        "torch",
        "transformers",
        "jupyterlab",
        "ipywidgets",
        "anywidget",
        "plotly",
        "jupyterlab-widgets",
    ):
        assert findings[name].found[0].isdigit(), name
    assert findings["Python"].found.startswith("3.")


def test_attention_backends_were_run(findings):
    assert "math" in findings["exact attention"].found


def test_a_triton_kernel_was_run(findings):
    if "triton" in findings:
        assert findings["Triton kernels"].level == "ok", findings["Triton kernels"].found


def test_every_lack_has_a_command(findings):
    assert all(finding.mend for finding in findings.values() if finding.level in ("warning", "problem"))


def test_json(capsys, monkeypatch):
    monkeypatch.setattr(diagnosis, "examine", lambda: [Finding("disk", "7 GiB free")])
    assert cli.main(["doctor", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["can_run"] is True
    assert said["findings"] == [{"name": "disk", "found": "7 GiB free", "level": "ok", "mend": ""}]


@pytest.mark.parametrize(("level", "status"), [("ok", 0), ("note", 0), ("warning", 0), ("problem", 1)])
def test_exit_status_is_1_only_where_the_lab_cannot_run(level, status, capsys, monkeypatch):
    monkeypatch.setattr(diagnosis, "examine", lambda: [Finding("torch", "gone", level, "pip install torch")])
    assert cli.main(["doctor"]) == status
    out = capsys.readouterr().out
    assert "-> pip install torch" in out
    assert ("cannot run yet: torch" in out) == (status == 1)


def test_a_missing_package_is_a_problem_and_an_optional_one_a_note(monkeypatch):
    def version(name):
        raise diagnosis.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(diagnosis.metadata, "version", version)
    found = {finding.name: finding for finding in diagnosis.packages()}
    assert {found[name].level for name in ("torch", "jupyterlab", "anywidget")} == {"problem"}
    assert {found[name].level for name in ("gguf", "pytest")} == {"note"}
    assert all(finding.mend for finding in found.values())


def test_a_package_out_of_range_is_a_warning(monkeypatch):
    monkeypatch.setattr(diagnosis.metadata, "version", lambda name: "0.0.1")
    found = {finding.name: finding for finding in diagnosis.packages()}
    assert found["torch"].level == "warning"
    assert "wanted >=2.9" in found["torch"].found


@pytest.mark.parametrize(
    ("version", "level"), [((3, 10), "problem"), ((3, 11), "ok"), ((3, 13), "ok"), ((3, 14), "warning")]
)
def test_python_versions(version, level, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (*version, 0, "final", 0))
    assert next(diagnosis.python()).level == level


def test_torch_that_does_not_import_is_a_problem(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (finding,) = diagnosis.device()
    assert (finding.name, finding.level) == ("torch", "problem")
    assert finding.mend


@pytest.mark.parametrize(("capability", "level"), [((7, 0), "note"), ((7, 5), "ok"), ((9, 0), "ok")])
def test_gpu_is_named_with_its_capability(capability, level, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    memory = SimpleNamespace(total_memory=16 * diagnosis.GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: memory)
    gpu = {finding.name: finding for finding in diagnosis.device()}["GPU"]
    assert gpu.found.startswith(f"a GPU, compute capability {capability[0]}.{capability[1]}, 16 GiB")
    assert gpu.level == level


@pytest.mark.parametrize("cuda", [None, "13.0"])
def test_gpu_that_torch_cannot_use_is_a_warning(cuda, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(diagnosis.shutil, "which", lambda name: f"/usr/bin/{name}")
    gpu = {finding.name: finding for finding in diagnosis.device()}["GPU"]
    assert gpu.level == "warning"
    assert ("--index-url" in gpu.mend) == (cuda is None)


def test_a_check_that_breaks_is_a_finding():
    def broken_driver():
        raise RuntimeError("driver says no\nand more")

    (finding,) = diagnosis._guarded(broken_driver)
    assert finding == Finding("broken driver", "RuntimeError: driver says no", "warning", finding.mend)


def test_missing_browser_and_compiler_are_no_reason_to_stop(monkeypatch):
    monkeypatch.setattr(diagnosis.shutil, "which", lambda name: None)
    found = [*diagnosis.browser(), *diagnosis.compiler()]
    assert {finding.level for finding in found} == {"note"}
    assert all("apt-get install" in finding.mend for finding in found)


def test_report_aligns_and_marks():
    text = doctor.report([Finding("a", "fine"), Finding("longer", "bad", "problem", "mend it")])
    assert text.splitlines() == [
        "  ok  a       fine",
        "FAIL  longer  bad",
        "              -> mend it",
        "",
        "The lab cannot run yet: longer.",
    ]

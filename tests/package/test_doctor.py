"""The doctor: true findings on this machine, a command for what is missing, an exit status to rely on, an end."""

import json
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from multipole_lab import cli, diagnosis, doctor, extras
from multipole_lab.diagnosis import Finding, computing, features, finding, machine, packages, probe
from multipole_lab.figures.common.browser import find_browser

NEEDS = list(extras.needs())


@pytest.fixture(scope="module")
def findings() -> list[Finding]:
    return diagnosis.examine()


def named(findings, name) -> Finding:
    return next(one for one in findings if one.name == name)


def without(monkeypatch, *names):
    """From now on these distributions are not installed."""
    version, is_there = packages.metadata.version, extras.is_there

    def version_of(name):
        if name in names:
            raise packages.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(packages.metadata, "version", version_of)
    gone = {need.module for need in NEEDS if need.name in names}
    for module in (computing, features):
        monkeypatch.setattr(module, "is_there", lambda name: name not in gone and is_there(name))


# --- this machine ---------------------------------------------------------------------------------


def test_this_machine_can_run_the_lab(findings):
    assert [one for one in findings if one.level == "problem"] == []


def test_versions_of_all_packages(findings):
    found = {one.name: one for one in findings if one.part == "package"}
    assert set(found) == {need.name for need in NEEDS}
    assert all(one.found[0].isdigit() for one in found.values() if one.level == "ok")
    assert named(findings, "Python").found.startswith("3.")


def test_modules_are_named_as_they_are_imported():
    installed = [need for need in NEEDS if packages.version(need)]
    assert [need.name for need in installed if not extras.is_there(need.module)] == []


def test_attention_backends_and_a_triton_kernel_were_run(findings):
    assert "math" in named(findings, "exact attention").found
    if extras.is_there("triton"):
        assert named(findings, "Triton kernels").level == "ok", named(findings, "Triton kernels").found


def test_every_check_has_a_line(findings):
    assert len({one.name for one in findings if one.part != "package"}) >= len(diagnosis.CHECKS) - 1


def test_every_warning_has_a_command(findings):
    assert all(one.fix for one in findings if one.level in ("warning", "problem"))


# --- what is missing ------------------------------------------------------------------------------


@pytest.fixture
def look(monkeypatch):
    """All checks of features, with programs that all end well; the fixture is called for the findings."""
    monkeypatch.setattr(probe, "trial", lambda *args, **kwargs: "")
    homes = (computing.__name__, features.__name__)
    checks = [check for check in diagnosis.CHECKS if check.__module__ in homes]
    return lambda: [one for check in checks for one in diagnosis.bounded(check, 60)]


@pytest.mark.parametrize("name", sorted({need.name for need in NEEDS}))
def test_each_package_that_is_missing_is_missed_by_a_feature(name, look, monkeypatch):
    without(monkeypatch, name)
    missed = [one for one in look() if one.level != "ok" and name in one.found.replace(",", "").split()]
    assert missed
    assert all("install" in one.fix or one.fix.endswith("make docs") for one in missed)
    assert all(one.part == "feature" for one in missed)
    if not any(need.extra for need in NEEDS if need.name == name):
        assert missed[0].level == "problem"


def test_extras_that_nobody_wanted_are_notes(look, monkeypatch):
    own = {need.name for need in NEEDS if not need.extra}
    without(monkeypatch, *({need.name for need in NEEDS} - own))
    found = [one for one in look() if "not installed" in one.found]
    assert len(found) >= 7
    assert {one.level for one in found} == {"note"}
    assert all(one.fix for one in found)


def test_half_of_the_notebooks_is_a_problem(monkeypatch):
    without(monkeypatch, "anywidget")
    assert [one.level for one in features.panels()] == ["problem"]


def test_notebooks_of_a_user_without_a_home_want_one_named(monkeypatch):
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as where the system knows no such user
    (found,) = features.panels()
    assert (found.level, found.fix) == ("problem", "export HOME=/path")
    assert next(one.fix for one in machine.folders()) == "export HOME=/path"


def test_a_package_out_of_range_is_a_warning(look, monkeypatch):
    monkeypatch.setattr(packages.metadata, "version", lambda name: "0.0.1")
    found = {one.found: one for one in look()}
    assert found["torch is 0.0.1, wanted >=2.9"].level == "warning"
    assert found["anywidget is 0.0.1, wanted >=0.9.13"].fix


@pytest.mark.skipif(find_browser() is None, reason="no Chromium or Chrome")
def test_pictures_need_a_browser_that_starts(monkeypatch):
    (here,) = features.pictures()
    for path, words in ((None, "no Chromium"), ("/bin/false", "does not start")):
        monkeypatch.setattr("multipole_lab.figures.common.browser.find_browser", lambda path=path: path)
        (found,) = features.pictures()
        assert (found.name, found.level) == ("pictures of panels", "note")
        assert words in found.found
        assert "chromium" in found.fix or "chrome" in found.fix
        assert found != here


@pytest.mark.parametrize(
    ("version", "level"),
    [((3, 10), "problem"), ((3, 11), "ok"), ((3, 13), "ok"), ((3, 14), "ok"), ((3, 15), "warning")],
)
def test_python_versions(version, level, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (*version, 0, "final", 0))
    assert next(machine.python()).level == level


def test_torch_that_does_not_import_is_a_problem(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (found,) = computing.library()
    assert (found.name, found.level) == ("library", "problem")
    assert found.fix
    assert next(machine.gpu()).level == "note"


@pytest.mark.parametrize(("capability", "level"), [((7, 0), "note"), ((7, 5), "ok"), ((9, 0), "ok")])
def test_gpu_is_named_with_its_capability(capability, level, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    memory = SimpleNamespace(total_memory=16 * machine.GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: memory)
    (gpu,) = machine.gpu()
    assert gpu.found.startswith(f"a GPU, compute capability {capability[0]}.{capability[1]}, 16 GiB")
    assert gpu.level == level


@pytest.mark.parametrize("cuda", [None, "13.0"])
def test_gpu_that_torch_cannot_use_is_a_warning(cuda, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(machine.shutil, "which", lambda name: f"/usr/bin/{name}")
    (gpu,) = machine.gpu()
    assert gpu.level == "warning"
    assert ("--index-url" in gpu.fix) == (cuda is None)


def test_no_compiler_is_no_reason_to_stop(monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    found = [*machine.compiler(), *computing.compiling()]
    assert {one.level for one in found} == {"note"}
    assert all("install" in one.fix for one in found)
    assert "not needed without a GPU" in found[0].found


@pytest.mark.parametrize("manager", ["apt-get", "dnf", "pacman", "zypper", "brew", "none"])
def test_commands_are_those_of_the_system(manager, monkeypatch):
    monkeypatch.setattr(finding.shutil, "which", lambda name: name if name == manager else None)
    command = finding.system_package(apt_get="a", dnf="d", pacman="p", zypper="z", brew="b")
    assert command.removeprefix("sudo ").startswith("apt-get" if manager == "none" else manager)


# --- errors, silence, and the report --------------------------------------------------------------


def test_a_check_that_breaks_is_a_finding():
    def broken_driver():
        raise RuntimeError("driver says no\nand more")

    (found,) = diagnosis.bounded(broken_driver, 10)
    assert found == Finding("broken driver", "RuntimeError: driver says no", "warning", found.fix)


def test_a_check_that_never_ends_is_a_finding(monkeypatch):
    def deaf_driver():
        yield Finding("driver", "begins")
        time.sleep(60)

    monkeypatch.setattr(diagnosis, "CHECKS", (deaf_driver, deaf_driver))
    start = time.monotonic()
    found = diagnosis.examine(seconds=0.2)
    assert time.monotonic() - start < 10
    assert [one.name for one in found] == ["driver", "deaf driver"] * 2
    assert "no answer" in found[1].found


def test_json(capsys, monkeypatch):
    monkeypatch.setattr(diagnosis, "examine", lambda: [Finding("disk", "7 GiB free")])
    assert cli.main(["doctor", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["can_run"] is True
    assert said["findings"] == [
        {"name": "disk", "found": "7 GiB free", "level": "ok", "fix": "", "mend": "", "part": "machine"}
    ]


@pytest.mark.parametrize(("level", "status"), [("ok", 0), ("note", 0), ("warning", 0), ("problem", 1)])
def test_exit_status_is_1_only_where_the_lab_cannot_run(level, status, capsys, monkeypatch):
    monkeypatch.setattr(
        diagnosis, "examine", lambda: [Finding("library", "gone", level, "pip install torch")]
    )
    assert cli.main(["doctor"]) == status
    out = capsys.readouterr().out
    assert "-> pip install torch" in out
    assert ("Cannot run yet: library" in out) == (status == 1)


def test_report_aligns_and_marks():
    text = doctor.report(
        [
            Finding("a", "fine"),
            Finding("longer", "bad " * 30, "problem", "fix it", "feature"),
            Finding("torch", "2.9", part="package"),
        ]
    )
    assert text.splitlines() == [
        "This machine",
        "  ok  a  fine",
        "",
        "What works on it",
        "FAIL  longer  " + ("bad " * 16).strip(),
        "              " + ("bad " * 14).strip(),
        "              -> fix it",
        "",
        "Packages",
        "      torch 2.9",
        "",
        "Cannot run yet: longer.",
    ]


def test_report_fits_80_columns(findings):
    lines = doctor.report(findings).replace(sys.prefix, "FOLDER").splitlines()  # a path is as long as it is
    assert [line for line in lines if len(line) > 80 and "->" not in line and len(line.split()) > 3] == []

"""Names of 0.1.0 keep working for one version, each with one warning that names the new one."""

import argparse
import importlib
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import multipole_lab as ml
from multipole_lab import renamed
from multipole_lab.bench import attention as bench
from multipole_lab.method_text import check_method, parse_method
from multipole_lab.training.run import SETTINGS, check_resumable

ROOT = Path(__file__).resolve().parents[2]
NEW = renamed.modules()


@pytest.fixture
def forget():
    """Imports an old name as for the first time."""
    before = {name: sys.modules.pop(name) for name in NEW if name in sys.modules}
    yield
    for name in NEW:
        sys.modules.pop(name, None)
    sys.modules.update(before)


@pytest.mark.parametrize("old", sorted(NEW))
def test_an_old_module_is_the_new_one_and_says_so_once(old, forget):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        new = importlib.import_module(NEW[old])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert importlib.import_module(old) is new
        importlib.import_module(old)
    said = [str(one.message) for one in caught if issubclass(one.category, FutureWarning)]
    assert len(said) == 1
    assert f"{old} is now {NEW[old]}" in said[0]
    assert new.__spec__.name == NEW[old], "it is still itself"


def test_no_old_name_is_a_module_of_today():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        finders = [one for one in sys.meta_path if not isinstance(one, renamed.RenamedModules)]
        for old in NEW:
            parent = importlib.import_module(old.rpartition(".")[0])
            found = [
                finder.find_spec(old, parent.__path__) for finder in finders if hasattr(finder, "find_spec")
            ]
            # A finder may ask the others: what it finds is then theirs.
            found = [spec for spec in found if spec and not isinstance(spec.loader, renamed.RenamedModules)]
            assert not found, f"{old} would never be looked for under its new name"


def test_no_old_module_hides_what_is_called_like_it():
    """Python writes an imported module into its package, over a function of that name."""
    for old in NEW:
        package, _, name = old.rpartition(".")
        assert name not in getattr(importlib.import_module(package), "__all__", ()), old


def test_no_new_name_is_an_old_one():
    assert not set(NEW) & set(NEW.values()), "a name that leads to a name that leads on"


@pytest.mark.parametrize("name", [*ml.measure.__all__, *ml.search.__all__])
def test_what_stood_in_analysis_is_where_it_went(name):
    with pytest.warns(
        FutureWarning, match=rf"multipole_lab\.analysis\.{name} is now multipole_lab\.\w+\.{name};"
    ) as caught:
        found = getattr(importlib.import_module("multipole_lab.analysis"), name)
    assert len(caught) == 1
    assert found in [getattr(package, name, None) for package in (ml.measure, ml.search)]


@pytest.mark.parametrize(("module", "old"), [(m, old) for m, names in renamed.NAMES.items() for old in names])
def test_an_old_name_in_a_module_is_the_new_one_and_says_so_once(module, old):
    home, new = importlib.import_module(module), renamed.NAMES[module][old]
    with pytest.warns(FutureWarning, match=re.escape(f"{module}.{old} is now {module}.{new};")) as caught:
        found = home.__getattr__(old)  # past a module of that name, which the tests above imported
    assert found is getattr(home, new)
    assert len(caught) == 1
    assert old not in getattr(home, "__all__", ()), "nobody is told of it"


@pytest.mark.parametrize("method", [ml.MuSe, ml.Centroid])
def test_an_old_value_is_the_new_one_and_says_so_once_where_it_was_written(method):
    with pytest.warns(FutureWarning, match="partition='spatial' is now partition='runs'") as caught:
        found = method(partition="spatial")
    assert found == method(partition="runs")
    assert [Path(one.filename) for one in caught] == [Path(__file__)]


def test_files_that_hold_an_old_value_are_read_in_silence():
    text = "MuSe(clusters=4, partition='spatial')"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parse_method(text) == ml.MuSe(clusters=4, partition="runs")
        assert check_method(text) == "MuSe(clusters=4, partition='runs')"


def test_a_training_that_was_begun_under_an_old_value_goes_on(tmp_path):
    (tmp_path / SETTINGS).write_text(
        json.dumps({"method": "MuSe(clusters=4, partition='spatial')", "seed": 0})
    )
    check_resumable(tmp_path, {"method": "MuSe(clusters=4, partition='runs')", "seed": 0})
    with pytest.raises(ValueError, match="method"):
        check_resumable(tmp_path, {"method": "MuSe(clusters=8, partition='runs')", "seed": 0})


def test_an_option_takes_the_old_value_and_writes_the_new_one():
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    with pytest.warns(FutureWarning, match="is now partition='runs'"):
        assert parser.parse_args(["--partition", "spatial"]).partition == "runs"


def run(program: str) -> subprocess.CompletedProcess:
    """A program in a process of its own, in which warnings are errors except those of a renamed module."""
    return subprocess.run(
        [sys.executable, "-P", "-W", "always", "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "program",
    [
        "import multipole_lab as ml; ml.analysis.relative_squared_error",
        "from multipole_lab.analysis import relative_squared_error",
        "import multipole_lab.analysis.timing",
        "from multipole_lab.analysis.timing import interleaved",
        "from multipole_lab.analysis import timing",
        "from multipole_lab.course.grading import grade_submission",
        "from multipole_lab.course.sandbox import Limits",
        "from multipole_lab.training import texts; texts.documents",
        "import multipole_lab as ml; ml.spatial",
        "from multipole_lab import spatial",
        "from multipole_lab.clustering import spatial",
        "import multipole_lab as ml; ml.MuSe(partition='spatial')",
    ],
)
def test_old_spellings_of_an_import_work_and_warn_once_where_they_stand(program):
    done = run(program)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("FutureWarning") == 1, done.stderr
    assert "<string>:1: FutureWarning" in done.stderr, "the line is the user's"


def test_a_name_that_never_was_is_refused_as_before():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("multipole_lab.analysis.nothing")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = importlib.import_module("multipole_lab.analysis").nothing


def test_no_text_of_the_repository_uses_an_old_name():
    old = re.compile("|".join(rf"{re.escape(name)}(?!\w)" for name in NEW))
    texts = [
        p
        for folder in ("multipole_lab", "kernels", "tests", "notebooks", "docs")
        for p in (ROOT / folder).rglob("*")
    ]
    texts = [
        p
        for p in texts
        if p.suffix in {".py", ".md", ".ipynb"} and p not in (Path(__file__), Path(renamed.__file__))
    ]
    assert len(texts) > 300
    found = {str(p.relative_to(ROOT)): old.findall(p.read_text(encoding="utf-8")) for p in texts}
    assert {name: names for name, names in found.items() if names} == {}

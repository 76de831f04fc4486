"""Every package that `multipole_lab` names can be reached from it, and it names every package there is."""

import pkgutil
import subprocess
import sys

import pytest

import multipole_lab as ml

# Packages that a user has no business in: reached by command, or by the library itself.
INSIDE = {"analysis", "bench", "data", "diagnosis", "interface", "jupyter", "kernels"}


def test_subpackages_are_there_without_an_import_of_their_own():
    code = f"import multipole_lab as ml; print([getattr(ml, name).__name__ for name in {ml._SUBPACKAGES!r}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == repr([f"multipole_lab.{name}" for name in ml._SUBPACKAGES]), done.stderr


def test_every_public_package_is_named():
    there = {info.name for info in pkgutil.iter_modules(ml.__path__) if info.ispkg}
    assert there - INSIDE == set(ml._SUBPACKAGES)


@pytest.mark.parametrize("name", ml._SUBPACKAGES)
def test_every_name_that_a_subpackage_exports_resolves(name):
    package = getattr(ml, name)
    for exported in getattr(package, "__all__", ()):
        assert getattr(package, exported) is not None

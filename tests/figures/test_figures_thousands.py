"""Numbers of 1,000 and more have a comma on every axis and in every hover box, as in every sentence."""

import re
from pathlib import Path

import pytest

from multipole_lab import figures
from multipole_lab.figures.common import theme

MODULES = sorted(Path(figures.__file__).parent.rglob("*.py"))
FORMAT = re.compile(r"%\{+\w+(?:\[\d\])?:([^}]*)\}|\"tickformat\": \"([^\"]*)\"|\btickformat=\"([^\"]*)\"")
# Shares; errors, which are below 1; bytes with their prefix.
SMALL = re.compile(r"[^,]*[%p]|\.2g|~s")


def test_an_axis_without_a_format_of_its_own_separates_thousands():
    axes = theme.TEMPLATE.layout
    for axis in (axes.xaxis, axes.yaxis, axes.scene.xaxis, axes.scene.yaxis, axes.scene.zaxis):
        assert (axis.separatethousands, axis.exponentformat) == (True, "none")


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_every_format_separates_thousands_or_is_of_small_numbers(module):
    formats = ["".join(found) for found in FORMAT.findall(module.read_text(encoding="utf-8"))]
    assert [one for one in formats if "," not in one and not SMALL.fullmatch(one)] == []

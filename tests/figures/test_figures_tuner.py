"""The tuner's picture: what is allowed, what is recommended, and what the title claims."""

import numpy as np
import pytest

from multipole_lab import figures

RSE, SPEEDUP = np.array([0.1, 0.01, 0.001]), np.array([4.0, 2.0, 0.5])


def draw(max_error=0.02, chosen=1, **more):
    return figures.tuner(
        RSE, SPEEDUP, ["A()", "B()", "C()"], max_error, chosen, machine="a test machine", **more
    )


def words(fig):
    return fig.layout.title.text.replace("<br>", " ")


def test_methods_are_parted_by_the_error_that_is_allowed():
    good, bad, ring = draw().data
    assert list(good.text) == ["B()", "C()"]
    assert list(bad.text) == ["A()"]
    assert bad.marker.symbol != good.marker.symbol
    assert (list(ring.x), list(ring.y)) == ([0.01], [2.0])
    shaded, edge, exact = draw().layout.shapes
    assert shaded.x0 == edge.x0 == 0.02
    assert exact.y0 == 1


@pytest.mark.parametrize(
    ("chosen", "claim"),
    [(1, "2.0 times faster than exact, with error 0.010: B()"), (2, "2.0 times slower than exact")],
)
def test_the_title_states_speed_and_error_and_names_the_machine(chosen, claim):
    assert claim in words(draw(chosen=chosen))
    assert "a test machine" in words(draw())


def test_the_title_says_where_nothing_is_found_or_tried():
    assert "None of 3 has an error below 0.00001; the least is 0.0010" in words(draw(1e-5, None))
    nothing = np.empty(0)
    assert "Nothing has been tried" in words(figures.tuner(nothing, nothing, [], 0.1, None, machine="m"))
    assert "Searching" in words(figures.tuner(nothing, nothing, [], 0.1, None, machine="m", note="Searching"))

"""Lines of a kernel that a notebook shows."""

import pytest
from triton import jit

from multipole_lab.lessons.source import source


@jit
def kernel(x):
    i_j = x
    for i in range(3):
        b_s = i_j + i  # [BC, BM]

        b_t = b_s
    return b_t


def test_lines_go_up_to_the_next_piece_and_lose_their_indentation():
    assert repr(source(kernel, "b_s = ", "b_t = ")) == "b_s = i_j + i  # [BC, BM]"
    assert repr(source(kernel, "b_t = ")).splitlines()[0].strip() == "b_t = b_s"
    assert repr(source(kernel, "i_j = ", "b_s")).splitlines() == ["i_j = x", "for i in range(3):"]


def test_the_page_breaks_no_line():
    shown = source(kernel, "i_j")._repr_html_()
    assert "white-space: pre;" in shown
    assert 'class="highlight"' in shown


def test_what_is_in_no_line_is_named():
    with pytest.raises(ValueError, match="first is 'b_q'; no line of kernel has that in it"):
        source(kernel, "b_q")

"""A tiny model on the disk, a text for it, and one thread, which is faster for both."""

import pytest
from small.evaluation import make_folder

from multipole_lab.threads import one_thread


@pytest.fixture
def single():
    """One thread."""
    with one_thread():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The model's folder."""
    return make_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def text(tmp_path):
    """A text of 2,970 letters."""
    path = tmp_path / "text.txt"
    path.write_text(
        "".join(f"Lamp {i} was lit. It burned {i * 7 % 31} hours, as lamps do.\n" for i in range(60))
    )
    return str(path)

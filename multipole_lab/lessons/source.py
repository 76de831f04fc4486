"""A few lines of a kernel, shown as cells show theirs: in colours, and no line is broken in a narrow window."""

from __future__ import annotations

import inspect
import textwrap
from dataclasses import dataclass

# JupyterLab breaks long lines of what is shown and not typed; code is easier to read when it is moved sideways.
STYLE = """<style>
.ml-source .highlight pre { white-space: pre; overflow-x: auto; font-size: var(--jp-code-font-size); }
</style>"""


@dataclass(frozen=True)
class Source:
    """Lines of Python."""

    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        from IPython.display import Code

        code = Code(self.text, language="python")._repr_html_()
        return f'{STYLE}<div class="ml-source">{code}</div>'


def source(kernel, first: str, before: str | None = None) -> Source:
    """Cut the lines of a Triton kernel from one that has ``first`` in it up to one that has ``before``.

    Parameters
    ----------
    kernel : what ``triton.jit`` made.
    first, before : parts of lines; without ``before`` the lines go on to the end.
    """
    lines = inspect.getsource(kernel.fn).splitlines()
    start = next((i for i, line in enumerate(lines) if first in line), None)
    if start is None:
        raise ValueError(f"first is {first!r}; no line of {kernel.fn.__name__} has that in it")
    ends = (i for i, line in enumerate(lines) if before and before in line and i > start)
    return Source(textwrap.dedent("\n".join(lines[start : next(ends, len(lines))])).rstrip())

"""What a cell of a notebook may hold beside plain Python: commands of IPython, and ``await`` outside of functions."""

from __future__ import annotations

import ast
import asyncio
import inspect
from typing import Any


class Shell:
    """Stands for IPython where cells call it: shell commands give no lines, magics do nothing."""

    def getoutput(self, *_: Any, **__: Any) -> list[str]:
        """``x = !ls``: there is no shell here."""
        return []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *_, **__: None


def execute(source: str, filename: str, namespace: dict) -> None:
    """Run the text of a cell as a notebook does: ``await`` may stand at the top."""
    code = compile(source, filename, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, namespace))
    else:
        exec(code, namespace)

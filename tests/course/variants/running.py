"""Making variants of the masters' solutions and giving them to `check`."""

import importlib
import linecache
from functools import cache

from multipole_lab.course.grading import notebook

COUNT = iter(range(10**9))


@cache
def master(assignment):
    return notebook.load_master(assignment)


def run(source, namespace):
    """Execute a cell whose text can be looked up again, as in a notebook."""
    filename = f"<variant {next(COUNT)}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    exec(compile(source, filename, "exec"), namespace)


@cache
def solutions(assignment):
    """{question: the text of its solution}, and the cells that come before."""
    cells, _ = notebook.read(master(assignment).text)
    questions = {item.cell: item.name for item in master(assignment).items if not item.manual}
    texts = {questions[cell.name]: _plain(cell.source) for cell in cells if cell.name in questions}
    return texts, [cell.source for cell in cells if cell.extra.get("role") == "setup"]


def _plain(source):
    return "".join(f"{line}\n" for line, _ in notebook.parts(source))


@cache
def namespace(assignment):
    """All right solutions of an assignment, executed."""
    texts, setup = solutions(assignment)
    space = {"__name__": f"variants_of_{assignment}"}
    for source in (*setup, *texts.values()):
        run(source, space)
    return space


def function(question, *edits):
    """The function of a question, with its solution changed."""
    assignment = question.split(".")[0]
    source = edits[0] if edits[0].startswith(("def ", "@triton")) else solutions(assignment)[0][question]
    for edit in edits[edits[0].startswith(("def ", "@triton")) :]:
        old, new = edit.split(" => ") if " => " in edit else edit.split(" =>\n")
        assert old in source, f"{question}: {old!r} is not in the solution any more"
        source = source.replace(old, new)
    space = dict(namespace(assignment))
    for text in solutions(assignment)[1][1:]:  # launchers look their kernel up in this copy
        run(text, space)
    run(source, space)
    item = next(item for item in master(assignment).items if item.name == question)
    return space[item.functions[0]]


def variants(kind):
    """(question, name, entry) of every assignment; ``kind`` is "WRONG" or "RIGHT"."""
    for number in range(1, 6):
        table = getattr(importlib.import_module(f"variants.a{number}"), kind)
        for question, entries in table.items():
            for name, entry in entries.items():
                yield question, name, entry

"""`multipole-lab course`: release assignments, grade submissions, write reports."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from multipole_lab.course.export import command as export


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add ``course`` and its steps to the command line."""
    parser = subparsers.add_parser("course", help="assignments", description=__doc__.split("\n")[0])
    steps = parser.add_subparsers(dest="step", metavar="STEP", required=True, title="steps")
    for step, summary in {
        "release": "write the students' notebooks: no solutions, no hidden tests",
        "solutions": "write the notebooks with solutions, for after the deadline",
    }.items():
        one = steps.add_parser(step, help=summary, description=summary)
        one.add_argument("assignments", nargs="+", metavar="A1", help="which ones")
        one.add_argument("--to", type=Path, required=True, metavar="DIR", help="where to write them")
        _add_masters(one)
    new = steps.add_parser("new", help="begin an assignment of your own: a notebook and its questions")
    new.add_argument("name", metavar="A6", help="its name: a letter, then letters and digits")
    new.add_argument("--to", type=Path, required=True, metavar="DIR", help="the folder of your masters")
    verify = steps.add_parser("verify", help="say whether an assignment can be handed out and graded")
    verify.add_argument("name", metavar="A6", help="which one")
    _add_masters(verify)
    grade = steps.add_parser(
        "grade",
        help="run every submission in a process of its own and give points",
        description="Grade a folder of submissions. Run it again after an interruption: nothing is graded twice.",
    )
    grade.add_argument(
        "submissions", type=Path, help="holds <student>.ipynb, <student>/A1.ipynb or <student>/A1/A1.ipynb"
    )
    grade.add_argument("--out", type=Path, required=True, metavar="DIR", help="where results go")
    grade.add_argument("--assignment", metavar="A1", help="which one; found in the files' names by default")
    grade.add_argument("--workers", type=int, default=2, help="submissions at the same time (2)")
    grade.add_argument(
        "--memory", type=int, default=2048, metavar="MB", help="for one student process (2048)"
    )
    grade.add_argument(
        "--unsafe",
        action="store_true",
        help="grade also where the kernel refuses namespaces: submissions can then read and change your files",
    )
    grade.add_argument("--again", action="store_true", help="grade also what has been graded")
    grade.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="STUDENT",
        help="this one alone, once more; may be repeated",
    )
    grade.add_argument(
        "--times",
        metavar="FILE",
        help="when it was handed in: a table of student and time, or nbgrader for its timestamp.txt (the files' times)",
    )
    _add_masters(grade)
    report = steps.add_parser(
        "report", help="write grades.csv, a summary of the class, and a page of feedback for each student"
    )
    report.add_argument("out", type=Path, help="the folder that was --out of `course grade`")
    report.add_argument("--assignment", metavar="A1", help="which one; all that are in the folder by default")
    report.add_argument(
        "--deadline", metavar="TIME", help="such as '2026-11-30 23:59'; remembered for this assignment"
    )
    report.add_argument(
        "--extension",
        action="append",
        nargs=2,
        default=[],
        metavar=("STUDENT", "TIME"),
        help="a later deadline for one student; may be repeated; remembered",
    )
    export.add_steps(steps)


def _add_masters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--masters", type=Path, metavar="DIR", help="the masters (notebooks/assignments of this checkout)"
    )


def run(args: argparse.Namespace) -> int:
    """Do one step; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(
            stream, "reconfigure"
        ):  # a student's name must not end a run where the terminal lacks a letter
            stream.reconfigure(errors="backslashreplace")
    try:
        _check_begin(args)
        return _STEPS[args.step](args)
    except (ValueError, FileNotFoundError, ModuleNotFoundError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1


def _check_begin(args: argparse.Namespace) -> None:
    """Everything that is missing for a step here, in one message rather than one a run."""
    from multipole_lab.course.grading.notebook import masters_folder
    from multipole_lab.course.grading.release import require_tools

    checks = [require_tools] if args.step in ("release", "solutions", "verify") else []
    if "masters" in args and args.masters is None:
        checks.append(masters_folder)
    missing = []
    for check in checks:
        try:
            check()
        except (FileNotFoundError, ModuleNotFoundError) as error:
            missing.append(str(error))
    if missing:
        raise FileNotFoundError("\n".join(missing))


def _release(args: argparse.Namespace) -> int:
    from multipole_lab.course.grading import release

    write = release.release if args.step == "release" else release.solutions
    try:
        for name in args.assignments:
            print(write(name, args.to, args.masters))
            if beside := release.questions_beside(name, args.masters):
                print(args.to / beside.name)
    except release.Leak as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _new(args: argparse.Namespace) -> int:
    from multipole_lab.course.own.create import create

    notebook, questions = create(args.name, args.to)
    print(f"{notebook}\n{questions}\nNext: multipole-lab course verify {args.name} --masters {args.to}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from multipole_lab.course.own.verify import verify

    wrong = 0
    for promise, problems in verify(args.name, args.masters):
        print(f"{'no ' if problems else 'ok '} {promise}", *(f"      {line}" for line in problems), sep="\n")
        wrong += len(problems)
    print(f"{args.name}: {wrong or 'nothing'} to fix.")
    return 1 if wrong else 0


def _grade(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from multipole_lab.course.grading.batch import grade_folder
    from multipole_lab.course.sandbox.walls import Limits

    if args.workers < 1 or args.memory < 256:
        raise ValueError("--workers must be at least 1, and --memory at least 256")
    with tqdm(unit="submission", dynamic_ncols=True) as bar:

        def progress(done: int, total: int, student: str) -> None:
            bar.total = total
            bar.set_postfix_str(student[:30], refresh=False)
            bar.update(done - bar.n)

        batch = grade_folder(
            args.submissions,
            args.out,
            args.assignment,
            args.masters,
            args.workers,
            Limits(memory=args.memory << 20, unsafe=args.unsafe),
            args.again,
            progress,
            args.only,
            args.times,
        )
    for note in batch.notes:
        print(note)
    print(
        f"{len(batch.results)} results in {batch.out / 'results'}. Next: multipole-lab course report {args.out}"
    )
    if batch.failures:
        raise RuntimeError("not graded, because the grader itself failed:\n" + "\n".join(batch.failures))
    return 0


def _report(args: argparse.Namespace) -> int:
    from multipole_lab.course.grading.report import assignment_folders, report

    folders = assignment_folders(args.out, args.assignment)
    if (args.deadline or args.extension) and len(folders) > 1:
        raise ValueError(f"a deadline of which assignment? say it: --assignment {folders[0].name}")
    wrong = []
    for folder in folders:
        try:
            done = report(folder, args.deadline, args.extension)
        except ValueError as error:  # the other assignments are reported all the same
            wrong.append(str(error))
            continue
        print(f"{done.table}\n{done.summary}\n{done.feedback}")
        print(f"Points for written answers go into {done.manual}; then run this again.")
        wrong += [f"left out, grade it again: {folder.name}: {line}" for line in done.unreadable]
    if wrong:
        raise ValueError("\n".join(wrong))
    return 0


_STEPS = {"new": _new, "verify": _verify}
_STEPS |= {"release": _release, "solutions": _release, "grade": _grade, "report": _report}
_STEPS |= dict.fromkeys(export.STEPS, export.run)

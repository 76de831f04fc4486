"""Course assignments: checks for students, and for instructors release, grading and reports.

Students need `check` alone. What the graders compare with stands in the master notebooks under
``notebooks/assignments/`` and is not installed. Names are resolved when first used: the process that runs
students' code imports this package and must find nothing in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from multipole_lab.suggesting import lazy_names

_WHERE = {
    "Diagnosis": "questions.checking",
    "Marks": "questions.marks",
    "Question": "questions.question",
    "Random": "questions.question",
    "check": "questions.checking",
    "halves": "questions.answers.a1",
    "oracle": "questions.question",
    "same": "questions.compare",
}

if TYPE_CHECKING:  # the same for type checkers and editors, which do not run this
    from multipole_lab.course.questions.answers.a1 import halves as halves
    from multipole_lab.course.questions.checking import Diagnosis as Diagnosis, check as check
    from multipole_lab.course.questions.compare import same as same
    from multipole_lab.course.questions.marks import Marks as Marks
    from multipole_lab.course.questions.question import (
        Question as Question,
        Random as Random,
        oracle as oracle,
    )

__all__ = [*_WHERE]


__getattr__, __dir__ = lazy_names(__name__, _WHERE)

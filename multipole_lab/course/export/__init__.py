"""Where courses live: this course's grader inside Gradescope, otter-grader and nbgrader.

Each of them gets the same points, for each calls `one.grade_one`: no test is written a second time.
"""

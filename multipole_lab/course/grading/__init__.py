"""What instructors do: release masters, grade submissions, and report marks."""

from multipole_lab.renamed import old_names

__getattr__ = old_names(__name__, "multipole_lab.course.grading.submission")

"""Where students' code runs: processes behind walls, and the messages that cross them."""

from multipole_lab.renamed import old_names

__getattr__ = old_names(__name__, "multipole_lab.course.sandbox.walls")

"""The old name of ``measure`` and ``search``, for one version."""

from multipole_lab.renamed import old_names

__getattr__ = old_names(__name__, "multipole_lab.measure", "multipole_lab.search")

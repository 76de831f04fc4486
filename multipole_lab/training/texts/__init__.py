"""From text to tokens on disk, and the order in which they are learned from."""

from multipole_lab.renamed import old_names

__getattr__ = old_names(__name__, "multipole_lab.training.texts.sources")

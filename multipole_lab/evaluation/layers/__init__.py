"""Which layers of a model to replace, and by what, to stay under a loss."""

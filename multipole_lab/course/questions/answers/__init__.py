"""The right answers, computed the long way round (see `Question`)."""

"""Samples: queries, keys and values that real models computed, captured, kept and loaded."""

"""Centroid replacement: far keys stand at the mean of their cluster."""

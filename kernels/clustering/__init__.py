"""Clustering on the device: k-means, a cap on sizes, and the order of sorted members."""

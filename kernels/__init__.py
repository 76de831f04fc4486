"""Triton kernels of multipole_lab: one concept, one file."""

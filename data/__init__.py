"""Captured samples and recorded results, installed as `multipole_lab.data`; read with importlib.resources."""

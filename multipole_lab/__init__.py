"""Multipole attention: keys that are far away are summed once and expanded around a point."""

__version__ = "0.1.0"

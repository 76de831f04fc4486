"""Exact attention, forward and backward: the leaves of the causal recursion."""

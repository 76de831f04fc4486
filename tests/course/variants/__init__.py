"""Variants of answers: wrong ones, each with the hint that it has to get, and right ones written in other ways."""

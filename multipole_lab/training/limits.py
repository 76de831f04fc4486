"""What presets and corpora refuse: numbers that are none, or beyond what a run can take."""

from __future__ import annotations

from numbers import Real


def check_positive_integer(name: str, value: object) -> None:
    """An integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; a positive integer is needed")


def check_number(name: str, value: object, needed: str, above: bool = False) -> None:
    """A number of at least 0, or ``above`` it; ``needed`` says so."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not (value > 0 if above else value >= 0):
        raise ValueError(f"{name} is {value!r}; {needed} is needed")


def check_share(name: str, value: object) -> None:
    """A number of at least 0, below 1."""
    check_number(name, value, "a number of at least 0, below 1,")
    if not value < 1:
        raise ValueError(f"{name} is {value!r}; a number of at least 0, below 1, is needed")


def check_vocab(vocab: object) -> None:
    """Enough tokens for a tokenizer by byte pairs."""
    check_positive_integer("vocab", vocab)
    if vocab < 300:
        raise ValueError(f"vocab is {vocab}; at least 300 is needed: 256 bytes, and pairs of them")


def check_megabytes(megabytes: object) -> None:
    """A positive number, or None."""
    if megabytes is not None:
        check_number("megabytes", megabytes, "a positive number, or None for all text,", above=True)

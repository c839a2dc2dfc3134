"""How numbers and their nouns are written wherever people read them."""

from __future__ import annotations


def count(number: int, noun: str) -> str:
    """A number and its noun: 1 cell, 2 cells, 3 categories."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number} {noun if number == 1 else plural}"

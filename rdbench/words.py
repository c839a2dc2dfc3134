"""How numbers and their nouns are written wherever people read them."""

from __future__ import annotations


def count(number: int, noun: str) -> str:
    """A number and its noun: 1 cell, 2 cells, 3 categories."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number} {noun if number == 1 else plural}"


def duration(seconds: float) -> str:
    """A time in the unit that fits, with two digits: 0.4 s, 12 min, 3.5 h."""
    unit, length = ("h", 3600) if seconds >= 5400 else ("min", 60) if seconds >= 90 else ("s", 1)
    value = seconds / length
    return f"{value:,.0f} {unit}" if value >= 10 else f"{value:.2g} {unit}"

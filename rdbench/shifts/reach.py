"""How far blur and coarse pixels reach at an image's size: below a pixel they do nothing. Imports no torch.

Parameters are in pixels of an image whose shorter side has 256, `side` is the shorter side of the image at hand.
"""

from __future__ import annotations

from rdbench.shifts.kinds import Kind


def disc_radius(diameter: float, side: int) -> float:
    """Radius of the disc of `defocus`; below 1 it holds one pixel."""
    return diameter / 2 * side / 256


def path_reach(length: float, side: int) -> int:
    """Steps to each side of the middle along the path of `motion`."""
    return max(round((length * side / 256 - 1) / 2), 0)


def block_side(factor: float, side: int) -> int:
    """Side of the square pixels of `resolution`."""
    return max(round(factor * side / 256), 1)


def does_nothing(kind: Kind, severity: int, side: int) -> bool:
    """Whether the kind leaves every image of this size as it is."""
    value, *_ = kind.values[severity - 1]
    match kind.name:
        case "defocus":
            return disc_radius(value, side) < 1
        case "motion":
            return path_reach(value, side) == 0
        case "resolution":
            return block_side(value, side) == 1
    return False

"""Seeded shifts of the images: what a camera or its light may do to them, in five calibrated severities.

A shift is a pure function of (image, kind, severity, seed, image key): the same bits in any process, order, batch size
and run. What is drawn for an image (a direction, a place, the noise of each pixel) depends on (kind, seed, key) and not
on the severity, so that each severity is the one before made stronger. Importing this imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rdbench.errors import InputError, unknown

if TYPE_CHECKING:
    from torch import Tensor

SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Kind:
    """One kind of shift."""

    name: str
    group: str
    summary: str
    wording: str
    """What a severity is physically, to be filled with its values."""
    values: tuple[tuple[float, ...], ...]
    """The parameters of the five severities, in the order of `wording`. Pixels are those of a 256-pixel image."""
    geometric: bool = False
    """True if pixels move, so that masks must move with them."""

    @property
    def levels(self) -> tuple[str, ...]:
        """What each of the five severities is physically, in words."""
        return tuple(self.wording.format(*values) for values in self.values)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            name="exposure",
            group="lighting",
            summary="exposure up or down, drawn per image",
            wording="{:g} stops up or down",
            values=((0.4,), (0.8,), (1.2,), (1.6,), (2.0,)),
        ),
        Kind(
            name="defocus",
            group="blur",
            summary="out of focus: each point becomes a disc",
            wording="disc {:g} px across",
            values=((3,), (5,), (7,), (9,), (13,)),
        ),
        Kind(
            name="sensor",
            group="noise",
            summary="shot noise and read noise of the sensor",
            wording="{:g} photons at white, read noise of {:g}",
            values=((1600, 3), (400, 3), (160, 3), (80, 3), (40, 3)),
        ),
    )
}

GROUPS: dict[str, tuple[str, ...]] = {
    group: tuple(kind.name for kind in KINDS.values() if kind.group == group)
    for group in dict.fromkeys(kind.group for kind in KINDS.values())
}

STANDS_FOR = {"lighting": "exposure", "blur": "defocus", "noise": "sensor"}
"""A group's name with a severity is its first kind under another name: `lighting:3` looks as `exposure:3` does."""


@dataclass(frozen=True)
class Condition:
    """One shift at one severity, written `kind:severity`."""

    kind: str
    severity: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.severity}"


def parse_shift(text: str) -> tuple[Condition, ...]:
    """What `--shift` was given, as conditions.

    - `exposure:3` is one condition; so is `lighting:3`, the first kind of its group under the group's name.
    - `exposure` is that kind at all five severities.
    - `lighting`, `blur` and `noise` are all kinds of the group at all five severities, `all` is all kinds there are.

    Raises InputError for an unknown name (with the nearest ones) and for a severity that is not 1 to 5.
    """
    name, colon, severity = text.strip().partition(":")
    if colon:
        if name not in KINDS and name not in STANDS_FOR:
            raise unknown("shift", name, [*KINDS, *STANDS_FOR])
        if severity not in map(str, SEVERITIES):
            raise InputError(f"severity {severity!r} of shift {text!r} is not one of 1 to 5; write, say, {name}:3")
        return (Condition(name, int(severity)),)
    if name == "all":
        kinds = tuple(KINDS)
    elif name in GROUPS:
        kinds = GROUPS[name]
    elif name in KINDS:
        kinds = (name,)
    else:
        raise unknown("shift", name, [*KINDS, *GROUPS, "all"])
    return tuple(Condition(kind, severity) for kind in kinds for severity in SEVERITIES)


def apply_shift(images: Tensor, condition: Condition, seed: int, keys: Sequence[str]) -> Tensor:
    """The images as they look under `condition`, on their device.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        keys: one :attr:`rdbench.datasets.ImageRecord.key` per image.

    Returns (B, 3, H, W) float32, each value one of the 256 levels k / 255 that an 8-bit camera gives.
    """
    from rdbench.shifts.apply import apply_kind

    return apply_kind(images, _kind(condition), condition.severity, seed, keys)


def _kind(condition: Condition) -> Kind:
    return KINDS[STANDS_FOR.get(condition.kind, condition.kind)]

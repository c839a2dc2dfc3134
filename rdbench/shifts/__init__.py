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
from rdbench.shifts.kinds import KINDS, Kind
from rdbench.shifts.reach import does_nothing

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "GROUPS", "KINDS", "SEVERITIES", "Condition", "Kind", "apply_shift", "apply_to_mask", "leaves_alone", "parse_shift",
]  # fmt: skip

SEVERITIES = (1, 2, 3, 4, 5)


PUBLISHED = "adshift"
"""The group and preset of the shifts in published work: at severity 3, and no part of `all`."""

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
    - `lighting`, `blur`, `noise` and `camera` are the group's kinds at all five severities, `all` those of all four.
    - `adshift` is brightness, contrast, defocus blur and Gaussian noise at severity 3, as published.

    Raises InputError for an unknown name (with the nearest ones) and for a severity that is not 1 to 5.
    """
    name, colon, severity = text.strip().partition(":")
    if colon:
        return (_one(name, severity),)
    severities = (3,) if name == PUBLISHED else SEVERITIES
    return tuple(Condition(kind, severity) for kind in kinds_of(name) for severity in severities)


def kinds_of(name: str) -> tuple[str, ...]:
    """The kinds that a kind, a group or `all` (every kind but those of published work) stands for.

    Raises InputError for an unknown name, with the nearest ones.
    """
    if name == "all":
        return tuple(kind.name for kind in KINDS.values() if kind.group != PUBLISHED)
    if name in GROUPS:
        return GROUPS[name]
    if name in KINDS:
        return (name,)
    raise unknown("shift", name, [*KINDS, *GROUPS, "all"])


def _one(name: str, severity: str) -> Condition:
    if name not in KINDS and name not in STANDS_FOR:
        if name in GROUPS or name == "all":
            raise InputError(
                f"shift {name}:{severity}: {name} is a group; give one of its kinds, or {name} alone for all"
            )
        raise unknown("shift", name, [*KINDS, *STANDS_FOR])
    if severity not in map(str, SEVERITIES):
        raise InputError(f"severity {severity!r} of shift {name!r} is not one of 1 to 5; write, say, {name}:3")
    return Condition(name, int(severity))


def apply_shift(images: Tensor, condition: Condition, seed: int, keys: Sequence[str]) -> Tensor:
    """The images as they look under `condition`, on their device.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        keys: one :attr:`rdbench.datasets.ImageRecord.key` per image.

    Returns (B, 3, H, W) float32, each value one of the 256 levels k / 255 that an 8-bit camera gives.
    """
    from rdbench.shifts.apply import apply_kind

    return apply_kind(images, _kind(condition), condition.severity, seed, keys)


def leaves_alone(condition: Condition, image_size: tuple[int, int]) -> bool:
    """Whether every image of `image_size` = (height, width) looks under `condition` as it does without."""
    return does_nothing(_kind(condition), condition.severity, min(image_size))


def apply_to_mask(
    masks: Tensor, condition: Condition, seed: int, keys: Sequence[str], image_size: tuple[int, int] | None = None
) -> Tensor:
    """The masks (B, H, W) bool of the shifted images: moved where pixels move, else as they are.

    Args:
        image_size: (height, width) of the images that were shifted, if not that of the masks. The mask of an image
            that was resized on its way to the model is moved as that image was.
    """
    from rdbench.shifts.apply import apply_kind_to_mask

    return apply_kind_to_mask(masks, _kind(condition), condition.severity, seed, keys, image_size)


def _kind(condition: Condition) -> Kind:
    return KINDS[STANDS_FOR.get(condition.kind, condition.kind)]

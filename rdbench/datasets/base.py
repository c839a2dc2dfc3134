"""What every dataset gives: a :class:`Category` of images with label, mask, defect type, lighting and part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ImageArray: TypeAlias = "NDArray[np.uint8]"
MaskArray: TypeAlias = "NDArray[np.bool_]"


@dataclass(frozen=True)
class ImageRecord:
    """One image of a category, not yet decoded."""

    key: str
    """Unique within the category and stable across machines, e.g. "test/crack/000"; shifts are seeded by it."""
    label: int
    """0 normal, 1 anomalous."""
    part: str
    """Images of one physical part share this name; parts are never split or resampled."""
    defect: str = "good"
    lighting: str = ""
    """The real lighting where the dataset varies it ("regular", "overexposed", ...), else empty."""
    path: Path | None = None
    mask_path: Path | None = None


@dataclass(frozen=True)
class Category:
    """One category's splits. Training and calibration images are all normal."""

    dataset: str
    name: str
    train: tuple[ImageRecord, ...]
    calibration: tuple[ImageRecord, ...]
    test: tuple[ImageRecord, ...]
    calibration_source: str
    """Where the calibration images come from, in words."""
    fingerprint: str
    """SHA-256 over names and contents of every image and mask of the splits (for a drawn dataset: of its recipe)."""
    custom: str
    """Empty for an official category with the official counts; otherwise why it is never ranked with those."""
    read_image: Callable[[ImageRecord], ImageArray]
    """(H, W, 3) uint8 RGB at the image's own size. Raises InputError that names an unreadable file. Picklable."""
    read_mask: Callable[[ImageRecord], MaskArray]
    """(H, W) bool at the image's own size, all False for a normal image. Picklable."""

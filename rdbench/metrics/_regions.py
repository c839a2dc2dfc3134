"""A mask's anomalous pixels and their connected regions, found once and used for every map of that image."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rdbench.metrics._checks import BoolArray, FloatArray


@dataclass(frozen=True)
class Regions:
    """What pixel metrics need of one mask (H, W).

    pixels: (P,) flat indices of the anomalous pixels
    overlap: (P,) 1 / area of the pixel's region, so that a sum over found pixels is a sum of overlaps
    count: regions
    """

    shape: tuple[int, int]
    pixels: NDArray[np.int64]
    overlap: FloatArray
    count: int


def find_regions(mask: ArrayLike) -> Regions:
    """The 8-connected regions of a mask (H, W) of bool, or of numbers 0 and 1.

    8-connected (`scipy.ndimage.label` with a 3 x 3 structure of ones) as in MVTec's own evaluation code.
    """
    binary = check_mask("mask", mask)
    pixels = np.flatnonzero(binary)
    if not len(pixels):
        return Regions(binary.shape, pixels, np.empty(0), 0)
    from scipy.ndimage import label

    rows, columns = np.divmod(pixels, binary.shape[1])
    top, left = rows[0], columns.min()  # only the box around the anomalies is searched
    box = binary[top : rows[-1] + 1, left : columns.max() + 1]
    labelled, count = label(box, structure=np.ones((3, 3), dtype=np.int8))
    region = labelled[rows - top, columns - left] - 1
    return Regions(binary.shape, pixels, 1 / np.bincount(region)[region], int(count))


def as_regions(mask: ArrayLike | Regions) -> Regions:
    """A mask's regions, or the regions themselves."""
    return mask if isinstance(mask, Regions) else find_regions(mask)


def check_mask(name: str, mask: ArrayLike) -> BoolArray:
    """A mask (H, W) as bool, or a ValueError if it is empty, not 2-D or has values other than 0 and 1."""
    array = np.asarray(mask)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name}: non-empty (H, W) expected, got shape {array.shape}")
    if array.dtype == np.bool_:
        return array
    if not ((array == 0) | (array == 1)).all():
        raise ValueError(f"{name}: only 0 and 1 are allowed")
    return array.astype(np.bool_)


def finite_map(name: str, values: ArrayLike) -> FloatArray | NDArray[np.float32]:
    """A map as it is, or a ValueError if it is empty, not numeric, NaN or infinite."""
    array: FloatArray | NDArray[np.float32] = np.asarray(values)
    if array.dtype.kind not in "biuf" or array.size == 0:
        raise ValueError(f"{name}: non-empty array of numbers expected, got {array.shape} of {array.dtype}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: NaN or infinite values")
    return array


def same_shape(regions: Regions, values: ArrayLike) -> None:
    """A ValueError unless the map has the size of the mask."""
    if np.shape(values) != regions.shape:
        raise ValueError(f"mask is {regions.shape}, map is {np.shape(values)}: shapes differ")

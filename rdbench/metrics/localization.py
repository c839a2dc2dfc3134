"""Localisation: how well anomaly maps find the anomalous pixels, and uncertainty maps the pixel errors.

Notation: image i has a mask (H_i, W_i) of 0 and 1 and a map (H_i, W_i) of numbers >= 0, higher = more
anomalous; sizes may differ between images. A `Regions` (from `find_regions`) may stand for any mask.

The functions here are exact and hold all pixels at once; the accumulators of `streaming`, offered here
too, take one image at a time.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rdbench.metrics._checks import FloatArray, finite
from rdbench.metrics._pixels import FPR_BOUNDS, PixelCounts, descending, log_area, sparsification_area
from rdbench.metrics._ranking import rank
from rdbench.metrics._regions import Regions, as_regions, find_regions, finite_map, same_shape
from rdbench.metrics.streaming import AuseAccumulator, PixelAccumulator, PixelMoments, SegF1Accumulator

__all__ = [
    "Aupimo",
    "AuseAccumulator",
    "PixelAccumulator",
    "PixelMoments",
    "Regions",
    "SegF1Accumulator",
    "aupimo",
    "aupro",
    "ause",
    "find_regions",
    "pixel_auroc",
    "pixel_average_precision",
    "seg_f1",
]

Masks = Sequence[ArrayLike | Regions]
Maps = Sequence[ArrayLike]
Pairs = list[tuple[Regions, FloatArray]]


class Aupimo(NamedTuple):
    """Mean over the anomalous images, and (N,) per image, `nan` for a normal one."""

    mean: float
    per_image: FloatArray


def pixel_auroc(masks: Masks, maps: Maps) -> float:
    """AUROC over all pixels of all images, ties half; `nan` with one class only."""
    return _exact_counts(_pairs(masks, maps))[0].auroc()


def pixel_average_precision(masks: Masks, maps: Maps) -> float:
    """Average precision over all pixels of all images, tied values together; `nan` with one class only."""
    return _exact_counts(_pairs(masks, maps))[0].average_precision()


def aupro(masks: Masks, maps: Maps, fpr_limit: float = 0.3) -> float:
    """Area under the mean region overlap against FPR from 0 to `fpr_limit`, over `fpr_limit`.

    As MVTec defines it (Bergmann et al. 2021): thresholds, regions (8-connected) and normal pixels are
    pooled over all images; the curve is a straight line between thresholds, and at the limit.
    `nan` without a region or without a normal pixel.
    """
    return _exact_counts(_pairs(masks, maps))[0].aupro(fpr_limit)


def aupimo(masks: Masks, maps: Maps, fpr_bounds: tuple[float, float] = FPR_BOUNDS) -> Aupimo:
    """Per anomalous image, the mean over ln(FPR) of its pixel recall (Bertoldo et al. 2024).

    FPR is that of the normal images alone, averaged over them. `nan` without a normal image.
    """
    pairs = _pairs(masks, maps)
    counts, distinct = _exact_counts(pairs)
    per_image = np.full(len(pairs), np.nan)
    if counts.normal_images:
        fpr = descending(counts.alarm)
        for i, (regions, values) in enumerate(pairs):
            if regions.count:
                place = np.searchsorted(distinct, values[regions.pixels])
                found = np.bincount(place, minlength=len(distinct)).astype(np.float64)
                per_image[i] = log_area(fpr, descending(found), fpr_bounds)
    return Aupimo(counts.aupimo(fpr_bounds), per_image)


def seg_f1(masks: Masks, maps: Maps, threshold: float) -> float:
    """F1 of `map > threshold` over all pixels of all images; `nan` without an anomalous pixel."""
    accumulator = SegF1Accumulator(threshold)
    if len(masks) != len(maps) or not len(maps):
        raise ValueError(f"masks has {len(masks)}, maps has {len(maps)}: equal and not empty expected")
    for mask, values in zip(masks, maps, strict=True):
        accumulator.update(mask, values)
    return accumulator.f1()


def ause(error: ArrayLike, uncertainty: ArrayLike) -> float:
    """Area between the sparsification curves of the uncertainty and of the error itself (Ilg et al. 2018).

    error, uncertainty: P pixels each, (P,) or (H, W), error >= 0. The curve is the mean error of the pixels
    left when the most uncertain share is taken out, over the mean error of all, for shares 0, 1/P, ...,
    (P - 1)/P by trapezoids. Ties take the expectation over orders. 0 is best; `nan` without error.
    """
    if np.shape(error) != np.shape(uncertainty):
        raise ValueError(f"error is {np.shape(error)}, uncertainty is {np.shape(uncertainty)}: shapes differ")
    e, u = finite("error", np.ravel(error)), finite("uncertainty", np.ravel(uncertainty))
    if e.min() < 0:
        raise ValueError("error: negative values")
    return sparsification_area(rank(e, u), rank(e, e))


def _exact_counts(pairs: Pairs) -> tuple[PixelCounts, FloatArray]:
    """Counts per distinct value over all pixels, and those values (G,), ascending."""
    columns = []
    for regions, values in pairs:
        image = np.zeros((4, len(values)))
        if regions.count:
            image[0, regions.pixels] = 1
            image[1, regions.pixels] = regions.overlap
            image[2, regions.pixels] = 1 / len(regions.pixels)
        else:
            image[3] = 1 / len(values)
        columns.append(image)
    pooled = np.concatenate([values for _, values in pairs])
    distinct, group, size = np.unique(pooled, return_inverse=True, return_counts=True)
    anomalous, overlap, recall, alarm = (
        np.bincount(group, column).astype(np.float64) for column in np.concatenate(columns, axis=1)
    )
    anomalous_images = sum(regions.count > 0 for regions, _ in pairs)
    counts = PixelCounts(
        size.astype(np.float64),
        anomalous,
        overlap,
        recall,
        alarm,
        sum(regions.count for regions, _ in pairs),
        anomalous_images,
        len(pairs) - anomalous_images,
    )
    return counts, distinct


def _pairs(masks: Masks, maps: Maps) -> Pairs:
    if len(masks) != len(maps):
        raise ValueError(f"masks has {len(masks)}, maps has {len(maps)}: lengths differ")
    if not len(maps):
        raise ValueError("maps: empty")
    pairs = []
    for mask, values in zip(masks, maps, strict=True):
        regions = as_regions(mask)
        same_shape(regions, values)
        pairs.append((regions, finite_map("maps", values).astype(np.float64).reshape(-1)))
    return pairs

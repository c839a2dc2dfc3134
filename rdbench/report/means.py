"""Means over cells, with their intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Mean:
    """Means over the cells of each method (M, K, F) with their 95 % intervals; NaN where undefined."""

    value: FloatArray
    low: FloatArray
    high: FloatArray
    defined: NDArray[np.int64]
    """How many cells have the figure."""


def mean_interval(value: FloatArray, low: FloatArray, high: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean over categories of the means over seeds, with a 95 % interval for these very categories.

    Arguments are (M, C, S, ...) with NaN where there is nothing, results (M, ...). The interval holds the sampling of
    test parts and of seeds. Each cell's own interval speaks for its parts; seeds share them, so they do not average
    out over seeds. Student's t over the seeds within categories speaks for the seeds. The two and the categories are
    combined by the method of variance estimates recovery (Zou and Donner 2008), which needs no stored predictions and
    keeps the asymmetry of bounded figures. With one seed it holds the parts alone, with no cell intervals the seeds.
    """
    there = ~np.isnan(value)
    seeds = there.sum(axis=2)
    categories = (seeds > 0).sum(axis=1)
    by_category = nan_mean(value, 2)
    mean = nan_mean(by_category, 1)
    deviations = np.where(there, value - by_category[:, :, None], 0.0)
    freedom = np.maximum(seeds - 1, 0).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = (deviations**2).sum(axis=(1, 2)) / freedom
        seed_variance = variance * np.where(seeds > 0, 1.0 / seeds, 0.0).sum(axis=1)
        seed_squares = np.where(freedom > 0, stdtrit(freedom, 0.975) ** 2 * seed_variance, 0.0)
        known = (freedom > 0) | ~np.isnan(low).all(axis=(1, 2))
        below, above = (
            np.where(known, np.sqrt(np.nansum(nan_mean(parts, 2) ** 2, axis=1) + seed_squares) / categories, np.nan)
            for parts in (value - low, high - value)
        )
    return mean, mean - below, mean + above


def nan_mean(values: FloatArray, axis: int) -> FloatArray:
    """Mean of the numbers along an axis, NaN where there is none."""
    count = (~np.isnan(values)).sum(axis=axis)
    with np.errstate(invalid="ignore"):
        mean: FloatArray = np.nansum(values, axis=axis) / np.where(count > 0, count, np.nan)
    return mean

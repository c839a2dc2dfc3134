"""Means over cells, with their intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from rdbench.metrics.statistics import LEVEL

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Mean:
    """Means over the cells of each method (M, K, F) with their 95 % intervals; NaN where undefined."""

    value: FloatArray
    low: FloatArray
    high: FloatArray
    defined: NDArray[np.int64]
    """How many cells have the figure, and of a mean over conditions under each of them."""


def mean_interval(
    value: FloatArray, low: FloatArray, high: FloatArray, level: float | FloatArray = LEVEL
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean over categories of the means over seeds, with an interval of that level for these very categories.

    Arguments are (M, C, S, ...) with NaN where there is nothing, results (M, ...). The interval holds the sampling of
    test parts and of seeds. Each cell's own interval, of 95 %, speaks for its parts; seeds share them, so they do not
    average out over seeds. Student's t speaks for the seeds: each category has a variance of its own (one with a single
    seed that of the others), and the degrees of freedom are Welch's (1947). The two and the categories are combined by
    the method of variance estimates recovery (Zou and Donner 2008), which needs no stored predictions and keeps the
    asymmetry of bounded figures. With one seed it holds the parts alone, with no cell intervals the seeds.
    """
    there = ~np.isnan(value)
    seeds = there.sum(axis=2)
    categories = (seeds > 0).sum(axis=1)
    by_category = nan_mean(value, 2)
    mean = nan_mean(by_category, 1)
    squares = (np.where(there, value - by_category[:, :, None], 0.0) ** 2).sum(axis=2)
    freedom = np.maximum(seeds - 1, 0)
    all_freedom = freedom.sum(axis=1)
    tail = (1 + level) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        shared = (squares.sum(axis=1) / all_freedom)[:, None]
        of_means = np.where(freedom > 0, squares / freedom, shared) / seeds  # variances
        of_means = np.where(seeds > 0, of_means, 0.0)
        variance = of_means.sum(axis=1)
        single = np.where(freedom > 0, 0.0, of_means).sum(axis=1)
        spread = np.where(freedom > 0, of_means**2 / freedom, 0.0).sum(axis=1) + single**2 / all_freedom
        welch = np.where(variance > 0, variance**2 / spread, 1.0)
        seed_squares = np.where(variance > 0, stdtrit(welch, tail) ** 2 * variance, 0.0)
        known = (all_freedom > 0) | ~np.isnan(low).all(axis=(1, 2))
        wider = ndtri(tail) / ndtri((1 + LEVEL) / 2)
        below, above = (
            np.where(
                known,
                np.sqrt(wider**2 * np.nansum(nan_mean(parts, 2) ** 2, axis=1) + seed_squares) / categories,
                np.nan,
            )
            for parts in (value - low, high - value)
        )
    return mean, mean - below, mean + above


def nan_mean(values: FloatArray, axis: int) -> FloatArray:
    """Mean of the numbers along an axis, NaN where there is none."""
    count = (~np.isnan(values)).sum(axis=axis)
    with np.errstate(invalid="ignore"):
        mean: FloatArray = np.nansum(values, axis=axis) / np.where(count > 0, count, np.nan)
    return mean

"""Means over cells, with their intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from rdbench.metrics.statistics import LEVEL, seed_weights

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Mean:
    """Means over the cells of each method (M, K, F) with their 95 % intervals; NaN where undefined."""

    value: FloatArray
    low: FloatArray
    high: FloatArray
    defined: NDArray[np.int64]
    """How many cells have the figure, and of a mean over conditions under each of them."""


@dataclass(frozen=True)
class Spread:
    """Means over cells (M, ...) and how sure they are, the two sources of chance apart."""

    value: FloatArray
    below: FloatArray
    above: FloatArray
    """Arms of the 95 % interval for the test parts; 0 where cells have none."""
    variance: FloatArray
    """Of the mean, for the seeds; 0 where no category has two."""
    freedom: FloatArray
    """Of that variance."""
    known: NDArray[np.bool_]
    """Whether anything is known of either source."""

    def reach(self, arm: FloatArray, level: float | FloatArray) -> FloatArray:
        """How far an interval of another level reaches on the side of `arm`, see `mean_interval`."""
        tail = (1 + level) / 2
        parts = arm * ndtri(tail) / ndtri((1 + LEVEL) / 2)
        return np.asarray(np.sqrt(parts**2 + stdtrit(self.freedom, tail) ** 2 * self.variance))


def mean_interval(
    value: FloatArray, low: FloatArray, high: FloatArray, level: float = LEVEL
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean over categories of the means over seeds, with an interval of that level for these very categories.

    Arguments are (M, C, S, ...) with NaN where there is nothing, results (M, ...). The interval holds the sampling of
    test parts and of seeds. Each cell's own interval, of 95 %, speaks for its parts; seeds share them, so they do not
    average out over seeds. Student's t speaks for the seeds: each category has a variance of its own (one with a single
    seed that of the others), and the degrees of freedom are Welch's (1947). The two and the categories are combined by
    the method of variance estimates recovery (Zou and Donner 2008), which needs no stored predictions and keeps the
    asymmetry of bounded figures. With one seed it holds the parts alone, with no cell intervals the seeds.
    """
    spread = mean_spread(value, low, high)
    below, above = (np.where(spread.known, spread.reach(arm, level), np.nan) for arm in (spread.below, spread.above))
    return spread.value, spread.value - below, spread.value + above


def mean_spread(value: FloatArray, low: FloatArray, high: FloatArray) -> Spread:
    """The means that `mean_interval` gives, and what its intervals are made of."""
    there = ~np.isnan(value)
    seeds = there.sum(axis=2)
    categories = (seeds > 0).sum(axis=1)
    by_category = nan_mean(value, 2)
    squares = (np.where(there, value - by_category[:, :, None], 0.0) ** 2).sum(axis=2)
    freedom = np.maximum(seeds - 1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        variances = np.where(freedom > 0, squares / freedom, 0.0)
        # The part of each category's variance in that of the mean, with its part in those that borrow one.
        shares = variances * seed_weights(seeds)
        variance = shares.sum(axis=1)
        welch = 1 / np.where(freedom > 0, (shares / variance[:, None]) ** 2 / freedom, 0.0).sum(axis=1)
        below, above = (
            np.sqrt(np.nansum(nan_mean(parts, 2) ** 2, axis=1)) / categories for parts in (value - low, high - value)
        )
        known = (freedom.sum(axis=1) > 0) | ~np.isnan(low).all(axis=(1, 2))
        variance = variance / categories**2
    return Spread(
        nan_mean(by_category, 1), below, above, variance, np.where(variance > 0, welch, 1.0), known & (categories > 0)
    )


def nan_mean(values: FloatArray, axis: int) -> FloatArray:
    """Mean of the numbers along an axis, NaN where there is none."""
    count = (~np.isnan(values)).sum(axis=axis)
    with np.errstate(invalid="ignore"):
        mean: FloatArray = np.nansum(values, axis=axis) / np.where(count > 0, count, np.nan)
    return mean

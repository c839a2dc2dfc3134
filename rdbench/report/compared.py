"""Like for like: which methods are compared under a condition, on which cells, and their figures there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rdbench.report.means import FloatArray
from rdbench.report.rankings import Ranking

LET_BY = ("augrc", "augrc_saved", "aurc", "e_aurc", "risk_at_80", "risk_at_90", "risk_at_95")
"""Figures of wrong decisions that are let by: 0 where none is wrong, though there is no uncertainty to judge then."""


@dataclass(frozen=True)
class Compared:
    """Figures of the methods that take part, NaN elsewhere; a mean over K conditions is over those that all have."""

    value: FloatArray
    """(M, C, S, F)"""
    low: FloatArray
    high: FloatArray
    conditions: tuple[int, ...]
    """The K conditions, of which one is a mean, or the condition itself."""
    kept: NDArray[np.bool_]
    """(M, C, S, K, F) which figures are in the means."""


def taking_part(ranking: Ranking, condition: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(M,) the methods that are compared under a condition, and (C, S) the cells on which they are.

    Those are the cells that more than half of the complete methods were measured in, and the methods that lack none.
    """
    measured = ranking.measured[..., condition] & ranking.complete[:, None, None]
    some = measured.any(axis=(1, 2))
    cells = 2 * measured.sum(axis=0) > some.sum()
    return np.asarray(some & (measured | ~cells).all(axis=(1, 2)) & cells.any()), np.asarray(cells)


def compared(ranking: Ranking, condition: int, metrics: Sequence[str], category: int | None = None) -> Compared:
    """The figures to compare, of all categories or of one.

    A method that lacks a metric in more than half of the figures that others have of it takes no part in that metric.
    What one of the others lacks is left out for all.
    """
    methods, cells = taking_part(ranking, condition)
    chosen = slice(None) if category is None else slice(category, category + 1)
    conditions = ranking.pooled.get(condition, (condition,))
    place = (slice(None), chosen, slice(None), np.array(conditions)[:, None])
    columns = [ranking.metrics.index(name) for name in metrics]
    value, low, high = (array[(*place, columns)] for array in (ranking.value, ranking.low, ranking.high))
    if "failures" in ranking.metrics:
        nothing = ranking.value[(*place, [ranking.metrics.index("failures")])] == 0
        known = nothing & np.isin(metrics, LET_BY)
        value, low, high = (np.where(known, 0.0, array) for array in (value, low, high))
    used = (methods[:, None, None] & cells[chosen])[..., None, None]
    there = used & ~np.isnan(value)
    by_somebody = there.any(axis=0).sum(axis=(0, 1, 2))
    part = 2 * there.sum(axis=(1, 2, 3)) >= np.maximum(by_somebody, 1)
    used = used & part[:, None, None, None]
    kept = used & ~(used & ~there).any(axis=0)
    value, low, high = (_mean(array, kept) for array in (value, low, high))
    return Compared(value, low, high, conditions, kept)


def _mean(array: FloatArray, kept: NDArray[np.bool_]) -> FloatArray:
    """Over the conditions that are kept; NaN without one, or where one of them is NaN."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(kept, array, 0.0).sum(axis=3) / np.where(kept.any(axis=3), kept.sum(axis=3), np.nan))

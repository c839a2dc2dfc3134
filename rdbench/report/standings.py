"""How sure a ranking is: what is tied with the best, rank intervals, the least difference that can be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from rdbench.metrics.catalog import Metric
from rdbench.metrics.statistics import LEVEL, RankInterval, holm, paired_test, percentile_intervals, rank_intervals
from rdbench.report.columns import describe
from rdbench.report.means import FloatArray, mean_interval, nan_mean
from rdbench.report.rankings import Ranking

LEAD = "augrc"
"""The figure by which methods are ranked."""
RESAMPLES = 200
"""Of cells that have none of their own."""


def best_and_tied(
    ranking: Ranking, condition: int, metrics: Sequence[str], category: int | None = None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which methods (M, F) are the best in each metric, equals included, and which (M, F) are tied with them.

    A method is tied if the 95 % interval of its difference to the best holds zero, Bonferroni-corrected for all pairs,
    as which one is the best is seen only afterwards. The two intervals are taken as independent, though methods are
    tested on the same images: that is cautious, and calls more methods tied than a joint resampling would. Complete
    methods take part, on the cells in which all of them have the figure. Nothing is best in cost: times are measured
    once, and differences as small as the clock's noise would look like findings. Nor is anything where cells have no
    interval: how much of a difference is the parts' chance is not known there.
    """
    chosen = slice(None) if category is None else slice(category, category + 1)
    value, low, high = (array[:, chosen] for array in _compared(ranking, condition, metrics))
    there = ~np.isnan(value) & ranking.complete[:, None, None, None]
    unsure = (there & np.isnan(low)).any(axis=(0, 1, 2))
    sign = np.array([_sign(describe(name)) for name in metrics])
    sign[unsure] = np.nan
    taking_part = there.any(axis=(1, 2))
    methods = taking_part.sum(axis=0)
    level = 1 - (1 - LEVEL) / np.maximum(methods * (methods - 1) / 2, 1)
    mean, least_of, most_of = mean_interval(value, low, high, level)
    loss = np.where(taking_part, mean * sign, np.nan)
    below = np.abs(mean - np.where(sign > 0, least_of, most_of))
    above = np.abs(np.where(sign > 0, most_of, least_of) - mean)
    first = np.argmin(np.where(np.isnan(loss), np.inf, loss), axis=0)
    columns = np.arange(loss.shape[1])
    reach = np.hypot(below, above[first, columns])
    least = loss[first, columns]
    best = np.isclose(loss, least, rtol=1e-12, atol=1e-12)  # equal as far as float64 can tell
    with np.errstate(invalid="ignore"):
        tied = (loss - least <= reach) & ~best
    return best, tied


def _compared(ranking: Ranking, condition: int, metrics: Sequence[str]) -> list[FloatArray]:
    """Value, low and high (M, C, S, F) like for like: NaN for all where a method that takes part lacks the figure.

    Of a mean over conditions one such condition is left out of the cell's mean, for all methods.
    """
    columns = [ranking.metrics.index(name) for name in metrics]
    arrays = ranking.value, ranking.low, ranking.high
    members, lacking = _lacking(ranking, condition, columns)
    if not lacking.any():
        return [array[:, :, :, condition, columns] for array in arrays]
    there = ranking.measured[..., condition, None]
    return [
        np.where(there, nan_mean(np.where(lacking, np.nan, _of(array, members, columns)), 3), np.nan)
        for array in arrays
    ]


def _lacking(ranking: Ranking, condition: int, columns: list[int]) -> tuple[list[int], NDArray[np.bool_]]:
    """The K conditions that this one is a mean over, or itself, and where (C, S, K, F) a figure is not to be used.

    That is where a complete method, which has the figure elsewhere, lacks it though its cell was measured.
    """
    members = list(ranking.pooled.get(condition, (condition,)))
    nothing = np.isnan(_of(ranking.value, members, columns))
    measured = (ranking.measured[..., condition] & ranking.complete[:, None, None])[..., None, None]
    taking_part = (measured & ~nothing).any(axis=(1, 2, 3), keepdims=True)
    return members, np.asarray((measured & nothing & taking_part).any(axis=0))


def _of(array: FloatArray, members: list[int], columns: list[int]) -> FloatArray:
    """(M, C, S, K, F) of some conditions and metrics."""
    return array[:, :, :, np.array(members)[:, None], columns]


def _sign(metric: Metric) -> float:
    """1 where less is better, -1 where more is, NaN where nothing is to be called best."""
    if metric.family == "cost" or metric.unit == "ratio":
        return float("nan")
    return {"higher": -1.0, "lower": 1.0, "none": float("nan")}[metric.direction]


def lead_replicates(ranking: Ranking, condition: int, augrc: FloatArray | None) -> FloatArray:
    """(M, C, S, R) resamples over parts of the lead figure.

    Those of `augrc` (M, C, S, K, R), computed from predictions and drawn jointly, where a cell has them. Elsewhere
    normal draws with the width of the cell's interval: independent between methods, which is cautious, and the same
    for all seeds of a category, which share their test images. NaN where a method that takes part lacks the figure.
    """
    value, low, high = (array[..., 0] for array in _compared(ranking, condition, [LEAD]))
    methods, categories, _ = value.shape
    resamples = RESAMPLES if augrc is None else augrc.shape[-1]
    draws = np.random.default_rng(0).standard_normal((methods, categories, 1, resamples)) / norm.ppf(0.975)
    down, up = np.nan_to_num(value - low)[..., None], np.nan_to_num(high - value)[..., None]
    made = value[..., None] + np.where(draws < 0, draws * down, draws * up)
    if augrc is None:
        return np.asarray(made)
    members, lacking = _lacking(ranking, condition, [ranking.metrics.index(LEAD)])
    used = ~lacking & ~np.isnan(value)[..., None, None]
    drawn = augrc[:, :, :, members]
    unknown = (used & np.isnan(drawn)).any(axis=3)
    return np.where(unknown, made, nan_mean(np.where(used, drawn, np.nan), 3))


def rank_methods(ranking: Ranking, condition: int, replicates: FloatArray) -> dict[int, RankInterval]:
    """The rank of each complete method by the lead figure, with its 95 % interval over parts and seeds.

    Methods are compared on the cells in which all have the figure; without such a cell nobody has a rank.
    """
    taking_part = _ranked(ranking, replicates)
    if len(taking_part) < 2:
        return {}
    shown = _compared(ranking, condition, [LEAD])[0][..., 0]
    ranks = rank_intervals(
        {str(m): shown[m] for m in taking_part},
        higher_is_better=False,
        replicates={str(m): replicates[m] for m in taking_part},
    )
    return {int(name): rank for name, rank in ranks.items() if not np.isnan([rank.rank, rank.low]).any()}


def least_difference(ranking: Ranking, condition: int, replicates: FloatArray) -> float:
    """Half the width of the 95 % interval of a difference to the best in the lead figure, the median over methods.

    Differences below it cannot be told from chance with these parts, drawn for both methods together, and seeds
    (`mean_interval`). NaN if there is no pair to compare.
    """
    taking_part = _ranked(ranking, replicates)
    if len(taking_part) < 2:
        return float("nan")
    compared, *ends = (array[..., 0] for array in _compared(ranking, condition, [LEAD]))
    shown, _, _ = mean_interval(compared, *ends)
    best = min(taking_part, key=lambda m: float(np.nan_to_num(shown[m], nan=np.inf)))
    others = [m for m in taking_part if m != best]
    resampled = replicates[others] - replicates[best]
    value = compared[others] - compared[best]
    intervals = percentile_intervals(resampled.reshape(-1, resampled.shape[-1]))
    low, high = (np.reshape([getattr(i, end) for i in intervals], value.shape) for end in ("low", "high"))
    _, below, above = mean_interval(value, low, high)
    widths = (above - below)[~np.isnan(above - below)]
    return float(np.median(widths) / 2) if len(widths) else float("nan")


def _ranked(ranking: Ranking, replicates: FloatArray) -> list[int]:
    """The complete methods that have the lead figure at all."""
    return [m for m in np.flatnonzero(ranking.complete).tolist() if not np.isnan(replicates[m]).all()]


@dataclass(frozen=True)
class CriticalDifference:
    """Mean ranks over the cells (category, seed) and which methods a paired test cannot tell apart (Demsar 2006)."""

    methods: tuple[int, ...]
    """By mean rank, best first."""
    ranks: tuple[float, ...]
    groups: tuple[tuple[int, int], ...]
    """First and last place in `methods` of each group in which no two methods differ significantly."""
    cells: int


def critical_difference(ranking: Ranking, condition: int, most: int = 12) -> CriticalDifference | None:
    """Mean ranks by the lead figure of at most the `most` best methods; None with fewer than two methods or cells.

    Pairs are told apart by Wilcoxon's signed-rank test over the cells that all have, with Holm's correction.
    """
    methods = np.flatnonzero(ranking.complete)
    values = _compared(ranking, condition, [LEAD])[0][methods].reshape(len(methods), -1)
    some = ~np.isnan(values).all(axis=1)
    methods, values = methods[some], values[some]
    values = values[:, ~np.isnan(values).any(axis=0)]
    if len(methods) < 2 or values.shape[1] < 2:
        return None
    ranks = rankdata(values, axis=0).mean(axis=1)
    order = np.argsort(ranks, kind="stable")[:most]
    pairs = list(combinations(range(len(order)), 2))
    p_values = holm([paired_test(values[order[a]], values[order[b]]).p_value for a, b in pairs])
    alike = {pair for pair, p in zip(pairs, p_values, strict=True) if not p <= 0.05}
    groups: list[tuple[int, int]] = []
    for first in range(len(order)):
        last = first
        while last + 1 < len(order) and all((i, last + 1) in alike for i in range(first, last + 1)):
            last += 1
        if last > first and (not groups or last > groups[-1][1]):
            groups.append((first, last))
    return CriticalDifference(
        tuple(methods[order].tolist()), tuple(ranks[order].tolist()), tuple(groups), values.shape[1]
    )

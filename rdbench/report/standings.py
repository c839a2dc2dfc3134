"""How sure a ranking is: what is tied with the best, rank intervals, the least difference that can be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from rdbench.metrics.catalog import Metric
from rdbench.metrics.statistics import LEVEL, RankInterval, holm, paired_test, percentile_intervals, rank_intervals
from rdbench.report.columns import describe
from rdbench.report.compared import Compared, compared
from rdbench.report.means import FloatArray, mean_interval, mean_spread
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
    as which one is the best is seen only afterwards. The two methods' parts are taken as independent, though they are
    tested on the same images: that is cautious. Their seeds' variances are added, with Welch's degrees of freedom.
    Nothing is best in cost: times are measured once, and differences as small as the clock's noise would look like
    findings. Nor is a method that lacks the interval of a cell: how much the parts' chance does is not known there.
    """
    found = compared(ranking, condition, metrics, category)
    unsure = (~np.isnan(found.value) & np.isnan(found.low)).any(axis=(1, 2), keepdims=True)
    spread = mean_spread(np.where(unsure, np.nan, found.value), found.low, found.high)
    sign = np.array([_sign(describe(name)) for name in metrics])
    loss = spread.value * sign
    methods = (~np.isnan(loss)).sum(axis=0)
    level = 1 - (1 - LEVEL) / np.maximum(methods * (methods - 1) / 2, 1)
    first, columns = np.argmin(np.where(np.isnan(loss), np.inf, loss), axis=0), np.arange(len(metrics))
    least = loss[first, columns]
    below, above = np.where(sign > 0, (spread.below, spread.above), (spread.above, spread.below))
    variance = spread.variance + spread.variance[first, columns]
    with np.errstate(invalid="ignore", divide="ignore"):
        squares = spread.variance**2 / spread.freedom
        freedom = np.where(variance > 0, variance**2 / (squares + squares[first, columns]), 1.0)
        difference = replace(spread, variance=variance, freedom=freedom)
        best = np.isclose(loss, least, rtol=1e-12, atol=1e-12)  # equal as far as float64 can tell
        tied = (loss - least <= difference.reach(np.hypot(below, above[first, columns]), level)) & ~best
    return best, tied


def _sign(metric: Metric) -> float:
    """1 where less is better, -1 where more is, NaN where nothing is to be called best."""
    if metric.family == "cost" or metric.unit == "ratio":
        return float("nan")
    return {"higher": -1.0, "lower": 1.0, "none": float("nan")}[metric.direction]


def compared_by_lead(ranking: Ranking, condition: int) -> Compared:
    """What is compared in the lead figure, which all that follows is about."""
    return compared(ranking, condition, [LEAD])


def lead_replicates(lead: Compared, augrc: FloatArray | None) -> FloatArray:
    """(M, C, S, R) resamples over parts of the lead figure.

    Those of `augrc` (M, C, S, K, R), computed from predictions and drawn jointly, where a cell has them. Elsewhere
    normal draws with the width of the cell's interval: independent between methods, which is cautious, and the same
    for all seeds of a category, which share their test images. NaN where methods are not compared.
    """
    value, low, high = (array[..., 0] for array in (lead.value, lead.low, lead.high))
    methods, categories, _ = value.shape
    resamples = RESAMPLES if augrc is None else augrc.shape[-1]
    draws = np.random.default_rng(0).standard_normal((methods, categories, 1, resamples)) / norm.ppf(0.975)
    down, up = np.nan_to_num(value - low)[..., None], np.nan_to_num(high - value)[..., None]
    made = value[..., None] + np.where(draws < 0, draws * down, draws * up)
    if augrc is None:
        return np.asarray(made)
    kept = lead.kept[..., 0]
    total = np.zeros_like(made)
    for i, k in enumerate(lead.conditions):
        total += np.where(kept[..., i, None], augrc[:, :, :, k], 0.0)
    with np.errstate(invalid="ignore"):
        joint = total / kept.sum(axis=3)[..., None]
    return np.asarray(np.where(np.isnan(joint), made, joint))


def rank_methods(lead: Compared, replicates: FloatArray) -> dict[int, RankInterval]:
    """The rank of each method that takes part by the lead figure, with its 95 % interval over parts and seeds."""
    taking_part = _ranked(replicates)
    if len(taking_part) < 2:
        return {}
    shown = lead.value[..., 0]
    ranks = rank_intervals(
        {str(m): shown[m] for m in taking_part},
        higher_is_better=False,
        replicates={str(m): replicates[m] for m in taking_part},
    )
    return {int(name): rank for name, rank in ranks.items() if not np.isnan([rank.rank, rank.low]).any()}


def least_difference(lead: Compared, replicates: FloatArray) -> float:
    """Half the width of the 95 % interval of a difference to the best in the lead figure, the median over methods.

    Differences below it cannot be told from chance with these parts, drawn for both methods together, and seeds
    (`mean_interval`). NaN if there is no pair to compare.
    """
    taking_part = _ranked(replicates)
    if len(taking_part) < 2:
        return float("nan")
    value = lead.value[..., 0]
    shown = mean_spread(value, value, value).value
    best = min(taking_part, key=lambda m: float(np.nan_to_num(shown[m], nan=np.inf)))
    others = [m for m in taking_part if m != best]
    resampled = replicates[others] - replicates[best]
    difference = value[others] - value[best]
    intervals = percentile_intervals(resampled.reshape(-1, resampled.shape[-1]))
    low, high = (np.reshape([getattr(i, end) for i in intervals], difference.shape) for end in ("low", "high"))
    _, below, above = mean_interval(difference, low, high)
    widths = (above - below)[~np.isnan(above - below)]
    return float(np.median(widths) / 2) if len(widths) else float("nan")


def _ranked(replicates: FloatArray) -> list[int]:
    """The methods that take part and have the lead figure."""
    return [m for m in range(len(replicates)) if not np.isnan(replicates[m]).all()]


@dataclass(frozen=True)
class CriticalDifference:
    """Mean ranks over the cells (category, seed) and which methods a paired test cannot tell apart (Demsar 2006)."""

    methods: tuple[int, ...]
    """By mean rank, best first."""
    ranks: tuple[float, ...]
    groups: tuple[tuple[int, int], ...]
    """First and last place in `methods` of each group in which no two methods differ significantly."""
    cells: int


def critical_difference(lead: Compared, most: int = 12) -> CriticalDifference | None:
    """Mean ranks by the lead figure of at most the `most` best methods; None with fewer than two methods or cells.

    Pairs are told apart by Wilcoxon's signed-rank test over the cells that all have, with Holm's correction.
    """
    values = lead.value.reshape(len(lead.value), -1)
    methods = np.flatnonzero(~np.isnan(values).all(axis=1))
    values = values[methods]
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

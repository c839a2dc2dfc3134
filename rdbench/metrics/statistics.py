"""How sure a figure is: bootstrap over parts and seeds, Wilson's interval, paired tests, rank intervals.

Images of one part are not independent, so a resample draws whole parts. A resample is kept as integer
weights on the images, on which every metric ending in `_of` is computed for all resamples at once.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rdbench.metrics._checks import FloatArray, binary, groups, same_length

RESAMPLES = 1000
EXACT = 50
"""Up to so many pairs that differ, the signed-rank test is exact."""
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """Both ends of an interval. `undefined` resamples, in which the figure does not exist, are left out."""

    low: float
    high: float
    undefined: int = 0


@dataclass(frozen=True)
class PairedTest:
    """A Wilcoxon signed-rank test of first against second over pairs.

    pairs: pairs that were compared; left_out: pairs with a `nan`
    difference: mean of first - second
    effect: matched-pairs rank-biserial correlation in [-1, 1], positive if first is larger (Kerby 2014)
    p_value: two-sided; p_holm: the same after Holm's correction for the tests made together
    """

    pairs: int
    left_out: int
    difference: float
    effect: float
    p_value: float
    p_holm: float


@dataclass(frozen=True)
class RankInterval:
    """A rank, 1 = best, and the interval it has over resamples; equal means share their mean rank."""

    rank: float
    low: float
    high: float


def part_weights(
    parts: ArrayLike, resamples: int = RESAMPLES, seed: int = 0, strata: ArrayLike | None = None
) -> NDArray[np.int64]:
    """(R, n) how often each image is drawn when as many parts as there are are drawn with replacement.

    parts: (n,) identifiers; strata: (n,) identifiers, e.g. the category, within which parts are drawn.
    Cells that share test images and seed share their draws, row by row.
    """
    part = groups("parts", parts)
    stratum = np.zeros(len(part), dtype=np.int64) if strata is None else groups("strata", strata)
    same_length(parts=part, strata=stratum)
    rng = np.random.default_rng(seed)
    weights = np.empty((resamples, len(part)), dtype=np.int64)
    for s in range(int(stratum.max()) + 1):
        inside = stratum == s
        members = groups("parts", part[inside])
        count = int(members.max()) + 1
        weights[:, inside] = rng.multinomial(count, np.full(count, 1 / count), size=resamples)[:, members]
    return weights


def percentile_intervals(values: FloatArray, level: float = LEVEL) -> list[Interval]:
    """The central `level` of each row of values (K, R), R resamples; those that are `nan` are left out and counted."""
    missing = np.isnan(values).sum(axis=1)
    ends = np.full((len(values), 2), np.nan)
    at = [(1 - level) / 2, (1 + level) / 2]
    if values.shape[1]:
        ends[missing == 0] = np.quantile(values[missing == 0], at, axis=1).T
    for row in np.flatnonzero((missing > 0) & (missing < values.shape[1])):
        ends[row] = np.quantile(values[row][~np.isnan(values[row])], at)
    found = zip(*ends.T.tolist(), missing.tolist(), strict=True)
    return [Interval(low, high, left_out) for low, high, left_out in found]


def wilson_interval(successes: float, trials: float, level: float = LEVEL) -> Interval:
    """Wilson's (1927) interval of a proportion; `trials` may be an effective number. `nan` without trials."""
    if not 0 <= successes <= trials:
        raise ValueError(f"successes: {successes} is outside [0, {trials}]")
    if trials == 0:
        return Interval(math.nan, math.nan)
    from statistics import NormalDist

    z, p = NormalDist().inv_cdf((1 + level) / 2), successes / trials
    centre = p + z * z / (2 * trials)
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials**2))
    scale = 1 + z * z / trials
    return Interval(max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale))


def proportion_interval(outcomes: ArrayLike, parts: ArrayLike, level: float = LEVEL) -> Interval:
    """Wilson's interval of the mean of outcomes (n,) of 0 and 1 over the effective number of trials.

    That number is p(1 - p) over the variance of the mean between parts (Kish's design effect), kept
    between the parts and the images; at 0 or 1, where no variance can be seen, it is the parts.
    """
    x, part = binary("outcomes", outcomes), groups("parts", parts)
    same_length(outcomes=x, parts=part)
    n, size = len(x), np.bincount(part)
    p = float(x.mean())
    effective = float(len(size))
    if 0 < p < 1 and len(size) > 1:
        deviations = np.bincount(part, x) - size * p
        variance = float(deviations @ deviations) * len(size) / (len(size) - 1) / n**2
        effective = min(max(effective, p * (1 - p) / variance), n) if variance > 0 else float(n)
    return wilson_interval(p * effective, effective, level)


def differences(first: FloatArray, second: FloatArray) -> FloatArray:
    """first - second, rounded where float64 ends: 0.3 - 0.2 and 0.2 - 0.1 are equal, and 0.3 - (0.1 + 0.2) is 0."""
    largest = np.nanmax(np.abs([first, second]), initial=0.0)
    return np.asarray(np.round((first - second) / largest, 12) * largest if largest else first - second)


def paired_test(first: ArrayLike, second: ArrayLike) -> PairedTest:
    """Wilcoxon's signed-rank test over pairs, e.g. one per (category, seed); both (n,).

    Pairs with a `nan` are left out and counted; equal pairs are dropped, as Wilcoxon (1945) does.
    """
    return paired_tests(first, {"second": second})["second"]


def paired_tests(reference: ArrayLike, others: Mapping[str, ArrayLike]) -> dict[str, PairedTest]:
    """The reference against each of the others, with Holm's correction over all of them."""
    tests = {name: _wilcoxon(np.asarray(reference, float), np.asarray(o, float)) for name, o in others.items()}
    adjusted = holm([test.p_value for test in tests.values()])
    return {
        name: PairedTest(t.pairs, t.left_out, t.difference, t.effect, t.p_value, float(p))
        for (name, t), p in zip(tests.items(), adjusted, strict=True)
    }


def holm(p_values: ArrayLike) -> FloatArray:
    """P-values adjusted by Holm's (1979) step-down; those that are `nan` do not count as tests."""
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]  # nan sorts last
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def rank_intervals(
    values: Mapping[str, ArrayLike],
    *,
    higher_is_better: bool,
    replicates: Mapping[str, ArrayLike] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, RankInterval]:
    """The rank of each method by its mean over categories and seeds, and the interval of that rank.

    values: per method (C, S). replicates: of each method (C, S, R) resamples of them over parts, whose r-th go
    together. Each resample draws the same seeds within each category for all methods; the categories stand as they
    are, being the benchmark itself. A cell that is `nan` for one method is left out for all. S draws of S seeds spread
    less than S new seeds would and know no tails: they are moved away from their mean by as much as Student's t is
    wider than that, as in an interval of a mean. A category with one seed takes the deviations of others.
    """
    cells, drawn = (
        np.stack([_cells(name, given[name]) for name in values]) for given in (values, replicates or values)
    )
    cells = np.where(np.isnan(cells).any(axis=0), np.nan, cells)
    drawn = np.where(np.isnan(cells) | np.isnan(drawn).any(axis=0), np.nan, drawn)
    sign = -1.0 if higher_is_better else 1.0
    if replicates is not None:
        resamples = drawn.shape[3]
    means = _resampled_means(drawn, resamples, np.random.default_rng(seed))
    plain = _ranks(sign * _mean(_mean(cells[..., 0]))[:, None])[:, 0]
    ranks = _ranks(sign * means)
    intervals = percentile_intervals(ranks, level)
    return {
        name: RankInterval(float(rank), i.low, i.high) for name, rank, i in zip(values, plain, intervals, strict=True)
    }


def _cells(name: str, values: ArrayLike) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.size == 0:
        raise ValueError(f"{name}: (categories, seeds) or (categories, seeds, resamples) expected, got {array.shape}")
    if np.isinf(array).any():
        raise ValueError(f"{name}: infinite values")
    return array


def seed_weights(seeds: NDArray[np.integer]) -> FloatArray:
    """What each category's variance over seeds counts in the variance of the sum of the categories' means.

    seeds: how many each category has, categories along axis 1. It counts one over that; and, as a category with one
    seed takes the variance of the others, pooled by their degrees of freedom, its share of these once for each such.
    """
    freedom = np.maximum(seeds - 1, 0)
    alone = (seeds == 1).sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = 1 / seeds + alone * freedom / freedom.sum(axis=1, keepdims=True)
    return np.where(freedom > 0, weights, 0.0)


def _resampled_means(cells: FloatArray, resamples: int, rng: np.random.Generator) -> FloatArray:
    """(M, resamples) mean over categories of the mean over seeds, of cells (M, C, S, 1 or resamples)."""
    every = (np.flatnonzero(~np.isnan(cells[:, c]).all(axis=(0, 2))) for c in range(cells.shape[1]))
    present = {c: seeds for c, seeds in enumerate(every) if len(seeds)}  # what has no figure cannot be drawn
    replicate = np.arange(resamples) % cells.shape[3]
    centre = {c: _mean(cells[:, c, seeds].transpose(0, 2, 1))[:, replicate] for c, seeds in present.items()}
    several = [c for c, seeds in present.items() if len(seeds) > 1]
    freedom = np.array([len(present[c]) - 1 for c in several])
    wider = _student(cells, present, several)
    means = np.empty((len(cells), resamples, len(present)))
    for i, (c, seeds) in enumerate(present.items()):
        deviation = np.zeros((len(cells), resamples))
        if len(seeds) > 1:
            drawn = rng.choice(seeds, size=(resamples, len(seeds)))
            deviation = (_mean(cells[:, c, drawn, replicate[:, None]]) - centre[c]) * _unbiased(len(seeds))
        elif several:
            lender = rng.choice(len(several), size=resamples, p=freedom / freedom.sum())
            for at, other in enumerate(several):
                mine = np.flatnonzero(lender == at)
                one = rng.choice(present[other], size=len(mine))
                off = cells[:, other, one, replicate[mine]] - centre[other][:, mine]
                deviation[:, mine] = off * _unbiased(len(present[other]))
        means[:, :, i] = centre[c] + deviation * wider
    return _mean(means)


def _unbiased(seeds: int) -> float:
    """Draws of some seeds out of as many spread less than new seeds would, by one over this."""
    return math.sqrt(seeds / (seeds - 1))


def _student(cells: FloatArray, present: Mapping[int, NDArray[np.intp]], several: Sequence[int]) -> float:
    """Student's t over the normal quantile, with Welch's degrees of freedom of the differences between methods."""
    from scipy.special import ndtri, stdtrit

    if not several:
        return 1.0
    figures = _mean(cells)
    figures = figures - _mean(figures.transpose(1, 2, 0))  # what all methods share moves no rank
    counts = np.array([len(seeds) for seeds in present.values()])
    weights = dict(zip(present, seed_weights(counts[None])[0].tolist(), strict=True))
    shares = np.array([weights[c] * figures[:, c, present[c]].var(axis=1, ddof=1).sum() for c in several])
    freedom = np.array([len(present[c]) - 1 for c in several])
    welch = shares.sum() ** 2 / (shares**2 / freedom).sum() if shares.any() else freedom.sum()
    return float(stdtrit(welch, 0.975) / ndtri(0.975))


def _mean(values: FloatArray) -> FloatArray:
    """Mean over the last axis of what is not `nan`; `nan` where nothing is left."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=-1)
    total = np.where(defined, values, 0).sum(axis=-1)
    undefined = np.full(total.shape, np.nan)
    return np.asarray(np.divide(total, count, out=undefined, where=count > 0))


def _ranks(means: FloatArray) -> FloatArray:
    """(M, R) rank of each method in each column, smallest first, ties sharing their mean rank."""
    below = (means[None] < means[:, None]).sum(axis=1)
    equal = (means[None] == means[:, None]).sum(axis=1)
    return np.where(np.isnan(means), np.nan, below + (equal + 1) / 2)


def _wilcoxon(first: FloatArray, second: FloatArray) -> PairedTest:
    same_length(first=first, second=second)
    if first.ndim != 1 or not len(first):
        raise ValueError(f"first: one non-empty dimension expected, got shape {first.shape}")
    if np.isinf(first).any() or np.isinf(second).any():
        raise ValueError("first, second: infinite values")
    gap = differences(first, second)
    gap = gap[~np.isnan(gap)]
    moved = gap[gap != 0]
    left_out = len(first) - len(gap)
    if not len(gap):
        return PairedTest(0, left_out, math.nan, math.nan, math.nan, math.nan)
    if not len(moved):
        return PairedTest(len(gap), left_out, 0.0, 0.0, 1.0, 1.0)
    from scipy.stats import rankdata, wilcoxon

    ranks = rankdata(np.abs(moved))
    p = _exact_p(moved, ranks) if len(moved) <= EXACT else float(wilcoxon(moved, method="asymptotic").pvalue)
    return PairedTest(len(gap), left_out, float(gap.mean()), float((np.sign(moved) * ranks).sum() / ranks.sum()), p, p)


def _exact_p(moved: FloatArray, ranks: FloatArray) -> float:
    """Two-sided p-value of the rank sum over all 2^n signs, tied ranks included.

    SciPy's exact distribution knows no ties, and its normal approximation is too sure of itself with few pairs.
    """
    steps = (2 * ranks).astype(np.int64)  # mean ranks of ties are whole or half
    chance = np.zeros(steps.sum() + 1)  # of each rank sum
    chance[0] = 1.0
    for step in steps:
        lost = chance / 2
        chance = lost.copy()
        chance[step:] += lost[:-step]
    won = int(steps[moved > 0].sum())
    return float(min(1.0, 2 * min(chance[: won + 1].sum(), chance[won:].sum())))

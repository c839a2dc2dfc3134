"""How often intervals, ranks and ties are right where the truth is known: the simulated figures of docs/.

    python -m tests.figures.chance                # a minute
    python -m tests.figures.chance --trials 50    # to try it

Every simulated cell is normal: its category's spread over seeds around a truth, no chance of parts. In brackets the
standard error of each share.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from rdbench.metrics.statistics import LEVEL, rank_intervals
from rdbench.report.means import FloatArray, mean_interval
from rdbench.report.rankings import Ranking, make_rankings
from rdbench.report.standings import best_and_tied
from tests.made_up import make_cell

EQUAL = {  # spreads of the categories, and their seeds
    "1 category, 2 seeds": ([1], [2]),
    "1 category, 3 seeds": ([1], [3]),
    "1 category, 5 seeds": ([1], [5]),
    "5 categories, 3 seeds": ([1] * 5, [3] * 5),
    "5 categories, 3 seeds, one 10 times as noisy": ([10, 1, 1, 1, 1], [3] * 5),
    "15 categories, 2 seeds": ([1] * 15, [2] * 15),
    "15 categories, 3 seeds": ([1] * 15, [3] * 15),
    "15 categories, 3 seeds, one 10 times as noisy": ([10] + [1] * 14, [3] * 15),
    "5 categories, 3 seeds in one, 1 in the others": ([1] * 5, [3, 1, 1, 1, 1]),
    "2 categories, 2 seeds and 1": ([1, 1], [2, 1]),
}
METHODS, SEEDS = 22, 3
"""Of the tables in which one method is to be found."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print each share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    trials = parser.parse_args(arguments).trials
    print("95 % intervals of a mean that hold it; the same with one variance for all categories")
    for name, (spreads, seeds) in EQUAL.items():
        values = drawn(np.random.default_rng(0), 20 * trials, spreads, seeds)
        own, pooled = (holds(values, interval) for interval in (by_category, one_for_all))
        print(f"  {name:48} {said(own)}  {said(pooled)}", flush=True)
    print("of two equal methods, one has the rank 1 for certain")
    for name, (spreads, seeds) in EQUAL.items():
        rng = np.random.default_rng(0)
        sure = np.array([certain(drawn(rng, 2, spreads, seeds)) for _ in range(trials)])
        print(f"  {name:48} {said(sure)}", flush=True)
    print(f"of {METHODS} methods, {SEEDS} seeds of one category, one that is worse is not tied with the best")
    for off in (0, 4, 8, 12, 20, 40):
        print(f"  by {off:2} standard errors of a mean over seeds {said(found_worse(off, trials))}", flush=True)


def drawn(rng: np.random.Generator, methods: int, spreads: Sequence[float], seeds: Sequence[int]) -> FloatArray:
    """(M, C, S) figures of methods whose truth is 0, NaN where a category has fewer seeds."""
    values: FloatArray = rng.normal(size=(methods, len(spreads), max(seeds))) * np.array(spreads)[:, None]
    values[:, np.arange(max(seeds)) >= np.array(seeds)[:, None]] = np.nan
    return values


def holds(values: FloatArray, interval: Callable[[FloatArray], tuple[FloatArray, FloatArray]]) -> NDArray[np.bool_]:
    """(M,) whether each method's interval holds its truth."""
    low, high = interval(values)
    return (low <= 0) & (high >= 0)


def by_category(values: FloatArray, level: float = LEVEL) -> tuple[FloatArray, FloatArray]:
    """rdbench's: each category has a variance of its own, the degrees of freedom are Welch's."""
    nothing = np.full_like(values, np.nan)
    _, low, high = mean_interval(values, nothing, nothing, level)
    return low, high


def one_for_all(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """One variance for all categories, with the degrees of freedom of all."""
    count = (~np.isnan(values)).sum(axis=2)
    means = np.nanmean(values, axis=2)
    freedom = (count - 1).sum(axis=1)
    variance = np.nansum((values - means[..., None]) ** 2, axis=(1, 2)) / freedom
    error = np.sqrt(variance * (1 / count).sum(axis=1)) / values.shape[1]
    reach = student.ppf(0.975, freedom) * error
    return means.mean(axis=1) - reach, means.mean(axis=1) + reach


def certain(values: FloatArray) -> bool:
    """Whether one of two methods is placed first by its whole interval."""
    ranks = rank_intervals({"a": values[0], "b": values[1]}, higher_is_better=False)
    return any(rank.high == 1 for rank in ranks.values())


def found_worse(off: float, trials: int) -> NDArray[np.bool_]:
    """Whether the one method that is `off` standard errors worse than its equals is told from the best."""
    cells = [make_cell(f"m{m:02}", "a", seed) for m in range(METHODS) for seed in range(SEEDS)]
    [ranking] = make_rankings(cells)
    rng = np.random.default_rng(0)
    return np.array([not tied_or_best(ranking, off, rng) for _ in range(trials)])


def tied_or_best(ranking: Ranking, off: float, rng: np.random.Generator) -> bool:
    """Whether the last method of a table drawn anew is."""
    f = ranking.metrics.index("augrc")
    value = ranking.value.copy()
    value[..., f] = 0.3 + 0.001 * rng.normal(size=value.shape[:-1])
    value[-1, ..., f] += 0.001 * off / np.sqrt(SEEDS)
    again = replace(ranking, value=value, low=value, high=value)
    best, tied = best_and_tied(again, 0, ["augrc"])
    return bool(best[-1, 0] or tied[-1, 0])


def said(outcomes: NDArray[np.bool_]) -> str:
    """Of 100 cases, with the standard error."""
    share = outcomes.mean()
    return f"{100 * share:5.1f} ({100 * np.sqrt(share * (1 - share) / len(outcomes)):.1f})"


if __name__ == "__main__":
    main()

"""Two or more methods side by side: paired tests and effect sizes over the cells that they have in common."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from scipy.stats import quantile_test

from rdbench.errors import InputError, unknown
from rdbench.metrics.statistics import LEVEL, differences, holm, paired_test
from rdbench.report.columns import DASH, describe, title, written
from rdbench.report.entries import Source
from rdbench.report.mean_shifts import with_mean_shifts
from rdbench.report.means import FloatArray
from rdbench.report.rankings import Ranking, make_rankings
from rdbench.report.reread import pick_conditions, pick_methods

METRICS = (
    "image_auroc", "aupro_30", "fpr", "fnr", "augrc", "aurc", "failure_auroc", "errors_caught_10", "ece",
    "false_alarm_gap",
)  # fmt: skip
LEAST = 6
"""Pairs that differ; with fewer, Wilcoxon's two-sided p-value cannot fall to 0.05."""
SIGNIFICANT = 0.05
Unit = tuple[str, str, int]
"""What is paired: the kind of results (a ranking's title), category and seed."""


@dataclass(frozen=True)
class Comparison:
    """The reference against one other method in one metric under one condition.

    Differences are reference - other, turned so that above 0 the reference is better.
    """

    condition: str
    metric: str
    reference: str
    other: str
    units: tuple[Unit, ...]
    differences: FloatArray
    """(pairs,), by unit."""
    left_out: int
    """Common cells in which one of the two lacks the figure."""
    reason: str
    """Why it lacks, if that is known."""
    mean_reference: float
    mean_other: float
    """Means over the pairs."""
    median: float
    low: float
    high: float
    """Interval of the median, NaN with fewer than six pairs."""
    effect: float
    """Matched-pairs rank-biserial correlation, above 0 if the reference is better."""
    p_value: float
    p_holm: float

    @property
    def won_tied_lost(self) -> tuple[int, int, int]:
        """Pairs in which the reference is better, equal and worse."""
        d = self.differences
        return int((d > 0).sum()), int((d == 0).sum()), int((d < 0).sum())

    @property
    def verdict(self) -> str:
        """What the test says, in words."""
        won, tied, lost = self.won_tied_lost
        if not len(self.differences):
            return f"no pair: {self.reason or 'no common cell has the figure'}"
        if not won + lost:
            return f"equal in {'the only pair' if tied == 1 else f'all {tied} pairs'}"
        if won + lost < LEAST:
            return f"too few pairs: {won + lost} differ, {LEAST} are needed"
        if self.p_holm <= SIGNIFICANT:
            return f"{self.reference if self.effect > 0 else self.other} is better"
        return "no difference shown"

    def record(self) -> dict[str, Any]:
        """The comparison as a row of numbers and words."""
        won, tied, lost = self.won_tied_lost
        return {
            "condition": self.condition, "metric": self.metric, "direction": describe(self.metric).direction,
            "reference": self.reference, "other": self.other, "pairs": len(self.differences),
            "left_out": self.left_out, "won": won, "tied": tied, "lost": lost, "mean_reference": self.mean_reference,
            "mean_other": self.mean_other, "median_advantage": self.median, "low": self.low, "high": self.high,
            "effect": self.effect, "p_value": self.p_value, "p_holm": self.p_holm, "verdict": self.verdict,
        }  # fmt: skip


@dataclass(frozen=True)
class Comparisons:
    """Every comparison asked for."""

    found: tuple[Comparison, ...]
    """By condition, metric and method."""
    without_partner: dict[str, tuple[Unit, ...]]
    """Cells that have no cell of the other method to be compared with, by what is lacking."""
    pooled: tuple[str, ...]
    """The kinds of results from which the pairs come."""

    @property
    def words(self) -> list[str]:
        """What there is to say beside the figures."""
        words = [f"{what}: {', '.join(map(unit_name, units))}" for what, units in self.without_partner.items()]
        return words + ([f"pairs come from {'; '.join(self.pooled)}"] if len(self.pooled) > 1 else [])

    @property
    def rows(self) -> pd.DataFrame:
        """One row per comparison, see `Comparison.record`."""
        return pd.DataFrame([comparison.record() for comparison in self.found])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for condition in dict.fromkeys(c.condition for c in self.found):
            yield _table([c for c in self.found if c.condition == condition])


def unit_name(unit: Unit) -> str:
    """A unit in words."""
    ranking, category, seed = unit
    return f"{ranking.split(' · ')[0]}/{category} seed {seed}"


def compare_methods(
    sources: Sequence[Source], methods: Sequence[str], metrics: Sequence[str] = (), conditions: Sequence[str] = ()
) -> Comparisons:
    """The first method against each of the others, by their labels, in every metric and under every condition.

    Wilcoxon's signed-rank test over the common cells (dataset, category, seed), with Holm's correction over the methods
    compared in one metric under one condition. Conditions of one cell share its training and its test parts, so they
    are no pairs of their own; a mean over shifts is one figure of the cell.

    Raises InputError for unknown or repeated names, a metric without a direction, or methods without a common cell.
    """
    if len(set(methods)) < 2 or len(set(methods)) < len(methods):
        raise InputError(f"compare {' '.join(methods)}: two or more different methods are wanted")
    rankings = [with_mean_shifts(ranking) for ranking in make_rankings(sources)]
    reference, *others = pick_methods(rankings, methods)
    under = pick_conditions(rankings, conditions)
    known = [name for name in dict.fromkeys(n for r in rankings for n in r.metrics) if _sign(name)]
    for name in metrics:
        if name not in known:
            raise unknown("metric that has a better and a worse", name, known)
    cells = {name: _cells(rankings, name) for name in methods}
    alone: dict[str, tuple[Unit, ...]] = {}
    for other in others:
        if not cells[reference].keys() & cells[other].keys():
            raise InputError(f"{reference} and {other} have no cell (dataset, category, seed) in common")
        for one, two in ((reference, other), (other, reference)):
            if lacking := tuple(sorted(cells[one].keys() - cells[two].keys())):
                alone[f"cells of {one} without {two}, left out"] = lacking
    found = [
        comparison
        for condition in under
        for metric in metrics or [name for name in METRICS if name in known]
        for comparison in _compare(rankings, cells, reference, others, metric, condition)
    ]
    pooled = dict.fromkeys(unit[0] for c in found for unit in c.units)
    return Comparisons(tuple(found), alone, tuple(pooled))


def _sign(metric: str) -> float:
    return {"higher": 1.0, "lower": -1.0, "none": 0.0}[describe(metric).direction]


def _cells(rankings: Sequence[Ranking], method: str) -> dict[Unit, tuple[int, tuple[int, int, int]]]:
    """Where the method's cells are: index of the ranking and place in it, by unit."""
    titles = [ranking.title for ranking in rankings]
    kinds = [name if titles.count(name) == 1 else f"{name} ({r + 1})" for r, name in enumerate(titles)]
    return {
        (kinds[r], ranking.categories[place[1]], ranking.seeds[place[2]]): (r, place)
        for r, ranking in enumerate(rankings)
        for place in sorted(ranking.cells)
        if ranking.methods[place[0]] == method
    }


def _compare(
    rankings: Sequence[Ranking],
    cells: dict[str, dict[Unit, tuple[int, tuple[int, int, int]]]],
    reference: str,
    others: Sequence[str],
    metric: str,
    condition: str,
) -> Iterator[Comparison]:
    why: list[str] = []

    def figures(method: str, unit: Unit) -> FloatArray:
        """Under the condition, or under each that it is a mean over."""
        r, place = cells[method][unit]
        ranking = rankings[r]
        if metric not in ranking.metrics or condition not in ranking.conditions:
            return np.full(1, math.nan)
        k, f = ranking.conditions.index(condition), ranking.metrics.index(metric)
        if note := ranking.notes.get((*place, k, f)):
            why.append(note)
        return ranking.value[(*place, list(ranking.pooled.get(k, (k,))), f)]

    def pair(unit: Unit, other: str) -> tuple[float, float]:
        """Means over the conditions in which both have the figure."""
        one, two = figures(reference, unit), figures(other, unit)
        both = ~np.isnan(one - two)
        return (float(one[both].mean()), float(two[both].mean())) if both.any() else (math.nan, math.nan)

    sign, tests = _sign(metric), {}
    pairs = {other: {u: pair(u, other) for u in sorted(cells[reference]) if u in cells[other]} for other in others}
    for other, found in pairs.items():
        first, second = np.array(list(found.values())).T
        tests[other] = first, second, paired_test(sign * first, sign * second)
    adjusted = holm([test.p_value for _, _, test in tests.values()]).tolist()
    for (other, (first, second, test)), p_holm in zip(tests.items(), adjusted, strict=True):
        there = ~np.isnan(first - second)
        gap = sign * differences(first, second)[there]
        low, high = median_interval(gap)
        yield Comparison(
            condition, metric, reference, other,
            units=tuple(unit for unit, ok in zip(pairs[other], there.tolist(), strict=True) if ok),
            differences=gap,
            left_out=test.left_out,
            reason=why[0] if len(set(why)) == 1 else "",
            mean_reference=float(first[there].mean()) if len(gap) else math.nan,
            mean_other=float(second[there].mean()) if len(gap) else math.nan,
            median=float(np.median(gap)) if len(gap) else math.nan,
            low=low, high=high, effect=test.effect, p_value=test.p_value, p_holm=p_holm,
        )  # fmt: skip


def median_interval(values: FloatArray) -> tuple[float, float]:
    """The 95 % interval of the median (n,) between two of the values (Conover 1999, section 3.2); NaN below n = 6."""
    if len(values) < LEAST:
        return math.nan, math.nan
    interval = quantile_test(values, p=0.5).confidence_interval(LEVEL)
    return float(interval.low), float(interval.high)


def _table(comparisons: Sequence[Comparison]) -> Table:
    first = comparisons[0]
    interval = "and its 95 % interval"
    if any(math.isnan(c.low) for c in comparisons):
        interval += f", which takes {LEAST} pairs and is not there with fewer"
    table = Table(
        title=escape(f"{first.reference} against {', '.join(dict.fromkeys(c.other for c in comparisons))} · "
                     f"{first.condition}"),
        title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False,
        caption=escape(
            f"The first two columns: means over pairs (dataset, category, seed). Advantage: median of the differences, "
            f"above 0 where {first.reference} is better, {interval}. Effect: matched-pairs rank-biserial correlation. "
            f"p: Wilcoxon's signed rank, Holm's correction over the methods compared, not over metrics. Seeds of one "
            f"category share its test images: p is about these images, not about others."
        ),
        caption_justify="left", caption_style="dim",
    )  # fmt: skip
    for name, justify in (
        ("Metric", "left"), (first.reference, "right"), ("Other", "right"), ("Advantage", "right"),
        ("Won\u2013tied\u2013lost", "right"), ("Effect", "right"), ("p (Holm)", "right"), ("In words", "left"),
    ):  # fmt: skip
        table.add_column(escape(name), justify=justify, overflow="fold")  # type: ignore[arg-type]
    for other in dict.fromkeys(c.other for c in comparisons):
        table.add_row(Text(f"against {other}", style="bold"))
        for c in (c for c in comparisons if c.other == other):
            table.add_row(*map(Text, _cells_of_row(c)))
        table.add_section()
    return table


def _cells_of_row(c: Comparison) -> tuple[str, ...]:
    nothing = not len(c.differences)
    advantage = DASH if nothing else with_sign(c.metric, c.median)
    if not math.isnan(c.low):
        advantage += f" ({with_sign(c.metric, c.low)} to {with_sign(c.metric, c.high)})"
    words = c.verdict + (f"; {c.left_out} left out{': ' + c.reason if c.reason else ''}" if c.left_out else "")
    return (
        title(c.metric),
        written(c.metric, c.mean_reference),
        written(c.metric, c.mean_other),
        advantage,
        DASH if nothing else DASH.join(map(str, c.won_tied_lost)),
        DASH if nothing else f"{c.effect:+.2f}",
        DASH if nothing else written_p(c.p_holm),
        words,
    )


def with_sign(metric: str, difference: float) -> str:
    """A difference in the metric's unit, with its sign."""
    text = written(metric, abs(difference))
    return text if float(f"{difference:.3g}") == 0 else f"{'+' if difference > 0 else '-'}{text}"


def written_p(p: float) -> str:
    """A p-value as people read it."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"

"""Stored predictions read again, in other versions: by other readouts of the members, or with fewer of them.

A version of a cell is measured by the same code as the cell itself, and averaged as the leaderboard averages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from rdbench.benchmark.evaluate import View
from rdbench.benchmark.results import CLEAN, CellResult, Predictions
from rdbench.errors import InputError, unknown
from rdbench.metrics.cell import cell_metrics, check_sample
from rdbench.report.entries import Source
from rdbench.report.mean_shifts import with_mean_shifts
from rdbench.report.means import FloatArray
from rdbench.report.rankings import Ranking, make_rankings

Version = tuple[str, Mapping[str, View], float]
"""Name, views by condition, threshold."""

EVERY = "all"
PLACE = ("dataset", "custom", "backbone", "weights", "width", "height", "alpha")
"""Columns that say what the results of a ranking have in common."""
Row = dict[str, object]


@dataclass(frozen=True)
class Reread:
    """What stored predictions say when they are read again."""

    rows: pd.DataFrame
    """`PLACE`, then columns of their own."""
    tables: tuple[tuple[str, pd.DataFrame], ...]
    """The same rows in parts, each with its heading."""
    words: list[str]
    """Which methods are left out, and why."""
    draw: Callable[[str, pd.DataFrame], Table]
    """A heading and its rows, for a terminal."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for heading, rows in self.tables:
            yield self.draw(heading, rows)


def reread(
    sources: Sequence[Source],
    methods: Sequence[str],
    conditions: Sequence[str],
    columns: Sequence[str],
    why_not: Callable[[list[Source]], str],
    read: Callable[[Ranking, list[int], Sequence[str]], Iterable[tuple[str, list[Row]]]],
    draw: Callable[[str, pd.DataFrame], Table],
) -> Reread:
    """Read the cells of `methods` (all if none is given) again, under `conditions`.

    `why_not` says why a method's cells are left out, else nothing; `read` gives the parts, each by its heading, of a
    ranking, methods in it and conditions. Raises InputError for an unknown name, or predictions that cannot be used.
    """
    rankings = make_rankings(sources)
    chosen, under = pick_methods(rankings, methods), pick_conditions(rankings, conditions)
    tables: list[tuple[str, pd.DataFrame]] = []
    left_out: dict[str, str] = {}
    for ranking in rankings:
        why = {m: why_not(ranking.cells_of(m)) for m, name in enumerate(ranking.methods) if name in chosen}
        left_out |= {ranking.methods[m]: reason for m, reason in why.items() if reason}
        for heading, rows in read(ranking, [m for m, reason in why.items() if not reason], under):
            if rows:
                table = pd.DataFrame([place_columns(ranking) | row for row in rows], columns=list(columns))
                tables.append((f"{ranking.title} \N{MIDDLE DOT} {heading}", table))
    every = pd.concat([table for _, table in tables]) if tables else pd.DataFrame(columns=list(columns))
    return Reread(every, tuple(tables), [f"left out: {name}, {why}" for name, why in left_out.items()], draw)


def measure(
    ranking: Ranking,
    versions: Callable[[CellResult, Predictions], Iterable[Version]],
    metrics: Sequence[str],
    methods: Iterable[int],
    conditions: Sequence[str],
) -> dict[str, Ranking]:
    """The ranking with the figures `metrics` of each version of its methods' cells, by the versions' names.

    Under `conditions`, which may be means over shifts, and others as it comes. A method has no figures (NaN) in a
    version that it does not have; cells have no intervals of their own. Raises InputError if stored predictions cannot
    be used.
    """
    over_shifts = not set(conditions) <= set(ranking.conditions)
    wanted = [
        (k, name) for k, name in enumerate(ranking.conditions) if name in conditions or (over_shifts and ":" in name)
    ]
    shape = (*ranking.value.shape[:4], len(metrics))
    value: dict[str, FloatArray] = {}
    for m in methods:
        for place, source in ranking.cells.items():
            if place[0] != m:
                continue
            try:
                for name, by_condition, threshold in versions(source.result, predictions_of(source)):
                    figures = value.setdefault(name, np.full(shape, np.nan))
                    for k, condition in wanted:
                        if condition in by_condition:
                            view = by_condition[condition]
                            sample = check_sample(view.labels, view.scores, view.uncertainties, threshold)
                            found = cell_metrics(sample)
                            figures[(*place, k)] = [found[metric] for metric in metrics]
            except ValueError as error:
                raise InputError(f"{source.origin}: {error}") from error
    none = np.full(shape, np.nan)
    return {
        name: with_mean_shifts(replace(ranking, metrics=tuple(metrics), value=array, low=none, high=none, notes={}))
        for name, array in value.items()
    }


def predictions_of(source: Source) -> Predictions:
    """The cell's stored predictions. Raises InputError if they are not at hand or cannot be used."""
    if source.predictions is None:
        raise InputError(f"{source.origin}: its predictions are not stored")
    try:
        return source.predictions()
    except ValueError as error:
        raise InputError(f"{source.origin}: {error}; remove it to run it again") from error


def pick_methods(rankings: Sequence[Ranking], wanted: Sequence[str]) -> tuple[str, ...]:
    """The wanted method labels, all if none is given. Raises InputError for one that no ranking has."""
    known = list(dict.fromkeys(name for ranking in rankings for name in ranking.methods))
    return _pick("method", known, wanted) or tuple(known)


def pick_conditions(rankings: Sequence[Ranking], wanted: Sequence[str]) -> tuple[str, ...]:
    """The wanted conditions, clean if none is given, every one for "all". Raises InputError for an unknown one."""
    known = list(dict.fromkeys(name for ranking in rankings for name in with_mean_shifts(ranking).conditions))
    return tuple(known) if EVERY in wanted else _pick("condition", known, wanted) or (CLEAN,)


def measured(ranking: Ranking, conditions: Sequence[str]) -> list[int]:
    """Those of the conditions under which the ranking has a cell; a mean over shifts needs one with all of them."""
    there = [ranking.conditions.index(name) for name in conditions if name in ranking.conditions]
    return [k for k in there if ranking.rows(k)]


def nothing_under(conditions: Sequence[str]) -> InputError:
    """That no ranking has a cell under any of them."""
    return InputError(
        f"no cell was measured under {', '.join(conditions)}; a mean over shifts is that of cells with all of them"
    )


def _pick(kind: str, known: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    for name in wanted:
        if name not in known:
            raise unknown(kind, name, known)
    return tuple(dict.fromkeys(wanted))


def place_columns(ranking: Ranking) -> Row:
    """`PLACE` of a ranking."""
    spec = ranking.spec
    height, width = spec.image_size
    values = (spec.dataset, ranking.custom, spec.backbone, spec.weights, width, height, ranking.alpha)
    return dict(zip(PLACE, values, strict=True))

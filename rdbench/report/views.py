"""A ranking as rows of written figures: what the page's tables show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rdbench.metrics.catalog import CONTROLS
from rdbench.report.columns import UNDEFINED, written, written_interval
from rdbench.report.rankings import FloatArray, Ranking

COLUMNS = (
    "failures", "image_auroc", "image_auroc_shifted", "aupro_30", "augrc", "augrc_saved", "aurc", "e_aurc",
    "failure_auroc", "errors_caught_10", "ece", "false_alarm_gap", "train_ratio", "inference_ratio", "memory_ratio",
)  # fmt: skip
CONTROL_NAMES = {"random": "chance", "margin": "threshold margin", "oracle": "oracle"}
TRACK = 100
"""Width of the drawing in which a figure's interval is placed, in user units."""


@dataclass(frozen=True, slots=True)
class Written:
    """One figure as shown."""

    value: float | None
    """To sort by; None if undefined."""
    text: str
    interval: str = ""
    """The 95 % interval in words."""
    band: tuple[int, int, int] | None = None
    """Where low, value and high lie on the column's track, 0 to `TRACK`."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A method's or a control's figures, one per column."""

    name: str
    method: int | None
    """Index of the method; None for a control."""
    figures: tuple[Written, ...]
    note: str = ""


def shown_columns(ranking: Ranking) -> tuple[str, ...]:
    """The columns of which the ranking has a figure, or a reason why there is none."""
    there = {name for f, name in enumerate(ranking.metrics) if not np.isnan(ranking.value[..., f]).all()}
    there |= {ranking.metrics[place[-1]] for place in ranking.notes}
    return tuple(name for name in COLUMNS if name in there)


def reference_method(ranking: Ranking) -> int:
    """The method whose predictions the control rows are about: `deterministic`, else the first."""
    return ranking.methods.index("deterministic") if "deterministic" in ranking.methods else 0


def table_rows(ranking: Ranking, columns: Sequence[str], condition: int, category: int | None = None) -> list[Row]:
    """One row per method that has figures under this condition, then the controls, by AUGRC, best first."""
    mean = ranking.mean(category)
    at = {name: index for index, name in enumerate(ranking.metrics)}
    methods = [m for m in range(len(ranking.methods)) if mean.defined[m, condition].any()]
    sources = [(m, "") for m in methods] + [(reference_method(ranking), f"_{control}") for control in CONTROLS]
    picked = np.array([[at.get(name + suffix, -1) for name in columns] for _, suffix in sources])
    rows = np.array([m for m, _ in sources])[:, None]
    value, low, high = (
        np.where(picked >= 0, array[rows, condition, picked], np.nan) for array in (mean.value, mean.low, mean.high)
    )
    bands = _bands(value, low, high)
    table = []
    for i, (m, suffix) in enumerate(sources):
        figures = tuple(
            _written(
                ranking, (m, condition, at.get(name + suffix, -1)), name, value[i, j], low[i, j], high[i, j],
                bands[i][j], int(mean.defined[m, condition].max()), int(mean.defined[m, condition, picked[i, j]]),
            )
            for j, name in enumerate(columns)
        )  # fmt: skip
        if suffix:
            if any(figure.value is not None for figure in figures):
                name = CONTROL_NAMES[suffix[1:]]
                table.append(Row(name, None, figures))
        else:
            table.append(Row(ranking.methods[m], m, figures, _lacks(ranking, m)))
    lead = columns.index("augrc") if "augrc" in columns else 0
    return sorted(table, key=lambda row: (row.figures[lead].value is None, row.figures[lead].value or 0.0))


def _lacks(ranking: Ranking, method: int) -> str:
    """What keeps the method from being compared on the same terms, in words."""
    places = [place for place in ranking.cells if place[0] == method]
    seeds = {place[2] for place in places}
    if not ranking.complete[method]:
        categories = {place[1] for place in places}
        return f"{len(categories)} of {len(ranking.categories)} categories: not ranked"
    return "" if len(seeds) == len(ranking.seeds) else f"{len(seeds)} of {len(ranking.seeds)} seeds"


def _written(
    ranking: Ranking, place: tuple[int, int, int], name: str, value: float, low: float, high: float,
    band: tuple[int, int, int] | None, cells: int, defined: int,
) -> Written:  # fmt: skip
    m, k, f = place
    if np.isnan(value):
        return Written(None, "" if f < 0 else ranking.why_undefined(m, k, f) or UNDEFINED)
    note = f"in {defined} of {cells} cells" if defined < cells else ""
    interval = written_interval(name, low, high)
    return Written(float(f"{value:.6g}"), written(name, value), interval, band if interval else None, note)


def _bands(value: FloatArray, low: FloatArray, high: FloatArray) -> list[list[tuple[int, int, int] | None]]:
    """Where each figure and its interval lie between the least and the greatest of its column."""
    left, right = np.fmin(value, low), np.fmax(value, high)
    with np.errstate(all="ignore"):
        least, greatest = np.fmin.reduce(left, axis=0), np.fmax.reduce(right, axis=0)
        span = np.where(greatest > least, greatest - least, 1.0)
        placed = np.stack([(array - least) / span * TRACK for array in (left, value, right)], axis=-1)
    return [[None if np.isnan(b).any() else (round(b[0]), round(b[1]), round(b[2])) for b in row] for row in placed]

"""A ranking as rows of written figures: what the page's tables show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rdbench.metrics.catalog import CONTROLS
from rdbench.metrics.statistics import RankInterval
from rdbench.report.columns import DASH, UNDEFINED, interval_writer, number_writer
from rdbench.report.compared import taking_part
from rdbench.report.means import FloatArray, Mean, nan_mean
from rdbench.report.rankings import Ranking
from rdbench.report.standings import LEAD, best_and_tied

COLUMNS = (
    "augrc", "failures", "image_auroc", "image_auroc_lightings", "image_auroc_shifted", "aupro_30", "augrc_saved",
    "aurc", "e_aurc", "failure_auroc", "errors_caught_10", "ece", "false_alarm_gap", "train_ratio", "inference_ratio",
    "memory_ratio",
)  # fmt: skip
CONTROL_NAMES = {"random": "chance", "margin": "threshold margin", "oracle": "oracle"}
TRACK = 100
"""Width of the drawing in which a figure's interval is placed, in user units."""
BEST, TIED = "best", "tied"


class Written(NamedTuple):
    """One figure as shown."""

    value: float | None
    """To sort by; None if undefined."""
    text: str
    interval: str = ""
    """The 95 % interval in words."""
    band: tuple[int, int, int] | None = None
    """Where low, value and high lie on the column's track, 0 to `TRACK`."""
    note: str = ""
    mark: str = ""
    """`BEST`, `TIED` with the best, or nothing."""


@dataclass(frozen=True, slots=True)
class Row:
    """A method's or a control's figures: its rank, then one per column."""

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


def table_rows(
    ranking: Ranking,
    mean: Mean,
    columns: Sequence[str],
    condition: int,
    ranks: Mapping[int, RankInterval],
    category: int | None = None,
) -> list[Row]:
    """One row per method that has figures under this condition, then the controls, by the lead figure, best first.

    `mean` is over all categories, or that of `category`.
    """
    at = {name: index for index, name in enumerate(ranking.metrics)}
    best, tied = best_and_tied(ranking, condition, columns, category)
    methods = [m for m in range(len(ranking.methods)) if mean.defined[m, condition].any()]
    reference = ranking.reference(0)  # the one that the page names, where it has cells
    if reference not in methods:
        reference = ranking.reference(condition)
    sources = [(m, "") for m in methods] + [(reference, f"_{control}") for control in CONTROLS]
    picked = np.array([[at.get(name + suffix, -1) for name in columns] for _, suffix in sources])
    rows = np.array([m for m, _ in sources])[:, None]
    value, low, high = (
        np.where(picked >= 0, array[rows, condition, picked], np.nan) for array in (mean.value, mean.low, mean.high)
    )
    scale = np.array([bool(suffix) or bool(ranking.complete[m]) for m, suffix in sources])
    bands = _bands(value, low, high, scale)
    ranked, _ = taking_part(ranking, condition)
    images = _images(ranking, condition, category)
    everywhere = " under every shift of the mean" if condition in ranking.pooled else ""
    writers = [(name, number_writer(name), interval_writer(name)) for name in columns]
    # plain numbers and lists: the tables of a large site hold a million figures
    numbers = zip(*(array.tolist() for array in (picked, value, low, high)), bands, strict=True)
    best_of, tied_of = best.tolist(), tied.tolist()
    table = []
    for (m, suffix), row in zip(sources, numbers, strict=True):
        defined = mean.defined[m, condition].tolist()
        cells = max(defined)
        figures = [_rank(None if suffix else ranks.get(m), bool(suffix))]
        for i, ((name, write, write_interval), f, number, least, greatest, band) in enumerate(
            zip(writers, *row, strict=True)
        ):
            if number != number:  # NaN
                figures.append(Written(None, "" if f < 0 else ranking.why_undefined(m, condition, f) or UNDEFINED))
                continue
            interval = write_interval(least, greatest)
            figures.append(
                Written(
                    float(f"{number:.6g}"),
                    write(number) + images[m] if name == "failures" else write(number),
                    interval,
                    band if interval else None,
                    f"in {defined[f]} of {cells} cells{everywhere}" if defined[f] < cells else "",
                    "" if suffix else BEST if best_of[m][i] else TIED if tied_of[m][i] else "",
                )
            )
        if not suffix:
            note = ranking.lacks[m]
            if not ranked[m]:
                note = ": ".join(filter(None, (note or ranking.share(m, condition), "not ranked")))
            table.append(Row(ranking.methods[m], m, tuple(figures), note))
        elif any(figure.value is not None for figure in figures):
            table.append(Row(CONTROL_NAMES[suffix[1:]], None, tuple(figures)))
    lead = 1 + (columns.index(LEAD) if LEAD in columns else 0)
    return sorted(table, key=lambda row: (row.figures[lead].value is None, row.figures[lead].value or 0.0))


def _images(ranking: Ranking, condition: int, category: int | None) -> list[str]:
    """Of how many test images each method's failures are, in words; nothing where no cell tells.

    A result counts the images of the whole test set; those of one lighting follow from failures and error rate.
    """
    if "failures" not in ranking.metrics or "error_rate" not in ranking.metrics:
        return [""] * len(ranking.methods)
    chosen = slice(None) if category is None else slice(category, category + 1)
    failures, rate = (
        ranking.value[:, chosen, :, condition, ranking.metrics.index(name)] for name in ("failures", "error_rate")
    )
    with np.errstate(all="ignore"):
        images = nan_mean(np.where(rate > 0, failures / rate, np.nan), 2)
    return ["" if np.isnan(total) else f"/{total:,.0f}" for total in images.sum(axis=1)]


def _rank(rank: RankInterval | None, control: bool) -> Written:
    if rank is None:
        return Written(None, "" if control else UNDEFINED)
    low, high = math.floor(rank.low), math.ceil(rank.high)  # two that share the first place have rank 1.5
    return Written(rank.rank, str(low) if low == high else f"{low}{DASH}{high}")


def _bands(
    value: FloatArray, low: FloatArray, high: FloatArray, scale: NDArray[np.bool_]
) -> list[list[tuple[int, int, int] | None]]:
    """Where each figure and its interval lie between the least and the greatest of its column.

    `scale` (rows,) says which rows the track spans; what reaches beyond is cut at its ends.
    """
    left, right = np.fmin(value, low), np.fmax(value, high)
    rows = scale if scale.any() else ~scale
    with np.errstate(all="ignore"):
        least, greatest = np.fmin.reduce(left[rows], axis=0), np.fmax.reduce(right[rows], axis=0)
        span = np.where(greatest > least, greatest - least, 1.0)
        placed = np.stack([(array - least) / span * TRACK for array in (left, value, right)], axis=-1)
    there = ~np.isnan(placed).any(axis=-1)
    whole = np.clip(np.rint(np.nan_to_num(placed)), 0, TRACK).astype(int)
    rows_of = zip(*(whole[..., i].tolist() for i in range(3)), there.tolist(), strict=True)
    return [[(first, at, last) if ok else None for first, at, last, ok in zip(*row, strict=True)] for row in rows_of]

"""What the first k members of a method would have said, for every k, from the stored predictions of all K.

Holds for methods whose score and uncertainty are mean and standard deviation of their members' scores
(`rdbench.uq.sampling.predict_from_samples`); others are left out, and it says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from rdbench.benchmark.evaluate import views
from rdbench.benchmark.results import CellResult, Predictions
from rdbench.metrics.detection import conformal_threshold
from rdbench.metrics.readouts import first_members
from rdbench.report.columns import title, written
from rdbench.report.entries import Source
from rdbench.report.means import FloatArray, nan_mean
from rdbench.report.rankings import Ranking
from rdbench.report.reread import PLACE, Reread, Row, Version, measure, predictions_of, reread

METRICS = ("image_auroc", "augrc", "failure_auroc", "fpr")
MEASURED = (*METRICS, "augrc_margin", "failure_auroc_margin", "fnr", "failures")
COLUMNS = (*PLACE, "method", "condition", "members", "metric", "value", "std", "cells", "of_cells")
NOTE = (
    "The first k members of one fit, threshold included: mean over categories and seeds, \u00b1 its standard deviation "
    "over seeds. A run with k members gives the same where a member does not depend on how many there are. "
    "*: over fewer cells, those that have the figure; other cells than in the row above, maybe."
)


def member_curves(sources: Sequence[Source], methods: Sequence[str] = (), conditions: Sequence[str] = ()) -> Reread:
    """The curves of every method that has one, or of those named; see `reread`."""
    return reread(sources, methods, conditions, COLUMNS, _left_out, _curves, _table)


def _left_out(cells: list[Source]) -> str:
    return next(filter(None, (why_no_curve(predictions_of(source)) for source in cells)), "")


def _curves(ranking: Ranking, methods: list[int], conditions: Sequence[str]) -> Iterator[tuple[str, list[Row]]]:
    for m in methods:
        by_count = measure(ranking, _versions, MEASURED, [m], conditions)
        for condition in conditions:
            yield f"{ranking.methods[m]} \N{MIDDLE DOT} {condition}", list(_rows(by_count, m, condition))


def why_no_curve(predictions: Predictions) -> str:
    """Why these predictions do not tell what fewer members would have said, else an empty string."""
    p = predictions
    members = len(p.calibration_members)
    if members < 2:
        return "one member alone has no curve" if members else "its predictions have no members"
    said = (
        ("test", p.member_scores.swapaxes(0, 1), p.scores, p.uncertainties),
        ("calibration", p.calibration_members, p.calibration_scores, p.calibration_uncertainties),
    )
    for images, scores, mean, std in said:
        *_, (mean_of_all, std_of_all) = first_members(scores)
        for what, stored, of_all in (("score", mean, mean_of_all), ("uncertainty", std, std_of_all)):
            if not _equal(stored, of_all, float(np.abs(scores).max())):
                moment = "mean" if what == "score" else "standard deviation"
                return f"its {what} on {images} images is not the {moment} of its members' scores"
    return ""


def _equal(stored: NDArray[np.float32], computed: NDArray[np.float32], scale: float) -> bool:
    """Equal but for the rounding of float32 numbers of that scale."""
    return np.allclose(stored, computed, rtol=1e-5, atol=8 * float(np.finfo(np.float32).eps) * scale)


def _versions(result: CellResult, predictions: Predictions) -> Iterator[Version]:
    """The predictions of the first k members under the name k, thresholds set anew at the cell's own level."""
    test = first_members(predictions.member_scores.swapaxes(0, 1))
    calibration = first_members(predictions.calibration_members)
    for k, ((score, std), (normal, _)) in enumerate(zip(test, calibration, strict=True), start=1):
        threshold = conformal_threshold(normal, result.threshold.alpha).value
        yield str(k), views(replace(predictions, scores=score, uncertainties=std)), threshold


def _rows(by_count: dict[str, Ranking], m: int, condition: str) -> Iterator[Row]:
    for members, ranking in by_count.items():
        if condition not in ranking.conditions:
            return
        k, mean = ranking.conditions.index(condition), ranking.mean()
        spread = _seed_std(ranking.value[m, :, :, k])
        for f, metric in enumerate(MEASURED):
            if mean.defined[m, k].any():
                yield {
                    "method": ranking.methods[m],
                    "condition": condition,
                    "members": int(members),
                    "metric": metric,
                    "value": float(mean.value[m, k, f]),
                    "std": float(spread[f]),
                    "cells": int(mean.defined[m, k, f]),
                    "of_cells": int(mean.defined[m, k].max()),
                }


def _seed_std(value: FloatArray) -> FloatArray:
    """(F,) standard deviation over seeds of the mean over categories, of value (C, S, F); NaN below two seeds.

    Of deviations from each category's mean over seeds, so that a figure that one cell lacks moves nothing.
    """
    there = ~np.isnan(value)
    deviation = np.where(there, value - nan_mean(value, 1)[:, None], 0.0)
    categories = there.sum(axis=0)
    by_seed = deviation.sum(axis=0) / np.maximum(categories, 1)
    freedom = (categories > 0).sum(axis=0) - 1
    return np.asarray(np.sqrt((by_seed**2).sum(axis=0) / np.where(freedom > 0, freedom, np.nan)))


def _table(heading: str, rows: pd.DataFrame) -> Table:
    table = Table(
        title=escape(heading), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1),
        pad_edge=False, caption=NOTE, caption_justify="left", caption_style="dim",
    )  # fmt: skip
    table.add_column("Members", justify="right")
    for metric in MEASURED:
        table.add_column(title(metric).replace(", ", "\n", 1), justify="right")
    for members, group in rows.groupby("members", sort=False):
        cells = []
        for row in group.to_dict("records"):
            metric = row["metric"]
            text = Text(written(metric, row["value"]) + ("*" if 0 < row["cells"] < row["of_cells"] else ""))
            several = metric in METRICS and not np.isnan(row["std"])
            cells.append(text.append(f" \u00b1 {written(metric, row['std'])}", style="dim") if several else text)
        table.add_row(str(members), *cells)
    return table

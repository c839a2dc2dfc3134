"""What each readout of a method's members is worth, from stored predictions alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from rdbench.benchmark.evaluate import views
from rdbench.benchmark.results import CellResult, Predictions
from rdbench.metrics.catalog import CONTROLS
from rdbench.metrics.readouts import READOUTS, read_out
from rdbench.report.columns import UNDEFINED, title, written
from rdbench.report.entries import Source
from rdbench.report.means import Mean
from rdbench.report.rankings import Ranking
from rdbench.report.reread import PLACE, Reread, Row, Version, measure, predictions_of, reread

METRICS = ("augrc", "aurc", "failure_auroc", "errors_caught_10")
COLUMNS = (*PLACE, "method", "condition", "readout", "kind", "failures", "cells", "cells_with_failures", *METRICS)
MEASURED = ("failures", *METRICS, *(f"{metric}_{control}" for metric in METRICS for control in CONTROLS))
OWN = "own"
"""The uncertainty that the method itself gave."""
SHOWN = {
    OWN: "the method's own",
    "random": "chance (control)",
    "margin": "margin (control)",
    "oracle": "oracle (control)",
}


def compare_readouts(sources: Sequence[Source], methods: Sequence[str] = (), conditions: Sequence[str] = ()) -> Reread:
    """Figures of every readout, of each method with members or of those named, beside the controls; see `reread`."""
    return reread(sources, methods, conditions, COLUMNS, without_members, _readings, _table)


def without_members(cells: list[Source]) -> str:
    """Why a method's cells have no members to read out, else an empty string."""
    count = len(predictions_of(cells[0]).calibration_members)
    return ("its predictions have no members", "one member alone has nothing to disagree with", "")[min(count, 2)]


def _readings(ranking: Ranking, methods: list[int], conditions: Sequence[str]) -> Iterator[tuple[str, list[Row]]]:
    by_readout = measure(ranking, _versions, MEASURED, methods, conditions)
    means = {name: found.mean() for name, found in by_readout.items()}
    for condition in conditions:
        yield condition, [row for m in methods for row in _rows(ranking, by_readout, means, m, condition)]


def _versions(result: CellResult, predictions: Predictions) -> Iterator[Version]:
    threshold, own = result.threshold.value, views(predictions)
    levels = predictions.calibration_members.mean(axis=1, dtype=np.float64)
    yield OWN, own, threshold
    for name in READOUTS:
        if name not in CONTROLS:
            yield (
                name,
                {
                    condition: replace(view, uncertainties=read_out(name, view.members, view.scores, threshold, levels))
                    for condition, view in own.items()
                },
                threshold,
            )


def _rows(
    ranking: Ranking, by_readout: dict[str, Ranking], means: dict[str, Mean], m: int, condition: str
) -> Iterator[Row]:
    """One row per readout of the method, then one per control; nothing where it has no cell under the condition."""
    own = by_readout[OWN]
    if condition not in own.conditions:
        return
    k = own.conditions.index(condition)
    kinds = [(name, name, "") for name in by_readout] + [(c, OWN, f"_{c}") for c in CONTROLS]
    for name, version, suffix in kinds:
        mean = means[version]
        cells = int(mean.defined[m, k, own.metrics.index("failures")])
        if not cells:
            return
        at = [own.metrics.index(metric + suffix) for metric in METRICS]
        yield {
            "method": ranking.methods[m],
            "condition": condition,
            "readout": "chance" if name == "random" else name,
            "kind": "control" if suffix else "own" if name == OWN else "readout",
            "failures": mean.value[m, k, own.metrics.index("failures")],
            "cells": cells,
            "cells_with_failures": int(mean.defined[m, k, at[0]]),
            **dict(zip(METRICS, mean.value[m, k, at].tolist(), strict=True)),
        }


def _table(heading: str, rows: pd.DataFrame) -> Table:
    table = Table(
        title=escape(heading), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1),
        pad_edge=False, caption="Means over categories of means over seeds; failures are summed over categories. A "
        "readout is useful where it beats the margin.", caption_justify="left", caption_style="dim",
    )  # fmt: skip
    table.add_column("Method", overflow="fold")
    table.add_column("Uncertainty", no_wrap=True)
    for metric in METRICS:
        table.add_column(title(metric).replace(" ", "\n", 1), justify="right", no_wrap=True)
    table.add_column("Failures", justify="right")
    table.add_column("Cells with\nfailures", justify="right")
    for method, group in rows.groupby("method", sort=False):
        for index, row in enumerate(group.to_dict("records")):
            control = row["kind"] == "control"
            name = SHOWN.get("random" if row["readout"] == "chance" else row["readout"], row["readout"])
            figures = [UNDEFINED if np.isnan(row[metric]) else written(metric, row[metric]) for metric in METRICS]
            counts = (written("failures", row["failures"]), f"{row['cells_with_failures']} of {row['cells']}")
            table.add_row(
                Text(str(method) if not index else ""), *map(Text, (name, *figures, *(("", "") if index else counts))),
                style="dim" if control else "",
            )  # fmt: skip
        table.add_section()
    return table

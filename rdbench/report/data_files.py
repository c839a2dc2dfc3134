"""The data beside the page: small scripts per board and condition, because a page opened from the file system may load
scripts but not fetch data.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdbench.benchmark.results import CLEAN
from rdbench.report.boards import Board
from rdbench.report.columns import describe, title
from rdbench.report.curves import REVIEWED, Curves
from rdbench.report.pages import sureness
from rdbench.report.views import CONTROL_NAMES, Row

TRENDS = ("image_auroc", "aupro_30", "augrc", "failure_auroc", "fpr", "fnr", "ece", "shift_auroc")
"""Figures drawn against severity."""
LIGHTINGS = "real lightings"


def data_scripts(board: Board) -> dict[str, str]:
    """Scripts by their path below the site: each hands one text in JSON to the page's `rdbench.receive`.

    JSON rather than an object literal, because there a key `__proto__` from an entry would be more than text.
    """
    scripts = {}
    for k, name in enumerate(board.ranking.conditions):
        by_category = {c: [_row(row) for row in board.rows(k, i)] for i, c in enumerate(board.ranking.categories)}
        standing = board.standings[k]
        content = {
            "rows": [_row(row) for row in board.rows(k)],
            "sureness": sureness(board, k),
            "critical": vars(standing.critical) if standing.critical else None,
            "reviewed": _numbers(REVIEWED),
            "curves": {m: _curves(curves) for (m, at), curves in board.evidence.curves.items() if at == k},
        }
        scripts[board.data_path(name)] = _script(f"{board.id}/{name}", content)
        scripts[board.data_path(name, "categories")] = _script(f"{board.id}/{name}/categories", by_category)
    scripts[board.data_path("", "trends")] = _script(f"{board.id}/trends", _trends(board))
    return scripts


def _script(name: str, content: dict[str, Any]) -> str:
    data = json.dumps(content, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return f"rdbench.receive({json.dumps(name)}, {json.dumps(data, ensure_ascii=False)});\n"


def _row(row: Row) -> list[Any]:
    """Method, or -1, -2, -3 for the controls, a note, and the figures, each without its empty end."""
    method = row.method if row.method is not None else -1 - list(CONTROL_NAMES.values()).index(row.name)
    figures = [f[: 6 if f.mark else 5 if f.note else 4 if f.band else 3 if f.interval else 2] for f in row.figures]
    return [method, row.note, figures]


def _curves(curves: Curves) -> dict[str, Any]:
    made: dict[str, Any] = {name: _numbers(curve) for name, curve in (curves.shares | curves.risks).items()}
    made["parts"] = _numbers(curves.parts)
    if curves.reliability is not None:
        probability, frequency, images = curves.reliability
        made["reliability"] = [_numbers(probability), _numbers(frequency), images.tolist()]
    return made


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    return [None if math.isnan(value) else float(f"{value:.4g}") for value in values.tolist()]


def _trends(board: Board) -> dict[str, Any]:
    """Means against severity: per metric and kind of shift, per method, [value, low, high] at each severity.

    The real lightings are one more kind, whose "severities" are their names.
    """
    ranking, mean = board.ranking, board.mean
    kinds: dict[str, list[str]] = {}
    for name in ranking.conditions:
        kind, colon, severity = name.partition(":")
        if colon and severity.isdigit():
            kinds.setdefault(kind, []).append(name)
    axes: dict[str, list[Any]] = {
        kind: [0, *(int(n.partition(":")[2]) for n in names)] for kind, names in kinds.items()
    }
    drawn = {kind: [CLEAN, *names] for kind, names in kinds.items()}
    if ranking.lightings:
        axes[LIGHTINGS] = drawn[LIGHTINGS] = list(ranking.lightings)
    metrics = [name for name in TRENDS if name in ranking.metrics]
    stacked = np.stack([mean.value, mean.low, mean.high], axis=-1)  # (M, K, F, 3)

    def points(metric: str, names: list[str]) -> list[list[list[float | None]]]:
        at = [ranking.conditions.index(name) for name in names]
        chosen = stacked[:, at, ranking.metrics.index(metric)]
        return [[_numbers(point) for point in method] for method in chosen]

    return {
        "titles": {name: title(name) for name in metrics},
        "directions": {name: describe(name).direction for name in metrics},
        "kinds": axes,
        "points": {m: {kind: points(m, names) for kind, names in drawn.items()} for m in metrics},
    }

"""Results as tidy rows: one row per cell, condition and metric."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pandas as pd

from rdbench.benchmark.results import CellResult
from rdbench.report.rankings import USUAL_ALPHA
from rdbench.report.variants import method_labels

COLUMNS = (
    "method", "dataset", "category", "seed", "backbone", "condition", "metric", "value", "low", "high", "note", "cell",
)  # fmt: skip
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a formula in a spreadsheet begins with."""


def tidy(results: Iterable[CellResult]) -> pd.DataFrame:
    """One row per cell, condition and metric, in the order of the results.

    `value`, `low` and `high` (95 % interval) are floats, NaN where undefined; `note` says why a value is undefined.
    Methods that ran with other than their default options carry them in their name, e.g. `mc_dropout[p=0.3]`, and so
    does what was decided at another threshold than that of alpha 0.10, e.g. `tta at alpha 0.05`. `cell` is the cell's
    directory below the store: it tells cells apart that agree in all but the shifts they were measured under.
    """
    cells = list(results)
    rows = [
        (label + _level(cell), spec.dataset, spec.category, spec.seed, spec.backbone, condition, metric,
         figure.value, figure.low, figure.high, figure.note, path)
        for label, cell in zip(method_labels(cells), cells, strict=True)
        for spec, path in ((cell.spec, cell.spec.path.as_posix()),)
        for condition, figures in cell.figures().items()
        for metric, figure in figures.items()
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.astype({"value": float, "low": float, "high": float})


def _level(cell: CellResult) -> str:
    alpha = cell.threshold.alpha
    return "" if alpha == USUAL_ALPHA else f" at alpha {alpha:g}"


def as_csv(table: pd.DataFrame) -> str:
    """The rows as CSV; undefined numbers are empty."""
    return plain_text(table).to_csv(index=False, lineterminator="\n")


def as_json(table: pd.DataFrame) -> str:
    """The rows as a JSON list of objects; undefined numbers are null."""
    records = table.astype(object).where(table.notna(), None).to_dict(orient="records")
    return json.dumps(records, indent=1, ensure_ascii=False) + "\n"


def plain_text(table: pd.DataFrame) -> pd.DataFrame:
    """The table with an apostrophe before any text that a spreadsheet would take for a formula."""
    safe = table.copy()
    for name in safe.columns:
        if not pd.api.types.is_numeric_dtype(safe[name]):
            texts = safe[name].astype(object)  # walking through pandas' own strings takes three times as long
            safe[name] = [no_formula(value) for value in texts]
    return safe


def no_formula(value: Any) -> Any:
    """What is no text stays as it is; text that a spreadsheet would take for a formula gets an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value

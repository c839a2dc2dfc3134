"""Is a published entry what it says? All that can be computed again from the entry alone is, and must agree."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from rdbench.benchmark.evaluate import INTERVAL, NO_INTERVAL, evaluate_predictions
from rdbench.benchmark.results import PROTOCOL_VERSION, CellResult, Figure, Predictions, Threshold
from rdbench.datasets import DATASETS, differences
from rdbench.errors import InputError
from rdbench.metrics.statistics import RESAMPLES
from rdbench.report.columns import bounded, describe
from rdbench.report.derived import LARGEST
from rdbench.report.entries import REFERENCE, Entry, entry_predictions, read_entry

TOLERANCE = 1e-6
"""Relative; figures that are computed again agree to the last digits, on other machines nearly so."""


METHOD_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
"""As `rdbench methods new` names files, and with the capitals and hyphens that a file written by hand may have."""


def validate_entry(path: Path, advance: Callable[[], None] = lambda: None) -> list[str]:
    """What is wrong with the entry, one line each; nothing if all agrees.

    Schema, place, name of the method, protocol version, official categories and counts, hashes of the predictions,
    every image figure with its interval and the threshold computed again from them, and bounds of the figures that
    cannot be (pixels, cost).
    `advance` is called once per cell.
    """
    try:
        entry = read_entry(path)
    except InputError as error:
        return [str(error)]
    problems = []
    method = entry.cells[0].spec.method
    if not METHOD_NAME.fullmatch(method):
        problems.append(f"method {method!r}: a name is of letters, digits, _ and -, at most 64, a letter first")
    specs = Counter(cell.spec.digest() for cell in entry.cells)
    for cell in entry.cells:
        if specs[cell.spec.digest()] > 1:
            problems.append(f"{cell.spec}: the cell is there {specs[cell.spec.digest()]} times")
            specs[cell.spec.digest()] = 1  # said once
        if cell.spec.protocol != PROTOCOL_VERSION:
            problems.append(f"{cell.spec}: protocol {cell.spec.protocol}, this rdbench has {PROTOCOL_VERSION}")
        problems += [f"{cell.spec}: {problem}" for problem in _official(cell)]
        if cell.predictions_sha256 not in entry.predictions:
            problems += [f"{cell.spec}: {problem}" for problem in _figures(cell)]
            problems.append(f"{cell.spec}: its predictions are not in the entry, so nothing can be computed again")
        else:
            try:
                predictions = entry_predictions(entry, cell, path)
                problems += [f"{cell.spec}: {problem}" for problem in check_cell(cell, predictions)]
            except (InputError, ValueError) as error:
                problems.append(f"{cell.spec}: {error}")
        advance()
    problems += _reference(entry)
    return problems


def check_cell(cell: CellResult, predictions: Predictions) -> Iterator[str]:
    """What of a result no evaluation can give, and where it does not follow from the predictions."""
    yield from _figures(cell)
    yield from _disagreements(cell, predictions)


def _reference(entry: Entry) -> Iterator[str]:
    """What is wrong with the costs to compare with, as far as the entry tells: nobody can compute them again."""
    cells = {cell.spec.digest(): cell for cell in entry.cells if cell.spec.method != REFERENCE}
    for digest, costs in entry.reference.items():
        if digest not in cells:
            yield f"reference {digest!r}: it stands beside no cell of the entry, or beside one of {REFERENCE} itself"
            continue
        cell = cells[digest]
        if others := costs.keys() ^ cell.cost.keys():
            yield f"{cell.spec}: reference: {sorted(others)[0]!r} is not in both its costs and the cell's"
        for name, figure in costs.items():
            if figure.value is not None and not 0 < figure.value <= LARGEST:
                yield f"{cell.spec}: reference, {name!r}: {figure.value} is no cost"


def _official(cell: CellResult) -> Iterator[str]:
    """Why a cell that calls its data official cannot be."""
    spec, split = cell.spec, cell.split
    counts = DATASETS[spec.dataset].counts if spec.dataset in DATASETS else None
    if split.custom:
        return
    if counts is None or spec.category not in counts:
        yield f"{spec.category} is not an official category of {spec.dataset}, yet the result does not say custom"
    else:
        official = counts[spec.category]
        held_out = 0 if "validation" in official else split.calibration
        found = {"train": split.train + held_out, "validation": split.calibration, "test": split.test}
        yield from differences(official, found)


def _figures(cell: CellResult) -> Iterator[str]:
    """Figures that no evaluation can give."""
    for condition, figures in cell.figures().items():
        for name, figure in figures.items():
            where = f"{condition}, {name}"
            numbers = [n for n in (figure.value, figure.low, figure.high) if n is not None]
            metric = describe(name)
            if not all(math.isfinite(number) for number in numbers):
                yield f"{where}: a number is not finite"
            elif bounded(metric) and (outside := [n for n in numbers if not -TOLERANCE <= n <= 1 + TOLERANCE]):
                yield f"{where}: {outside[0]} is not between 0 and 1"
            elif metric.family == "cost" and any(number < 0 for number in numbers):
                yield f"{where}: {figure.value} is negative"
            elif figure.low is not None and figure.high is not None and figure.low > figure.high:
                yield f"{where}: the interval {figure.low} to {figure.high} is upside down"
            elif figure.value is None and not figure.note:
                yield f"{where}: undefined, and no note says why"


def _disagreements(cell: CellResult, predictions: Predictions) -> Iterator[str]:
    """Where the result and its stored predictions do not fit."""
    split, labels = cell.split, predictions.labels
    if (split.test, split.test_anomalous) != (len(labels), int(labels.sum())):
        yield (
            f"the result speaks of {split.test} test images, {split.test_anomalous} anomalous, the predictions of "
            f"{len(labels)} and {int(labels.sum())}"
        )
    if split.calibration != len(predictions.calibration_scores):
        yield f"{split.calibration} calibration images, but {len(predictions.calibration_scores)} calibration scores"
    if predictions.conditions != cell.spec.conditions:
        yield f"conditions {', '.join(cell.spec.conditions)}, but predictions for {', '.join(predictions.conditions)}"
    ends: tuple[str, ...] = ("value", "low", "high")
    if cell.interval not in (INTERVAL, NO_INTERVAL):
        yield f"intervals made otherwise ({cell.interval}), as in another rdbench; `rdbench evaluate` computes them"
        ends = ("value",)
    resamples = RESAMPLES if cell.interval == INTERVAL else 0
    threshold, image = evaluate_predictions(predictions, cell.threshold.alpha, resamples)
    if not _agree(threshold.value, cell.threshold.value):
        yield f"threshold {cell.threshold.value}, but the calibration scores give {threshold.value}"
    stated = cell.threshold
    if stated.attained != threshold.attained or not _agree(threshold.level, stated.level):
        yield (
            f"level {stated.level:g}, {_attained(stated)}, but {split.calibration} calibration images give "
            f"{threshold.level:g}, {_attained(threshold)}"
        )
    for condition in sorted(image.keys() ^ cell.image.keys()):
        yield f"condition {condition}: in the {'predictions' if condition in image else 'result'} only"
    for condition in sorted(image.keys() & cell.image.keys()):
        again, said = image[condition], cell.image[condition]
        if missing := sorted(again.keys() - said.keys()):
            yield f"{condition}, {', '.join(missing)}: missing, as in an older rdbench; `rdbench evaluate` computes it"
        for name in sorted(said):
            found, given = again.get(name), said[name]
            if found is None or not all(_agree(getattr(found, end), getattr(given, end)) for end in ends):
                yield f"{condition}, {name}: {_written(given)}, but the predictions give {_written(found)}"


def _attained(threshold: Threshold) -> str:
    return "attained" if threshold.attained else "not attained"


def _agree(first: float | None, second: float | None) -> bool:
    if first is None or second is None:
        return first is second
    return math.isclose(first, second, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _written(figure: Figure | None) -> str:
    if figure is None:
        return "missing"
    if figure.value is None:
        return "undefined"
    ends = "" if figure.low is None or figure.high is None else f" ({figure.low:.6g} to {figure.high:.6g})"
    return f"{figure.value:.6g}{ends}"

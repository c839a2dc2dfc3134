"""From stored predictions to figures with intervals. Imports no torch, so figures can be computed again for ever."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rdbench.benchmark.locks import MERGE, RUN
from rdbench.benchmark.results import CLEAN, CellResult, Figure, Predictions, Threshold
from rdbench.benchmark.store import Store, read_predictions
from rdbench.errors import InputError
from rdbench.metrics import calibration, detection, shift
from rdbench.metrics.catalog import METRICS
from rdbench.metrics.cell import cell_bootstrap, cell_metrics, check_sample
from rdbench.metrics.reasons import why_undefined
from rdbench.metrics.statistics import RESAMPLES, Interval

FOLD_SEED = 0
INTERVAL = (
    f"95 %: percentile bootstrap, {RESAMPLES} resamples of parts; Wilson's for fpr, fnr and error_rate; "
    "none for ece, false_alarm_gap, figures against clean images, pixel figures, counts and cost"
)
NO_INTERVAL = "left out"
"""How a result says that its intervals were made, or that they were not."""
NO_NORMAL = "no normal image"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """What one condition shows of a cell: n images."""

    labels: NDArray[np.int8]
    parts: NDArray[np.str_]
    scores: Floats
    uncertainties: Floats
    members: Floats
    """(K, n), K is 0 for a method without members."""

    def normal(self) -> NDArray[np.bool_]:
        """(n,) which images are normal."""
        return np.equal(self.labels, 0)


def views(predictions: Predictions) -> dict[str, View]:
    """Every condition's view: the clean one, the shifts, and the real lightings, each a subset of clean."""
    everything = np.ones(len(predictions.labels), bool)
    rows = [(name, index, everything) for index, name in enumerate(predictions.conditions)]
    for lighting in sorted(set(predictions.lightings.tolist()) - {""}):
        rows.append((lighting, 0, predictions.lightings == lighting))
    return {
        name: View(
            predictions.labels[chosen],
            predictions.parts[chosen],
            predictions.scores[index, chosen].astype(np.float64),
            predictions.uncertainties[index, chosen].astype(np.float64),
            predictions.member_scores[index][:, chosen].astype(np.float64),
        )
        for name, index, chosen in rows
    }


def evaluate_predictions(
    predictions: Predictions, alpha: float, resamples: int = RESAMPLES
) -> tuple[Threshold, dict[str, dict[str, Figure]]]:
    """The threshold and all image figures by condition; `resamples` 0 leaves the intervals out."""
    found = detection.conformal_threshold(predictions.calibration_scores, alpha)
    threshold = Threshold(alpha=alpha, value=found.value, level=found.level, attained=found.attained)
    by_condition = views(predictions)
    clean = by_condition[CLEAN]
    figures = {}
    for name, view in by_condition.items():
        figures[name] = view_figures(view, threshold.value, predictions.calibration_scores, resamples)
        if ":" in name:
            figures[name] |= _shift_figures(view, clean, threshold.value, figures[CLEAN], figures[name])
    for kind, severities in _severities(predictions.conditions).items():
        uncertainties = [clean.uncertainties] + [by_condition[f"{kind}:{s}"].uncertainties for s in severities]
        rank = shift.response(np.concatenate(uncertainties), np.repeat([0, *severities], len(clean.labels)))
        response = _figure(rank, "all uncertainties are equal")
        if not response.note:
            note = f"over clean and severities {', '.join(map(str, severities))}"
            response = response.model_copy(update={"note": note})
        for severity in severities:
            figures[f"{kind}:{severity}"]["shift_response"] = response
    return threshold, figures


def _severities(conditions: Sequence[str]) -> dict[str, list[int]]:
    """The severities, ascending, of each kind of shift."""
    severities: dict[str, list[int]] = {}
    for condition in conditions:
        kind, colon, severity = condition.partition(":")
        if colon:
            severities.setdefault(kind, []).append(int(severity))
    return {kind: sorted(found) for kind, found in severities.items()}


def view_figures(
    view: View, threshold: float, calibration_scores: NDArray[np.float32], resamples: int
) -> dict[str, Figure]:
    """The image figures of one condition."""
    probabilities = calibration.cross_fitted_probabilities(view.labels, view.scores, view.parts, FOLD_SEED)
    sample = check_sample(view.labels, view.scores, view.uncertainties, threshold, probabilities)
    intervals = cell_bootstrap(sample, view.parts, resamples=resamples) if resamples else {}
    reasons = {
        "detection": why_undefined(labels=view.labels),
        "selective": why_undefined(errors=sample.errors),
        "calibration": calibration.why_uncalibrated(view.labels, view.parts),
    }
    figures = {
        name: _figure(value, reasons[METRICS[name].family], intervals.get(name))
        for name, value in cell_metrics(sample).items()
    }
    normal = view.scores[view.normal()]
    gap = calibration.false_alarm_gap(calibration_scores, normal) if len(normal) else math.nan
    figures["false_alarm_gap"] = _figure(gap, "under 4 calibration images" if len(normal) else NO_NORMAL)
    return figures


def _shift_figures(
    view: View, clean: View, threshold: float, clean_figures: Mapping[str, Figure], figures: Mapping[str, Figure]
) -> dict[str, Figure]:
    """What the shift does to detection and uncertainty, beside the same images clean."""
    before, after = clean_figures["image_auroc"].value, figures["image_auroc"].value
    drop = math.nan if before is None or after is None else before - after
    rises = left = math.nan
    if (normal := view.normal()).any():
        rises = shift.shift_auroc(clean.uncertainties[normal], view.uncertainties[normal])
        left = shift.deferred_false_alarms(view.labels, view.scores > threshold, view.uncertainties, 0.10)
    return {
        "auroc_drop": _figure(drop, why_undefined(labels=view.labels)),
        "shift_auroc": _figure(rises, NO_NORMAL),
        "fpr_deferred_10": _figure(left, NO_NORMAL),
    }


def _figure(value: float, reason: str, interval: Interval | None = None) -> Figure:
    """A figure; one that is no number carries the reason instead of a value."""
    if not math.isfinite(value):
        infinite = "infinite: a probability of 0 or 1 was wrong" if math.isinf(value) else ""
        return Figure(value=None, note=infinite or reason or "undefined")
    if interval is None or not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return Figure(value=float(value))
    note = f"undefined in {interval.undefined} of {RESAMPLES} resamples" if interval.undefined else ""
    return Figure(value=float(value), low=interval.low, high=interval.high, note=note)


def evaluate_cell(
    store: Store, directory: Path, result: CellResult, alpha: float, *, intervals: bool = True
) -> CellResult:
    """Compute a finished cell's image figures again at `alpha` and write them back."""
    predictions = read_predictions(directory, result)
    threshold, image = evaluate_predictions(predictions, alpha, RESAMPLES if intervals else 0)
    note = INTERVAL if intervals else NO_INTERVAL
    changed = result.model_copy(update={"threshold": threshold, "image": image, "interval": note})
    store.rewrite(directory, changed)
    return changed


def evaluate_store(store: Store, alpha: float | None, *, intervals: bool) -> int:
    """Do so for every finished cell, at its own alpha if none is given; how many cells that were.

    Raises InputError if there is none, or a run, a merge or another evaluation is at work on the store.
    """
    if not store.cells():
        raise InputError(f"no finished cell in {store.root}")
    count = 0
    with store.locks.hold(MERGE, "an evaluation"):
        store.locks.refuse_beside(RUN)
        for directory, result in store.results():
            evaluate_cell(store, directory, result, alpha or result.threshold.alpha, intervals=intervals)
            count += 1
    return count

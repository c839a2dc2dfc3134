"""All figures per image of one cell under one condition, by their printed names, and their intervals.

The plain figures are the same code as a resample's, with every image drawn once.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rdbench.metrics import calibration, detection, selective
from rdbench.metrics._checks import FloatArray, finite, same_length
from rdbench.metrics._ranking import rank, ratio, stack
from rdbench.metrics.selective import Costs
from rdbench.metrics.statistics import (
    LEVEL,
    RESAMPLES,
    Interval,
    part_weights,
    percentile_intervals,
    proportion_interval,
)

_WORK = 250_000  # resamples times images handled at once, so that temporaries stay in cache

DEFAULT_COSTS = Costs()


@dataclass(frozen=True)
class Sample:
    """The checked predictions of one cell under one condition, each (n,)."""

    labels: FloatArray
    scores: FloatArray
    uncertainty: FloatArray
    probabilities: FloatArray | None
    threshold: float
    costs: Costs

    @property
    def decisions(self) -> FloatArray:
        """1 where the score lies above the threshold."""
        return (self.scores > self.threshold).astype(np.float64)

    @property
    def errors(self) -> FloatArray:
        """1 where the decision is wrong."""
        return np.abs(self.decisions - self.labels)


def check_sample(
    labels: ArrayLike,
    scores: ArrayLike,
    uncertainty: ArrayLike,
    threshold: float,
    probabilities: ArrayLike | None = None,
    costs: Costs = DEFAULT_COSTS,
) -> Sample:
    """The predictions of n images, or a ValueError that names the argument that cannot be used.

    `probabilities` from `cross_fitted_probabilities`; where those are `nan`, or None, `ece`, `brier` and
    `nll` are `nan`.
    """
    y, s = detection.checked(labels, scores)
    u = finite("uncertainty", uncertainty)
    same_length(labels=y, uncertainty=u)
    if not np.isfinite(threshold):
        raise ValueError(f"threshold: {threshold} is not finite")
    p = None
    if probabilities is not None and not np.isnan(np.asarray(probabilities, dtype=np.float64)).all():
        p = calibration.checked(y, probabilities)[1]
    return Sample(y, s, u, p, float(threshold), Costs(*costs))


def cell_metrics(sample: Sample) -> dict[str, float]:
    """Every detection, selective and calibration figure of the sample by its name in the catalogue."""
    return {name: float(values[0]) for name, values in _figures(sample, None).items()}


def cell_bootstrap(
    sample: Sample,
    parts: ArrayLike,
    *,
    strata: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Interval]:
    """The interval of every figure of `cell_metrics` that has one, over parts (n,) (within strata (n,)).

    Percentile bootstrap; for `fpr`, `fnr` and `error_rate` Wilson's interval over the effective number of
    images. The probabilities are resampled as they are, not fitted anew. `failures` and `prevalence` have none, nor
    has `ece`: images drawn twice make bins uneven, and nearly every resample has a larger one than the sample.
    """
    replicates = cell_replicates(sample, parts, strata=strata, resamples=resamples, seed=seed)
    found = percentile_intervals(np.stack(list(replicates.values())), level)
    intervals = dict(zip(replicates, found, strict=True))
    part, normal = np.asarray(parts), sample.labels == 0
    for name, among in (("fpr", normal), ("fnr", ~normal), ("error_rate", np.full(len(part), True))):
        if among.any():
            intervals[name] = proportion_interval(sample.errors[among], part[among], level)
    return {name: interval for name, interval in intervals.items() if name not in ("failures", "prevalence", "ece")}


def cell_replicates(
    sample: Sample, parts: ArrayLike, *, strata: ArrayLike | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, FloatArray]:
    """(R,) values of every figure in resamples over parts."""
    weights = part_weights(parts, resamples, seed, strata)
    same_length(labels=sample.labels, parts=weights[0])
    rows = max(1, _WORK // weights.shape[1])
    chunks = [_figures(sample, weights[i : i + rows]) for i in range(0, resamples, rows)]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _figures(sample: Sample, weights: NDArray[np.int64] | None) -> dict[str, FloatArray]:
    y, errors = sample.labels, sample.errors
    drawn = np.ones((1, len(y))) if weights is None else weights.astype(np.float64)
    images, anomalous, wrong = drawn.sum(axis=1), drawn @ y, drawn @ errors
    by_score = rank(y, sample.scores, weights)
    figures = {
        "image_auroc": detection.auroc_of(by_score),
        "image_ap": detection.average_precision_of(by_score),
        "image_f1_max": detection.f1_max_of(by_score),
        "image_fpr_95": detection.fpr_at_recall_of(by_score, 0.95),
        "fpr": ratio(drawn @ (errors * (1 - y)), images - anomalous),
        "fnr": ratio(drawn @ (errors * y), anomalous),
        "failures": wrong,
        "error_rate": wrong / images,
        "prevalence": anomalous / images,
    }
    figures |= _selective(sample, weights)
    figures["expected_cost_0"] = drawn @ selective.decision_losses(y, sample.decisions, sample.costs) / images
    figures |= _calibration(sample, weights, drawn)
    return figures


def _selective(sample: Sample, weights: NDArray[np.int64] | None) -> dict[str, FloatArray]:
    errors = sample.errors
    losses = selective.decision_losses(sample.labels, sample.decisions, sample.costs)
    free = selective.controls(errors, sample.scores, sample.threshold)
    keys = {"": sample.uncertainty, **{f"_{name}": key for name, key in free.items()}}
    by_error = [rank(errors, key, weights) for key in keys.values()]
    by_loss = [rank(losses, losses if name == "_oracle" else key, weights) for name, key in keys.items()]
    if weights is None:  # few rows: one call for all keys; many rows: the controls' few groups are faster alone
        by_error, by_loss = [stack(by_error)], [stack(by_loss)]
    review = sample.costs.review
    figures: dict[str, FloatArray] = {}

    def add(name: str, values: list[FloatArray]) -> None:
        rows = np.concatenate(values).reshape(len(keys), -1)
        figures.update({name + suffix: row for suffix, row in zip(keys, rows, strict=True)})

    add("augrc", [selective.augrc_of(r) for r in by_error])
    figures["augrc_saved"] = figures["augrc_margin"] - figures["augrc"]
    add("aurc", [selective.aurc_of(r) for r in by_error])
    add("e_aurc", [selective.e_aurc_of(r) for r in by_error])
    add("failure_auroc", [detection.auroc_of(r) for r in by_error])
    for percent in (80, 90, 95):
        add(f"risk_at_{percent}", [selective.risk_at_coverage_of(r, percent / 100) for r in by_error])
    for percent in (1, 5):
        add(f"coverage_at_risk_{percent}", [selective.coverage_at_risk_of(r, percent / 100) for r in by_error])
    for percent in (5, 10, 20):
        add(f"errors_caught_{percent}", [selective.errors_caught_of(r, percent / 100) for r in by_error])
        add(f"expected_cost_{percent}", [selective.expected_cost_of(r, review, percent / 100) for r in by_loss])
    return figures


def _calibration(sample: Sample, weights: NDArray[np.int64] | None, drawn: FloatArray) -> dict[str, FloatArray]:
    if sample.probabilities is None:
        return {name: np.full(len(drawn), np.nan) for name in ("ece", "brier", "nll")}
    y, p = sample.labels, sample.probabilities
    images = drawn.sum(axis=1)
    return {
        "ece": calibration.ece_of(*calibration.rank_probabilities(y, p, weights), calibration.BINS),
        "brier": drawn @ calibration.squared_errors(y, p) / images,
        "nll": drawn @ calibration.log_losses(y, p) / images,
    }

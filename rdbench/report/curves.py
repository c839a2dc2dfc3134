"""What only the stored predictions can tell: curves over the share of images sent to review, and bootstrap replicates.

Images are reviewed from the most uncertain on; review finds the truth. Equal uncertainties take the expectation over
their orders.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rdbench.benchmark.evaluate import FOLD_SEED, View, views
from rdbench.errors import InputError
from rdbench.metrics.calibration import (
    ReliabilityCurve,
    cross_fitted_probabilities,
    reliability_curve,
    why_uncalibrated,
)
from rdbench.metrics.selective import augrc_of, controls, rank_errors, risk_coverage_curve
from rdbench.metrics.statistics import part_weights
from rdbench.report.means import FloatArray, mean_interval, nan_mean
from rdbench.report.rankings import Ranking

REVIEWED = np.linspace(0, 1, 51)
"""Shares of the test images sent to review at which curves are kept."""
COVERED = 46
"""Risk is kept down to a coverage of one tenth; below that it is about a handful of images."""
RESAMPLES = 200

SHARES = ("reviewed_anomalous", "reviewed_normal", "misses", "alarms")
"""Of anomalous images: reviewed, and missed without review; of normal images: reviewed, and false alarms without."""
RISKS = ("risk", "risk_margin", "risk_oracle")


@dataclass(frozen=True)
class Curves:
    """Means over the cells of one method under one condition; arrays are (51,) over `REVIEWED` or shorter."""

    shares: dict[str, FloatArray]
    """`SHARES` for the method's uncertainty, and with the suffix `_margin` for the threshold margin."""
    risks: dict[str, FloatArray]
    """`RISKS`, and `risk_low` and `risk_high`, the 95 % interval of the first; over the first `COVERED` points."""
    parts: FloatArray
    """(2,) how many anomalous and how many normal parts the shares are of."""
    reliability: ReliabilityCurve | None
    """Of the probabilities fitted across folds, cells pooled."""


@dataclass(frozen=True)
class Evidence:
    """What the predictions of a ranking say."""

    curves: dict[tuple[int, int], Curves]
    """By method and condition."""
    augrc: FloatArray | None
    """(M, C, S, K, R) AUGRC in resamples over parts; methods on the same test images share their draws. NaN under means
    over conditions, which depend on what is compared. None without any predictions."""


def read_evidence(ranking: Ranking, advance: Callable[[], None] = lambda: None) -> Evidence:
    """Compute what the cells' predictions tell; methods without predictions at hand are left out (NaN).

    `advance` is called once per cell. Raises InputError if stored predictions are not what a result was made from.
    """
    if all(source.predictions is None for source in ranking.cells.values()):
        return Evidence({}, None)
    places = ranking.value.shape[:4]
    augrc = np.full((*places, RESAMPLES), np.nan)
    shares = {name: np.full((*places, len(REVIEWED)), np.nan) for s in ("", "_margin") for name in with_suffix(s)}
    risks = {name: np.full((*places, COVERED), np.nan) for name in (*RISKS, "risk_low", "risk_high")}
    parts = np.full((*places, 2), np.nan)
    calibrated: dict[tuple[int, int], list[tuple[NDArray[np.int8], FloatArray]]] = {}
    for (m, c, s), source in ranking.cells.items():
        advance()
        if source.predictions is None:
            continue
        if not np.isfinite(source.result.threshold.value):
            raise InputError(f"{source.origin}: the threshold of {source.result.spec} is not a finite number")
        by_condition = views(source.predictions())
        threshold = source.result.threshold.value
        for k, condition in enumerate(ranking.conditions):
            if condition not in by_condition:
                continue
            view = by_condition[condition]
            for name, curve in review_shares(view, threshold).items():
                shares[name][m, c, s, k] = curve
            parts[m, c, s, k] = [len(np.unique(view.parts[view.labels == label])) for label in (1, 0)]
            errors = wrong(view, threshold)
            resampled, augrc[m, c, s, k] = _risk_replicates(view, errors, ranking.categories[c])
            risks["risk_low"][m, c, s, k], risks["risk_high"][m, c, s, k] = np.percentile(
                resampled, [2.5, 97.5], axis=0
            )
            free = controls(errors, view.scores, threshold)
            for name, uncertainty in zip(RISKS, (view.uncertainties, free["margin"], free["oracle"]), strict=True):
                risks[name][m, c, s, k] = _risk(errors, uncertainty)
            if not why_uncalibrated(view.labels, view.parts):
                p = cross_fitted_probabilities(view.labels, view.scores, view.parts, FOLD_SEED)
                calibrated.setdefault((m, k), []).append((view.labels, p))
    for k, members in ranking.pooled.items():
        for array in (parts, *shares.values(), *risks.values()):
            array[:, :, :, k] = np.mean(array[:, :, :, list(members)], axis=3)
        for m in range(places[0]):
            pooled = [pair for member in members for pair in calibrated.get((m, member), [])]
            if pooled:
                calibrated[m, k] = pooled

    risk, low, high = mean_interval(risks["risk"], risks["risk_low"], risks["risk_high"])
    mean_risks = {name: mean_interval(risks[name], risks[name], risks[name])[0] for name in RISKS[1:]}
    mean_risks |= {"risk": risk, "risk_low": np.maximum(low, 0.0), "risk_high": np.minimum(high, 1.0)}
    mean_shares = {name: mean_interval(array, array, array)[0] for name, array in shares.items()}
    curves = {
        (m, k): Curves(
            {name: array[m, k] for name, array in mean_shares.items()},
            {name: array[m, k] for name, array in mean_risks.items()},
            np.nansum(nan_mean(parts[m, :, :, k], 1), axis=0),
            _reliability(calibrated.get((m, k), [])),
        )
        for m in range(places[0])
        for k in range(places[3])
        if not np.isnan(mean_risks["risk"][m, k]).all()
    }
    return Evidence(curves, augrc)


def with_suffix(suffix: str) -> tuple[str, ...]:
    """The names of `SHARES` for the method ("") or for the threshold margin ("_margin")."""
    return tuple(name + suffix for name in SHARES)


def wrong(view: View, threshold: float) -> FloatArray:
    """(n,) 1 where the decision is wrong."""
    return np.asarray((view.scores > threshold) != (view.labels == 1), dtype=np.float64)


def review_shares(view: View, threshold: float) -> dict[str, FloatArray]:
    """`SHARES` over `REVIEWED`, by the method's uncertainty and by the threshold margin; NaN for an absent class."""
    above, anomalous = view.scores > threshold, view.labels == 1
    shares: dict[str, FloatArray] = {}
    for suffix, uncertainty in (("", view.uncertainties), ("_margin", -np.abs(view.scores - threshold))):
        among = {
            "reviewed_anomalous": 1.0 - _kept(anomalous, uncertainty, anomalous.sum()),
            "reviewed_normal": 1.0 - _kept(~anomalous, uncertainty, (~anomalous).sum()),
            "misses": _kept(anomalous & ~above, uncertainty, anomalous.sum()),
            "alarms": _kept(~anomalous & above, uncertainty, (~anomalous).sum()),
        }
        shares |= {name + suffix: curve for name, curve in among.items()}
    return shares


def _kept(chosen: NDArray[np.bool_], uncertainty: FloatArray, total: int) -> FloatArray:
    """How many of the chosen images are not reviewed, over `total`, at each share of `REVIEWED`."""
    if not total:
        return np.full(len(REVIEWED), np.nan)
    coverage, share = risk_coverage_curve(chosen.astype(np.float64), uncertainty)
    count = np.append(0.0, share * coverage * len(chosen))
    return np.asarray(np.interp(1.0 - REVIEWED, np.append(0.0, coverage), count) / total)


def _risk(errors: FloatArray, uncertainty: FloatArray) -> FloatArray:
    """Error rate among the images not reviewed, over the first `COVERED` points of `REVIEWED`."""
    coverage = 1.0 - REVIEWED[:COVERED]
    return _kept(errors == 1, uncertainty, len(errors))[:COVERED] / coverage


def _risk_replicates(view: View, errors: FloatArray, category: str) -> tuple[FloatArray, FloatArray]:
    """(R, COVERED) risks and (R,) AUGRC in resamples over parts; without a failure both are 0, as nothing is let by.

    Cells of a category share their draws; categories do not, for their parts have nothing to do with each other.
    """
    draws = part_weights(view.parts, RESAMPLES, seed=zlib.crc32(category.encode()))
    ranking = rank_errors(errors, view.uncertainties, draws)
    kept = (1.0 - REVIEWED[:COVERED]) * ranking.total[:, None]
    risks = np.stack([ranking.hits_among(column) / column for column in kept.T], axis=1)
    return risks, np.nan_to_num(augrc_of(ranking))


def _reliability(pairs: list[tuple[NDArray[np.int8], FloatArray]]) -> ReliabilityCurve | None:
    if not pairs:
        return None
    return reliability_curve(np.concatenate([y for y, _ in pairs]), np.concatenate([p for _, p in pairs]))

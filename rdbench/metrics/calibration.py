"""Calibration: from normal images alone (conformal p-values), and of probabilities of being anomalous.

Notation: n images, labels y (n,) with 1 = anomalous, probabilities p (n,) of y = 1.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rdbench.metrics._checks import FloatArray, binary, finite, groups, probabilities, same_length, share
from rdbench.metrics._ranking import Ranking, rank

FOLDS = 5
BINS = 15


class ReliabilityCurve(NamedTuple):
    """One row per non-empty bin, ascending: mean probability, frequency of y = 1, images."""

    probability: FloatArray
    frequency: FloatArray
    images: NDArray[np.int64]


def conformal_p_values(calibration_scores: ArrayLike, scores: ArrayLike) -> FloatArray:
    """(1 + number of calibration scores >= s) / (n + 1) per score (Vovk et al. 2005).

    For a new exchangeable normal image P(p <= a) <= a; `p <= a` is `score > conformal_threshold(.., a)`.
    """
    calibration = np.sort(finite("calibration_scores", calibration_scores))
    return _at_least(calibration, finite("scores", scores)) / (len(calibration) + 1)


def false_alarm_gap(calibration_scores: ArrayLike, normal_test_scores: ArrayLike, highest_level: float = 0.20) -> float:
    """Mean |realised - nominal| false-alarm rate over the attainable levels k/(n + 1) up to `highest_level`.

    At level k/(n + 1) a normal image is a false alarm if its p-value is at most that. `nan` where no
    level is attainable (under 4 calibration images for 0.20).
    """
    calibration = np.sort(finite("calibration_scores", calibration_scores))
    ranks = _at_least(calibration, finite("normal_test_scores", normal_test_scores))
    levels = math.floor(share("highest_level", highest_level) * (len(calibration) + 1) + 1e-9)
    if levels == 0:
        return math.nan
    k = np.arange(1, levels + 1)
    realised = np.searchsorted(np.sort(ranks), k, side="right") / len(ranks)
    return float(np.abs(realised - k / (len(calibration) + 1)).mean())


def cross_fitted_probabilities(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, seed: int) -> FloatArray:
    """P(anomalous) per image (n,) by Platt scaling fitted on the other folds; all `nan` if that cannot be.

    Folds are whole groups (parts), dealt out by `seed` so that the fitting side always has both classes;
    it cannot if a class is in fewer than two groups (`why_uncalibrated` says so). Five folds, or one per
    group where there are fewer. The outcome does not depend on the order of the rows.
    """
    y, s = binary("labels", labels), finite("scores", scores)
    fold = _folds(y, groups, seed)
    same_length(labels=y, scores=s, groups=fold)
    if why_uncalibrated(labels, groups):
        return np.full(len(y), np.nan)
    fitting = np.arange(fold.max() + 1)[:, None] != fold
    slope, intercept = platt(y, s, fitting)
    return sigmoid(slope[fold] * s + intercept[fold])


def why_uncalibrated(labels: ArrayLike, groups: ArrayLike) -> str:
    """The reason why `cross_fitted_probabilities` is `nan`, or "" where it is not."""
    y, group = binary("labels", labels).astype(bool), _groups(groups)
    same_length(labels=y, groups=group)
    for name, members in (("anomalous", group[y]), ("normal", group[~y])):
        if len(np.unique(members)) < 2:
            return f"fewer than two parts with {name} images"
    return ""


def platt(labels: FloatArray, scores: FloatArray, fitting: NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """Slope and intercept (K,) of P(anomalous) = sigmoid(slope s + intercept), fitted on each row of (K, n).

    Maximum likelihood of Platt's (1999) smoothed targets (N+ + 1)/(N+ + 2) and 1/(N- + 2), which has one
    finite optimum for separable scores too. All K fits are one batch of Newton steps, each on scores
    standardised by those that it sees (another image far out would hide their differences); without a
    spread of these the slope is 0.
    """
    weight = fitting.astype(np.float64)
    positives, count = weight @ labels, weight.sum(axis=1)
    centre = weight @ scores / count
    deviation = np.where(fitting, scores - centre[:, None], 0)
    widest = np.abs(deviation).max(axis=1)
    widest = np.where(widest > 0, widest, 1)  # divided first, so that no square overflows or vanishes
    spread = widest * np.sqrt(((deviation / widest[:, None]) ** 2).sum(axis=1) / count)
    spread = np.where(spread > 0, spread, 1)
    x = deviation / spread[:, None]
    high, low = (positives + 1) / (positives + 2), 1 / (count - positives + 2)
    target = np.where(labels == 1, high[:, None], low[:, None])
    mean = (weight * target).sum(axis=1) / count
    slope, intercept = np.zeros(len(fitting)), np.log(mean / (1 - mean))
    loss = _cross_entropy(weight, target, x, slope, intercept)
    for _ in range(100):
        p = sigmoid(slope[:, None] * x + intercept[:, None])
        residual, curvature = weight * (target - p), weight * p * (1 - p)
        g0, g1 = residual.sum(axis=1), (residual * x).sum(axis=1)
        h00, h01, h11 = ((curvature * x**power).sum(axis=1) for power in range(3))
        determinant = h00 * h11 - h01**2
        regular = determinant > 1e-12 * h00 * h11
        d = np.where(regular, determinant, 1)
        step_slope = np.where(regular, (h00 * g1 - h01 * g0) / d, 0)
        step_intercept = np.where(regular, (h11 * g0 - h01 * g1) / d, g0 / h00)
        step = np.ones(len(slope))
        for _ in range(40):  # halve until no fit gets worse: Newton alone can overshoot
            trial = _cross_entropy(weight, target, x, slope + step * step_slope, intercept + step * step_intercept)
            worse = trial > loss + 1e-12 * np.abs(loss)
            if not worse.any():
                break
            step = np.where(worse, step / 2, step)
        slope, intercept, loss = slope + step * step_slope, intercept + step * step_intercept, trial
        if max(np.abs(step_slope).max(), np.abs(step_intercept).max()) < 1e-10:
            break
    return slope / spread, intercept - slope * centre / spread


def ece(labels: ArrayLike, probabilities: ArrayLike, bins: int = BINS) -> float:
    """Expected calibration error over bins of equal mass: mean over images of |frequency - probability| of the bin.

    A group of equal values goes into one bin whole, the one that holds the middle of its ranks.
    """
    return float(ece_of(*rank_probabilities(labels, probabilities), bins)[0])


def ece_of(ranking: Ranking, values: FloatArray, bins: int) -> FloatArray:
    """(R,) ECE of a ranking of labels by probabilities with the distinct values (G,)."""
    size, hits, mass = _binned(ranking, values, bins)
    return np.asarray(np.abs(hits - mass).sum(axis=1) / size.sum(axis=1))


def reliability_curve(labels: ArrayLike, probabilities: ArrayLike, bins: int = BINS) -> ReliabilityCurve:
    """The bins of `ece`: mean probability against frequency, and how many images are in each."""
    size, hits, mass = (rows[0] for rows in _binned(*rank_probabilities(labels, probabilities), bins))
    some = size > 0
    return ReliabilityCurve(mass[some] / size[some], hits[some] / size[some], size[some].astype(np.int64))


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean of (p - y)^2 (Brier 1950)."""
    return float(squared_errors(labels, probabilities).mean())


def squared_errors(labels: ArrayLike, probabilities: ArrayLike) -> FloatArray:
    """(n,) squared errors, of which the Brier score is the mean."""
    y, p = checked(labels, probabilities)
    return (p - y) ** 2


def nll(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean of -ln P(y), in nats; infinite if a probability of 0 or 1 was wrong."""
    return float(log_losses(labels, probabilities).mean())


def log_losses(labels: ArrayLike, probabilities: ArrayLike) -> FloatArray:
    """(n,) negative log-likelihoods."""
    y, p = checked(labels, probabilities)
    with np.errstate(divide="ignore"):
        return -np.log(np.where(y == 1, p, 1 - p))


def rank_probabilities(
    labels: ArrayLike, probabilities: ArrayLike, weights: NDArray[np.integer] | None = None
) -> tuple[Ranking, FloatArray]:
    """The checked ranking of labels by probabilities (n,), and the distinct probabilities (G,), ascending."""
    y, p = checked(labels, probabilities)
    return rank(y, p, weights), np.unique(p)


def sigmoid(z: FloatArray) -> FloatArray:
    """1 / (1 + exp(-z)) without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(z / 2)))


def _binned(ranking: Ranking, values: FloatArray, bins: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(R, bins) images, hits and summed probabilities of the equal-mass bins of each resample."""
    if bins < 1:
        raise ValueError(f"bins: {bins} is not positive")
    rows = len(ranking.total)
    # The middle rank of the group, before + size/2, times bins/n, in whole numbers: exact at the edges.
    middle = (bins * (ranking.before + ranking.end) // (2 * ranking.total[:, None])).astype(np.intp)
    cell = (np.minimum(middle, bins - 1) + bins * np.arange(rows)[:, None]).ravel()

    def binned(amount: FloatArray) -> FloatArray:
        return np.bincount(cell, amount.ravel(), bins * rows).astype(np.float64).reshape(rows, bins)

    return binned(ranking.size), binned(ranking.hits), binned(ranking.size * values)


def checked(labels: ArrayLike, values: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Labels and probabilities (n,) as float64, or a ValueError."""
    y, p = binary("labels", labels), probabilities("probabilities", values)
    same_length(labels=y, probabilities=p)
    return y, p


def _at_least(calibration: FloatArray, scores: FloatArray) -> NDArray[np.int64]:
    """1 + number of the sorted calibration scores at or above each score."""
    return 1 + len(calibration) - np.searchsorted(calibration, scores, side="left")


def _groups(identifiers: ArrayLike) -> NDArray[np.int64]:
    return groups("groups", identifiers)


def _folds(labels: FloatArray, identifiers: ArrayLike, seed: int) -> NDArray[np.int64]:
    """(n,) fold of each image. Groups are dealt in turn, sorted by share of anomalous images and shuffled
    within equal shares, so the groups with a class stand side by side and two of them never share all folds.
    """
    group = _groups(identifiers)
    same_length(labels=labels, groups=group)
    anomalous = np.bincount(group, labels) / np.bincount(group)
    shuffled = np.random.default_rng(seed).permutation(len(anomalous))
    dealt = shuffled[np.argsort(anomalous[shuffled], kind="stable")]
    fold = np.empty(len(dealt), dtype=np.int64)
    fold[dealt] = np.arange(len(dealt)) % min(FOLDS, len(dealt))
    return fold[group]


def _cross_entropy(
    weight: FloatArray, target: FloatArray, x: FloatArray, slope: FloatArray, intercept: FloatArray
) -> FloatArray:
    """(K,) summed -t ln p - (1 - t) ln(1 - p)."""
    z = slope[:, None] * x + intercept[:, None]
    return np.asarray((weight * (np.logaddexp(0, z) - target * z)).sum(axis=1))

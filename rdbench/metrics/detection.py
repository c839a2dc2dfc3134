"""Image detection: how well scores tell anomalous images from normal ones, and what a threshold does.

Notation: n images, labels y (n,) with 1 = anomalous, scores s (n,) with higher = more anomalous.
A function ending in `_of` takes a `Ranking` and gives one value per resample; the plain one is its R = 1.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rdbench.metrics._checks import FloatArray, binary, finite, same_length, share
from rdbench.metrics._ranking import Ranking, rank, ratio


@dataclass(frozen=True)
class Threshold:
    """A conformal threshold: an image is called anomalous if its score lies above `value`.

    level: the false-alarm level that is guaranteed, (n + 1 - rank) / (n + 1)
    attained: whether that is within the level asked for; if not, there were too few calibration scores
    rank: which calibration score, counted from the lowest, 1 to n
    """

    value: float
    level: float
    attained: bool
    rank: int


class ErrorRates(NamedTuple):
    """Shares of normal images called anomalous, and of anomalous images called normal."""

    fpr: float
    fnr: float


def rank_labels(labels: ArrayLike, scores: ArrayLike, weights: NDArray[np.integer] | None = None) -> Ranking:
    """The checked ranking of labels (n,) by scores (n,), under weights (R, n) if given."""
    return rank(*checked(labels, scores), weights)


def checked(labels: ArrayLike, scores: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Labels and scores (n,) as float64, or a ValueError."""
    y, s = binary("labels", labels), finite("scores", scores)
    same_length(labels=y, scores=s)
    return y, s


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """P(s_anomalous > s_normal) + P(s_anomalous = s_normal) / 2; `nan` with one class (Fawcett 2006)."""
    return float(auroc_of(rank_labels(labels, scores))[0])


def auroc_of(ranking: Ranking) -> FloatArray:
    """(R,) AUROC of hits against the rest."""
    rest = ranking.size - ranking.hits
    rest_below = ranking.before - ranking.hits_before
    wins = (ranking.hits * (rest_below + rest / 2)).sum(axis=1)
    return ratio(wins, ranking.total_hits * (ranking.total - ranking.total_hits))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Sum over thresholds, descending, of the step in recall times the precision there.

    Equal scores enter together, as in scikit-learn; `nan` with one class.
    """
    return float(average_precision_of(rank_labels(labels, scores))[0])


def average_precision_of(ranking: Ranking) -> FloatArray:
    """(R,) average precision of hits."""
    hits_above, above = _from_the_top(ranking)
    precision = np.divide(hits_above, above, out=np.zeros_like(above), where=above > 0)
    return _two_classes(ranking, ratio((ranking.hits * precision).sum(axis=1), ranking.total_hits))


def f1_max(labels: ArrayLike, scores: ArrayLike) -> float:
    """The best F1 of any threshold. An oracle: it chooses with the test labels. `nan` with one class."""
    return float(f1_max_of(rank_labels(labels, scores))[0])


def f1_max_of(ranking: Ranking) -> FloatArray:
    """(R,) best F1 over thresholds between the groups."""
    hits_above, above = _from_the_top(ranking)
    f1 = ratio(2 * hits_above, above + ranking.total_hits[:, None])
    return _two_classes(ranking, f1.max(axis=1))


def fpr_at_recall(labels: ArrayLike, scores: ArrayLike, recall: float = 0.95) -> float:
    """False-positive rate at the highest threshold with at least this recall; `nan` with one class.

    Equal scores enter together, so that only a pair that some threshold reaches is reported.
    """
    return float(fpr_at_recall_of(rank_labels(labels, scores), share("recall", recall))[0])


def fpr_at_recall_of(ranking: Ranking, recall: float) -> FloatArray:
    """(R,) false-positive rate at a recall of hits."""
    hits_above, above = _from_the_top(ranking)
    enough = hits_above >= recall * ranking.total_hits[:, None] - 1e-9
    last = enough.shape[1] - 1 - np.argmax(enough[:, ::-1], axis=1)
    row = np.arange(len(last))
    false = (above - hits_above)[row, last] if recall > 0 else np.zeros(len(row))
    return _two_classes(ranking, ratio(false, ranking.total - ranking.total_hits))


def conformal_threshold(calibration_scores: ArrayLike, alpha: float = 0.10) -> Threshold:
    """The split-conformal threshold: the score of rank ceil((n + 1)(1 - alpha)) among n normal images.

    A new exchangeable normal image lies above it with probability at most `alpha` (Vovk et al. 2005).
    With n < 1/alpha - 1 no score gives that; the largest is used, and level = 1/(n + 1) says so.
    """
    scores = np.sort(finite("calibration_scores", calibration_scores))
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: {alpha} is outside (0, 1)")
    n = len(scores)
    wanted = n + 1 - math.floor((n + 1) * alpha + 1e-9)  # 1e-9: (n + 1) alpha is whole where it should be
    position = min(max(wanted, 1), n)
    return Threshold(float(scores[position - 1]), (n + 1 - position) / (n + 1), wanted <= n, position)


def error_rates(labels: ArrayLike, scores: ArrayLike, threshold: float) -> ErrorRates:
    """False-positive and false-negative rate of `score > threshold`; `nan` for a class that is absent."""
    y, s = checked(labels, scores)
    if not math.isfinite(threshold):
        raise ValueError(f"threshold: {threshold} is not finite")
    above, anomalous = s > threshold, y == 1
    normal_images, anomalous_images = int((~anomalous).sum()), int(anomalous.sum())
    return ErrorRates(
        float((above & ~anomalous).sum() / normal_images) if normal_images else math.nan,
        float((~above & anomalous).sum() / anomalous_images) if anomalous_images else math.nan,
    )


def _from_the_top(ranking: Ranking) -> tuple[FloatArray, FloatArray]:
    """(R, G) hits and samples whose key is at least the group's."""
    return (
        ranking.total_hits[:, None] - ranking.hits_before,
        ranking.total[:, None] - ranking.before,
    )


def _two_classes(ranking: Ranking, values: FloatArray) -> FloatArray:
    one_class = (ranking.total_hits == 0) | (ranking.total_hits == ranking.total)
    return np.where(one_class, np.nan, values)

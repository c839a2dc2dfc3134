"""What an uncertainty does when the images shift: it should rise, and spare the false alarms."""

import math

import numpy as np
from numpy.typing import ArrayLike

from rdbench.metrics._checks import FloatArray, binary, finite, same_length, share
from rdbench.metrics._ranking import rank
from rdbench.metrics.detection import auroc
from rdbench.metrics.selective import reviewed


def response(uncertainty: ArrayLike, severity: ArrayLike) -> float:
    """Spearman's rank correlation of uncertainty (n,) with severity (n,); ties share their mean rank.

    Give each image of each condition as one element, clean ones with severity 0. `nan` if either is constant.
    """
    u, v = finite("uncertainty", uncertainty), finite("severity", severity)
    same_length(uncertainty=u, severity=v)
    a, b = _mean_ranks(u), _mean_ranks(v)
    a, b = a - a.mean(), b - b.mean()
    spread = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / spread if spread > 0 else math.nan


def shift_auroc(clean_uncertainty: ArrayLike, shifted_uncertainty: ArrayLike) -> float:
    """P(a shifted image is more uncertain than a clean one), ties half; of normal images only, each (n,)."""
    clean = finite("clean_uncertainty", clean_uncertainty)
    shifted = finite("shifted_uncertainty", shifted_uncertainty)
    labels = np.concatenate([np.zeros(len(clean)), np.ones(len(shifted))])
    return auroc(labels, np.concatenate([clean, shifted]))


def deferred_false_alarms(
    labels: ArrayLike, decisions: ArrayLike, uncertainty: ArrayLike, budget: float = 0.10
) -> float:
    """False alarms that are left per normal image when the floor(budget n) most uncertain images are deferred.

    The budget is of all n images, the denominator all normal images, so deferring can only lower it;
    with ties the expectation over orders. `nan` without a normal image.
    """
    y, d, u = binary("labels", labels), binary("decisions", decisions), finite("uncertainty", uncertainty)
    same_length(labels=y, decisions=d, uncertainty=u)
    normal_images = float((1 - y).sum())
    if normal_images == 0:
        return math.nan
    ranking = rank(d * (1 - y), u)
    kept = ranking.total - reviewed(ranking.total, share("budget", budget))
    return float(ranking.hits_among(kept)[0] / normal_images)


def _mean_ranks(values: FloatArray) -> FloatArray:
    _, group, size = np.unique(values, return_inverse=True, return_counts=True)
    end = np.cumsum(size)
    return np.asarray((end - (size - 1) / 2)[group])

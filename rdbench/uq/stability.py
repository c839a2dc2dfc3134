"""ExCeeD: how likely a detector trained on other images like these would decide the same about an image.

Perini, Vercruyssen and Davis, "Quantifying the Confidence of Anomaly Detectors in Their Example-Wise Predictions",
ECML PKDD 2020; Perini and Davis, "Unsupervised Anomaly Detection with Rejection", NeurIPS 2023.

Notation: n reference scores, of which `below` are at most as high as the score in question; the threshold is the
reference score of rank r from below. With p = (1 + below) / (2 + n), the posterior mean (uniform prior) of the chance
that a score is lower, the number of n new scores that are lower is binomial, and the decision is "anomalous" if they
are at least r:

    P = P(Binomial(n, p) >= r),    stability = |2 P - 1|
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import binom


def log_instability(n: int, rank: int) -> NDArray[np.float64]:
    """log(1 - stability) for each `below` = 0, ..., n: (n + 1,), at most 0.

    Logarithms, because far from the threshold the stability differs from 1 by less than a float can tell.
    """
    p = (1 + np.arange(n + 1)) / (2 + n)
    normal = logsumexp(binom.logpmf(np.arange(rank)[:, None], n, p), axis=0)
    anomalous = logsumexp(binom.logpmf(np.arange(rank, n + 1)[:, None], n, p), axis=0)
    log_instability: NDArray[np.float64] = np.log(2) + np.minimum(normal, anomalous)
    return np.minimum(log_instability, 0)

"""Cross-conformal p-values.

Vovk, "Cross-conformal predictors", Annals of Mathematics and Artificial Intelligence, 2015.

With n images in K folds, all exchangeable with a new one, its p-value satisfies

    P(p <= a) <= 2 a + 2 (1 - a) (K - 1) / (n + K)

for folds of any sizes n_k: by the student of fold k, P_k = (1 + those of the fold that score at least as high) /
(n_k + 1) is a p-value; the P_k's mean with weights (n_k + 1) / (n + K) is ((n + 1) p + K - 1) / (n + K); and twice a
weighted mean of p-values is one (Vovk and Wang, "Combining p-values via averaging", Biometrika 2020). Stated so by
Gasparin and Ramdas, "Improving the statistical efficiency of cross-conformal prediction", 2025; nearly so for CV+ by
Barber, Candes, Ramdas and Tibshirani, "Predictive inference with the jackknife+", Annals of Statistics 2021.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def cross_conformal_p_values(out_of_fold: Sequence[Tensor], scores: Tensor) -> Tensor:
    """(B,) float32 in (0, 1]: how often a normal image scores at least as high as each of B images.

    With n normal images in K folds, (1 + number of them whose score is at least the image's) / (n + 1), both scores by
    the detector that was trained without the normal image's fold.

    Args:
        out_of_fold: for each fold the scores (n_k,) of its own images, ascending.
        scores: (K, B), of the images by each fold's detector.
    """
    n = sum(len(fold) for fold in out_of_fold)
    at_least = [len(fold) - torch.searchsorted(fold, s) for fold, s in zip(out_of_fold, scores, strict=True)]
    return (1 + torch.stack(at_least).sum(dim=0)) / (n + 1)


def folds(n: int, count: int, seed: int) -> tuple[Tensor, ...]:
    """The indices 0 to n - 1 in random order, dealt out to `count` folds as equal in size as can be."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return torch.tensor_split(order, count)

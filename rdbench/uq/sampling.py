"""From a stream of anomaly maps, one per member or sample, to a Prediction.

Notation: K members or samples, B images, maps of H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from rdbench.protocol import Prediction
from rdbench.rd.anomaly import anomaly_score


class RunningMoments:
    """Mean and standard deviation, element by element, of a stream of tensors of one shape that are not kept.

    Welford, "Note on a method for calculating corrected sums of squares and products", 1962. A stream of equal values
    has exactly that mean and a standard deviation of exactly 0.
    """

    def __init__(self) -> None:
        self.count = torch.zeros(())
        self.mean = torch.zeros(())
        """Changed in place by the next value."""
        self._squares = torch.zeros(())  # sum of squared deviations from the mean so far
        self._started = False

    def add(self, value: Tensor, valid: Tensor | None = None) -> None:
        """Take in `value`, where the bool tensor `valid` (broadcast to it) says so; everywhere if it is None."""
        if not self._started:
            self.mean, self._squares, self._started = torch.zeros_like(value), torch.zeros_like(value), True
        self.count = self.count + (value.new_ones(()) if valid is None else valid.to(value))
        deviation = value - self.mean
        if valid is not None:
            deviation.mul_(valid)
        self.mean.addcdiv_(deviation, self.count.clamp_min(1))  # in place: the time goes into memory, not arithmetic
        self._squares.add_(deviation.mul_(value - self.mean))

    def std(self) -> Tensor:
        """Sample standard deviation (n - 1 in the denominator); 0 where fewer than two values were taken in."""
        return (self._squares.clamp_min(0) / (self.count - 1).clamp_min(1)).sqrt()


def predict_from_samples(samples: Iterable[Tensor | tuple[Tensor, Tensor]]) -> Prediction:
    """The prediction that K anomaly maps (B, H, W) make together; one map is in memory at a time.

    A sample is a map, or a map and a bool tensor (broadcast to it) that says which pixels count; all of the first do.
    Where a pixel does not count, the first sample's stands in when the sample is scored: a defect that a sample cannot
    speak of must not look like one that it denies.

    The anomaly score is the mean of the samples' scores, not the maximum of the mean map: the score and its uncertainty
    are then mean and standard deviation of one variable.

    Returns: mean and standard deviation over samples of the maps and of the scores, and every sample's scores (K, B).
    """
    maps, scores = RunningMoments(), RunningMoments()
    member_scores: list[Tensor] = []
    for sample in samples:
        anomaly_map, valid = sample if isinstance(sample, tuple) else (sample, None)
        if not member_scores:
            first = anomaly_map
        score = anomaly_score(anomaly_map if valid is None else torch.where(valid, anomaly_map, first))
        maps.add(anomaly_map, valid)
        scores.add(score)
        member_scores.append(score)
    return Prediction(
        anomaly_map=maps.mean,
        anomaly_score=scores.mean,
        uncertainty=scores.std(),
        uncertainty_map=maps.std(),
        member_scores=torch.stack(member_scores),
    )

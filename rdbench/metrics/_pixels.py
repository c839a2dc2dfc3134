"""The pixel curves and the areas under them, on counts per group of equal map values.

A group is a distinct value (exact) or a histogram bin (streaming): both are scored by the same lines.
"""

import math
from dataclasses import dataclass

import numpy as np

from rdbench.metrics._checks import FloatArray
from rdbench.metrics._ranking import Ranking, harmonic
from rdbench.metrics.detection import auroc_of, average_precision_of

FPR_BOUNDS = (1e-5, 1e-4)
"""Between which AUPIMO takes its mean."""


@dataclass(frozen=True)
class PixelCounts:
    """Counts per group of map values, ascending by value, over all images.

    pixels: (G,) pixels
    anomalous: (G,) anomalous pixels among them
    overlap: (G,) anomalous pixels, each weighted by 1 / area of its region
    recall: (G,) anomalous pixels, each weighted by 1 / anomalous pixels of its image
    alarm: (G,) pixels of images without an anomaly, each weighted by 1 / pixels of its image
    """

    pixels: FloatArray
    anomalous: FloatArray
    overlap: FloatArray
    recall: FloatArray
    alarm: FloatArray
    regions: int
    anomalous_images: int
    normal_images: int

    @property
    def ranking(self) -> Ranking:
        """The anomalous pixels ranked by map value."""
        return Ranking(self.pixels[None], self.anomalous[None])

    def auroc(self) -> float:
        """Pixel AUROC."""
        return float(auroc_of(self.ranking)[0])

    def average_precision(self) -> float:
        """Pixel average precision."""
        return float(average_precision_of(self.ranking)[0])

    def aupro(self, fpr_limit: float) -> float:
        """Area under mean region overlap against FPR, up to the limit and divided by it."""
        if not 0 < fpr_limit <= 1:
            raise ValueError(f"fpr_limit: {fpr_limit} is outside (0, 1]")
        normal = self.pixels - self.anomalous
        if not self.regions or not normal.any():
            return np.nan
        fpr, overlap = descending(normal), descending(self.overlap)
        inside = fpr <= fpr_limit
        at_limit = np.interp(fpr_limit, fpr, overlap)  # the curve's own straight line
        x = np.append(fpr[inside], fpr_limit)
        y = np.append(overlap[inside], at_limit)
        return float(np.trapezoid(y, x) / fpr_limit)

    def aupimo(self, fpr_bounds: tuple[float, float]) -> float:
        """Mean AUPIMO of the anomalous images: linear in the recalls, so their mean curve suffices."""
        if not self.anomalous_images or not self.normal_images:
            return np.nan
        return log_area(descending(self.alarm), descending(self.recall), fpr_bounds)


def descending(counts: FloatArray) -> FloatArray:
    """(G + 1,) share of the total that lies above each threshold, from none to all of it."""
    above = np.append(0, np.cumsum(counts[::-1]))
    return np.asarray(above / above[-1])


def log_area(fpr: FloatArray, recall: FloatArray, bounds: tuple[float, float]) -> float:
    """Mean of recall over ln(FPR) between the bounds; recall is a straight line in FPR across a group.

    On a line recall = a + b FPR the integral of recall d ln(FPR) is a ln(FPR) + b FPR.
    """
    low, high = bounds
    if not 0 < low < high <= 1:
        raise ValueError(f"fpr_bounds: {bounds} is not 0 < low < high <= 1")
    start, end = fpr[:-1], fpr[1:]
    rising = (end > low) & (start < high) & (end > start)
    start, end = start[rising], end[rising]
    first, last = recall[:-1][rising], recall[1:][rising]
    slope = (last - first) / (end - start)
    constant = first - slope * start
    x0, x1 = np.maximum(start, low), np.minimum(end, high)
    return float((constant * np.log(x1 / x0) + slope * (x1 - x0)).sum() / np.log(high / low))


def sparsification_area(by_uncertainty: Ranking, by_error: Ranking) -> float:
    """AUSE from the pixel errors (real numbers, as hits) ranked by uncertainty and by the error itself."""
    n, total = by_error.total[0], by_error.total_hits[0]
    if total == 0:
        return math.nan

    def area(r: Ranking) -> float:
        steps = harmonic(r.end) - harmonic(r.before)
        means = (r.hits + (r.hits_before - r.before * r.rate) * steps).sum()
        return float(means - (r.rate[0, 0] + total / n) / 2)  # trapezoids: half of the first and the last mean

    return (area(by_uncertainty) - area(by_error)) / float(total)

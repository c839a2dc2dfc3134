"""Localisation of images that come one at a time, in memory that does not grow with the images.

The same curves as in `localization`, read off a histogram of the map values (`_histogram`): pixels of one
bin count as tied. Accumulators of the same kind merge.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from rdbench.metrics._histogram import Histogram, bit_patterns
from rdbench.metrics._pixels import FPR_BOUNDS, PixelCounts, descending, log_area, sparsification_area
from rdbench.metrics._ranking import Ranking
from rdbench.metrics._regions import Regions, as_regions, finite_map, same_shape


class PixelAccumulator:
    """Pixel AUROC, AP, AU-PRO and AUPIMO of images that come one at a time.

    The range of the maps need not be known: 65,536 bins are spread over what occurs (`_histogram`).
    `resolution` bounds what that can do to the AUROC. Holds 5 sums per bin, 2.6 MB at the most.
    """

    def __init__(self) -> None:
        self._histogram = Histogram(rows=5)
        self._regions = self._anomalous_images = self._normal_images = 0

    def update(self, mask: ArrayLike | Regions, anomaly_map: ArrayLike) -> None:
        """Add one image: a mask (H, W) or its `Regions`, and its map (H, W) >= 0."""
        regions = as_regions(mask)
        same_shape(regions, anomaly_map)
        bits = bit_patterns("anomaly_map", anomaly_map)
        h = self._histogram
        h.cover(bits)
        counts = h.counts(bits)
        h.table[0] += counts
        if regions.count:
            found = h.columns(bits[regions.pixels])
            width = len(counts)
            anomalous = np.bincount(found, minlength=width)
            h.table[1] += anomalous
            h.table[2] += np.bincount(found, regions.overlap, width)
            h.table[3] += anomalous / len(found)
            self._anomalous_images += 1
            self._regions += regions.count
        else:
            h.table[4] += counts / len(bits)
            self._normal_images += 1

    def merge(self, other: "PixelAccumulator") -> None:
        """Add the images of another accumulator."""
        self._histogram.merge(other._histogram)
        self._regions += other._regions
        self._anomalous_images += other._anomalous_images
        self._normal_images += other._normal_images

    def pixel_auroc(self) -> float:
        """As the function of that name, to within `resolution`."""
        return self._counts().auroc()

    def pixel_average_precision(self) -> float:
        """As the function of that name."""
        return self._counts().average_precision()

    def aupro(self, fpr_limit: float = 0.3) -> float:
        """As the function of that name."""
        return self._counts().aupro(fpr_limit)

    def aupimo(self, fpr_bounds: tuple[float, float] = FPR_BOUNDS) -> float:
        """The mean of the function of that name."""
        return self._counts().aupimo(fpr_bounds)

    def image_aupimo(
        self, mask: ArrayLike | Regions, anomaly_map: ArrayLike, fpr_bounds: tuple[float, float] = FPR_BOUNDS
    ) -> float:
        """AUPIMO of one anomalous image against the normal images so far; `nan` where it has no value."""
        regions = as_regions(mask)
        same_shape(regions, anomaly_map)
        if not regions.count or not self._normal_images:
            return math.nan
        bits = bit_patterns("anomaly_map", anomaly_map)
        self._histogram.cover(bits)
        found = self._histogram.columns(bits[regions.pixels])
        alarm = self._histogram.table[4]
        recall = np.bincount(found, minlength=len(alarm)).astype(np.float64)
        return log_area(descending(alarm), descending(recall), fpr_bounds)

    def resolution(self) -> float:
        """The largest error that binning can have made in the pixel AUROC: half the share of tied pairs."""
        counts = self._counts()
        normal = counts.pixels - counts.anomalous
        pairs = normal.sum() * counts.anomalous.sum()
        return float((normal * counts.anomalous).sum() / (2 * pairs)) if pairs else math.nan

    def _counts(self) -> PixelCounts:
        sums = self._histogram.occupied()
        if not sums.size:
            raise ValueError("PixelAccumulator: empty, no image was added")
        pixels, anomalous, overlap, recall, alarm = sums
        images = self._anomalous_images, self._normal_images
        return PixelCounts(pixels, anomalous, overlap, recall, alarm, self._regions, *images)


class SegF1Accumulator:
    """F1 of `map > threshold` over all pixels of images that come one at a time; exact."""

    def __init__(self, threshold: float) -> None:
        if not math.isfinite(threshold):
            raise ValueError(f"threshold: {threshold} is not finite")
        self.threshold = threshold
        self._hits = self._called = self._anomalous = 0

    def update(self, mask: ArrayLike | Regions, anomaly_map: ArrayLike) -> None:
        """Add one image: a mask (H, W) or its `Regions`, and its map (H, W)."""
        regions, values = as_regions(mask), finite_map("anomaly_map", anomaly_map)
        same_shape(regions, values)
        called = values > np.float64(self.threshold)  # a plain number would be rounded to the map's precision
        self._hits += int(np.count_nonzero(called.reshape(-1)[regions.pixels]))
        self._called += int(np.count_nonzero(called))
        self._anomalous += len(regions.pixels)

    def merge(self, other: "SegF1Accumulator") -> None:
        """Add the images of another accumulator of the same threshold."""
        if other.threshold != self.threshold:
            raise ValueError(f"threshold: {other.threshold} differs from {self.threshold}")
        self._hits += other._hits
        self._called += other._called
        self._anomalous += other._anomalous

    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN)."""
        return 2 * self._hits / (self._called + self._anomalous) if self._anomalous else math.nan


class PixelMoments:
    """Mean and standard deviation of the pixels of images that come one at a time; exact."""

    def __init__(self) -> None:
        self._pixels, self._mean, self._squares = 0, 0.0, 0.0

    def update(self, anomaly_map: ArrayLike) -> None:
        """Add one map (H, W)."""
        values = finite_map("anomaly_map", anomaly_map)
        mean = float(values.mean(dtype=np.float64))
        self._add(values.size, mean, float(values.var(dtype=np.float64)) * values.size)

    def merge(self, other: "PixelMoments") -> None:
        """Add the pixels of another."""
        if other._pixels:
            self._add(other._pixels, other._mean, other._squares)

    def mean(self) -> float:
        """Mean over all pixels."""
        return self._mean if self._pixels else math.nan

    def std(self) -> float:
        """Population standard deviation over all pixels."""
        return math.sqrt(self._squares / self._pixels) if self._pixels else math.nan

    def _add(self, pixels: int, mean: float, squares: float) -> None:
        total, gap = self._pixels + pixels, mean - self._mean  # Chan et al. 1979
        self._squares += squares + gap * gap * self._pixels * pixels / total
        self._mean += gap * pixels / total
        self._pixels = total


class AuseAccumulator:
    """AUSE pooled over the pixels of images that come one at a time, binned as in `PixelAccumulator`."""

    def __init__(self) -> None:
        self._by_uncertainty, self._by_error = Histogram(rows=2), Histogram(rows=2)

    def update(self, error: ArrayLike, uncertainty: ArrayLike) -> None:
        """Add one image: its pixel error >= 0 and its uncertainty map >= 0, both (H, W)."""
        if np.shape(error) != np.shape(uncertainty):
            raise ValueError(f"error is {np.shape(error)}, uncertainty is {np.shape(uncertainty)}: shapes differ")
        e = np.ravel(finite_map("error", error)).astype(np.float64)
        keys = {"error": bit_patterns("error", error), "uncertainty": bit_patterns("uncertainty", uncertainty)}
        for histogram, bits in zip((self._by_error, self._by_uncertainty), keys.values(), strict=True):
            histogram.cover(bits)
            column = histogram.columns(bits)
            width = 1 + histogram.width
            histogram.table[0] += np.bincount(column, minlength=width)
            histogram.table[1] += np.bincount(column, e, width)

    def merge(self, other: "AuseAccumulator") -> None:
        """Add the images of another accumulator."""
        self._by_uncertainty.merge(other._by_uncertainty)
        self._by_error.merge(other._by_error)

    def ause(self) -> float:
        """As the function of that name."""
        by_uncertainty, by_error = (Ranking(*h.occupied()[:, None]) for h in (self._by_uncertainty, self._by_error))
        if not by_error.size.size:
            raise ValueError("AuseAccumulator: empty, no image was added")
        return sparsification_area(by_uncertainty, by_error)

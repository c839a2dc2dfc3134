"""Pixel figures of one method under one condition, from maps that stream by and are not kept. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rdbench.benchmark.results import CLEAN, Figure
from rdbench.metrics.localization import AuseAccumulator, PixelAccumulator, PixelMoments, Regions, SegF1Accumulator

Map = NDArray[np.float32]

RESOLUTION = 1e-4
"""What ties and bins may do to a pixel AUROC before every figure from the same bins says so."""
UNDEFINED = "no anomalous or no normal pixel"


def segmentation_threshold(normal: PixelMoments) -> float:
    """Mean + 3 standard deviations of the maps of normal images, as MVTec AD 2 has it."""
    return normal.mean() + 3 * normal.std()


class PixelTally:
    """Everything that pixel figures are computed from; its memory does not grow with the images."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._maps = PixelAccumulator()
        self._segmentation = SegF1Accumulator(threshold)
        self._uncertainty: AuseAccumulator | None = None

    def add(self, regions: Regions, anomaly_map: Map, uncertainty_map: Map | None) -> None:
        """Add one image: its mask's regions, and its maps (H, W) at the mask's size."""
        self._maps.update(regions, anomaly_map)
        self._segmentation.update(regions, anomaly_map)
        if uncertainty_map is not None:
            wrong = (anomaly_map > np.float64(self._threshold)).reshape(-1)
            wrong[regions.pixels] = ~wrong[regions.pixels]
            self._uncertainty = self._uncertainty or AuseAccumulator()
            self._uncertainty.update(wrong.reshape(regions.shape), uncertainty_map)

    def merge(self, other: PixelTally) -> None:
        """Add the images of another tally of the same threshold."""
        self._maps.merge(other._maps)
        self._segmentation.merge(other._segmentation)
        if other._uncertainty is not None:
            self._uncertainty = self._uncertainty or AuseAccumulator()
            self._uncertainty.merge(other._uncertainty)

    def figures(self) -> dict[str, Figure]:
        """The pixel figures by their names in the catalogue."""
        ranked = {
            "pixel_auroc": _figure(self._maps.pixel_auroc(), UNDEFINED),
            "pixel_ap": _figure(self._maps.pixel_average_precision(), UNDEFINED),
            "aupro_30": _figure(self._maps.aupro(0.30), UNDEFINED),
            "aupro_05": _figure(self._maps.aupro(0.05), UNDEFINED),
            "aupimo": _figure(self._maps.aupimo(), "no anomalous or no normal image"),
        }
        if (resolution := self._maps.resolution()) > RESOLUTION:
            note = f"pixels of one value or bin may move the pixel AUROC by up to {resolution:.2g}"
            ranked = {
                name: figure if figure.value is None else figure.model_copy(update={"note": note})
                for name, figure in ranked.items()
            }
        figures = ranked | {"seg_f1": _figure(self._segmentation.f1(), "no anomalous pixel")}
        if self._uncertainty is None:
            return figures | {"ause": Figure(value=None, note="the method gives no uncertainty map")}
        return figures | {"ause": _figure(self._uncertainty.ause(), "no pixel is wrong")}


def pixel_figures(
    conditions: Sequence[str], tallies: Sequence[Mapping[str, PixelTally]], threshold: float
) -> dict[str, dict[str, Figure]]:
    """Pixel figures by condition, and by real lighting under the clean one, from each condition's tallies."""
    figures = {}
    for name, by_lighting in zip(conditions, tallies, strict=True):
        pooled = PixelTally(threshold)
        for lighting, tally in by_lighting.items():
            pooled.merge(tally)
            if lighting and name == CLEAN:
                figures[lighting] = tally.figures()
        figures[name] = pooled.figures()
    return figures


def _figure(value: float, reason: str) -> Figure:
    return Figure(value=None, note=reason) if math.isnan(value) else Figure(value=float(value))

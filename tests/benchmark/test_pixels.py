"""Pixel figures of maps that stream by."""

import numpy as np

from rdbench.benchmark.pixels import PixelTally
from rdbench.metrics.localization import find_regions, pixel_auroc


def tally(masks: list[np.ndarray], maps: list[np.ndarray]) -> PixelTally:
    made = PixelTally(threshold=1.0)
    for mask, values in zip(masks, maps, strict=True):
        made.add(find_regions(mask), values, None)
    return made


def test_a_pixel_auroc_that_bins_may_have_moved_says_so() -> None:
    rng = np.random.default_rng(0)
    masks = [np.zeros((64, 64), bool) for _ in range(4)]
    for mask in masks[2:]:
        mask[5:20, 5:20] = True
    maps = [(1 + (rng.gamma(2.0, size=mask.shape) + mask) * 1e-4).astype(np.float32) for mask in masks]
    maps[0][0, 0] = 1e-30  # 100 powers of two for 65,536 bins
    figures = tally(masks, maps).figures()
    found = figures["pixel_auroc"]
    assert found.note.startswith("pixels of one value or bin may move the pixel AUROC by up to")
    ranked = ("pixel_ap", "aupro_30", "aupro_05", "aupimo")
    assert {figures[name].note for name in ranked} == {found.note}, "they come from the same bins"
    bound = float(found.note.rpartition(" ")[2])
    assert 1e-3 < abs(found.value - pixel_auroc(masks, maps)) <= bound * 1.01
    spread = [rng.gamma(2.0, size=mask.shape).astype(np.float32) for mask in masks]
    assert tally(masks, spread).figures()["pixel_auroc"].note == ""

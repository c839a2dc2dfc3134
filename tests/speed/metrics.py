"""How fast the metrics are, beside anomalib 2.7 in the same process.

    python tests/speed/metrics.py            # needs anomalib in the environment for the ratios
    python tests/speed/metrics.py --images 20  # a quicker look

Not part of the test run: it takes a minute or two with anomalib and needs about 6 GB.
"""

import argparse
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from rdbench.metrics import calibration, selective
from rdbench.metrics.cell import cell_bootstrap, cell_metrics, check_sample
from rdbench.metrics.localization import PixelAccumulator, find_regions

PAGE = 4096


class PeakMemory:
    """Samples the process's resident memory every 2 ms; `extra` is the peak over the start, in MB."""

    def __enter__(self) -> "PeakMemory":
        self._start = self._peak = self._resident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.extra = (self._peak - self._start) * PAGE / 1e6

    def _watch(self) -> None:
        while not self._stop.wait(0.002):
            self._peak = max(self._peak, self._resident())

    @staticmethod
    def _resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])


def measured(run: Callable[[], object], repeats: int = 3) -> tuple[float, float, object]:
    """Fastest of the repeats in seconds, the extra memory in MB of the first, and the value."""
    with PeakMemory() as memory:
        start = time.perf_counter()
        value = run()
        fastest = time.perf_counter() - start
    for _ in range(repeats - 1):
        start = time.perf_counter()
        run()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest, memory.extra, value


def maps_and_masks(images: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth skewed maps, and masks of which a quarter is empty and the others have one to four blobs."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size]
    maps = np.empty((images, size, size), dtype=np.float32)
    masks = np.zeros((images, size, size), dtype=bool)
    for i in range(images):
        for _ in range(rng.integers(1, 5) if i % 4 else 0):
            r, c, radius = *rng.integers(0, size, 2), rng.integers(8, size // 12)
            masks[i] |= (rows - r) ** 2 + (columns - c) ** 2 < radius**2
        noise = rng.gamma(0.5, size=(size, size)).astype(np.float32)
        maps[i] = 0.2 * gaussian_filter(noise, 4) + 0.03 * gaussian_filter(masks[i].astype(np.float32), 4)
    return maps, masks


def ours_pixel(maps: np.ndarray, masks: np.ndarray) -> tuple[float, float]:
    accumulator = PixelAccumulator()
    for mask, values in zip(masks, maps, strict=True):
        accumulator.update(find_regions(mask), values)
    return accumulator.pixel_auroc(), accumulator.aupro()


def ours_aupimo(maps: np.ndarray, masks: np.ndarray) -> float:
    regions = [find_regions(mask) for mask in masks]
    accumulator = PixelAccumulator()
    for found, values in zip(regions, maps, strict=True):
        accumulator.update(found, values)
    per_image = [accumulator.image_aupimo(r, v) for r, v in zip(regions, maps, strict=True)]
    return float(np.nanmean(per_image))


def compare(name: str, ours: Callable[[], object], theirs: Callable[[], object] | None, target: float) -> None:
    seconds, memory, value = measured(ours)
    print(f"{name}\n  rdbench   {seconds:8.2f} s  {memory:8.0f} MB extra  {value}")
    if theirs is None:
        print("  anomalib  SKIPPED: anomalib 2.7 is not in this environment; no ratio was measured")
        return
    their_seconds, their_memory, value = measured(theirs, repeats=1)
    print(f"  anomalib  {their_seconds:8.2f} s  {their_memory:8.0f} MB extra  {value}")
    ratio, share = their_seconds / seconds, memory / their_memory
    print(f"  {ratio:.0f} times faster (target {target:.0f}), with {share:.1%} of the memory (target 10 %)")


def anomalib_pixel(maps: np.ndarray, masks: np.ndarray) -> tuple[Callable[[], object], Callable[[], object]] | None:
    """anomalib's AUROC with AU-PRO, and its AUPIMO, or None."""
    try:
        import torch
        from anomalib.metrics.aupro import _AUPRO
        from anomalib.metrics.auroc import _AUROC
        from anomalib.metrics.pimo.pimo import _AUPIMO
    except ImportError:
        return None
    values, targets = torch.from_numpy(maps), torch.from_numpy(masks.astype(np.int64))

    def pixel() -> tuple[float, float]:
        auroc, aupro = _AUROC(), _AUPRO(fpr_limit=0.3)
        for v, t in zip(values, targets, strict=True):
            auroc.update(v[None], t[None])
            aupro.update(v[None], t[None])
        return float(auroc.compute()), float(aupro.compute())

    def aupimo() -> float:
        metric = _AUPIMO()
        for v, t in zip(values, targets, strict=True):
            metric.update(v[None], t[None].bool())
        return float(metric.compute())

    return pixel, aupimo


def image_level() -> None:
    rng = np.random.default_rng(0)
    errors, uncertainty = rng.random(100_000) < 0.1, rng.random(100_000)
    three = (selective.aurc, selective.augrc, selective.failure_auroc)
    seconds, _, _ = measured(lambda: [figure(errors, uncertainty) for figure in three])
    print(f"AURC, AUGRC and failure AUROC of 100,000 predictions: {seconds:.3f} s (target 0.1)")

    n = 500
    labels, parts = (rng.random(n) < 0.6).astype(int), rng.integers(0, n // 4, n)
    scores, uncertainty = rng.normal(size=n) + 2 * labels, rng.random(n)
    probabilities = calibration.cross_fitted_probabilities(labels, scores, parts, 0)
    sample = check_sample(labels, scores, uncertainty, 1.2, probabilities)
    seconds, _, _ = measured(lambda: cell_bootstrap(sample, parts))
    print(f"1,000 resamples of every figure of a cell of {n} images: {seconds:.2f} s (target 2)")

    def cells() -> None:
        for _ in range(100):
            p = calibration.cross_fitted_probabilities(labels[:117], scores[:117], parts[:117], 0)
            cell_metrics(check_sample(labels[:117], scores[:117], uncertainty[:117], 1.2, p))

    seconds, _, _ = measured(cells)
    print(f"every figure of a cell of 117 images, Platt scaling included: {seconds * 10:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=83)
    parser.add_argument("--size", type=int, default=900)
    arguments = parser.parse_args()
    image_level()
    maps, masks = maps_and_masks(arguments.images, arguments.size)
    theirs = anomalib_pixel(maps, masks)
    pixel, aupimo = theirs or (None, None)
    size = f"{arguments.images} maps of {arguments.size} x {arguments.size}"
    compare(f"AUROC and AU-PRO of {size}", lambda: ours_pixel(maps, masks), pixel, 40)
    compare(f"AUPIMO of {size}", lambda: ours_aupimo(maps, masks), aupimo, 10)


if __name__ == "__main__":
    main()

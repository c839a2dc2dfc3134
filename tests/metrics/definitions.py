"""Metrics written from their definitions, slow and plain, to hold the fast ones against."""

from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import pairwise, permutations

import numpy as np
from scipy.integrate import quad


@cache
def orders(values: tuple[float, ...], keys: tuple[float, ...]) -> Counter[tuple[float, ...]]:
    """The values in every order of the rows in which the keys do not fall, each with how often it comes."""
    found: Counter[tuple[float, ...]] = Counter()
    for order in permutations(range(len(keys))):
        if all(keys[a] <= keys[b] for a, b in pairwise(order)):
            found[tuple(values[i] for i in order)] += 1
    return found


def over_orders(figure: Callable[[np.ndarray], float], values: np.ndarray, keys: np.ndarray) -> float:
    """The mean of a figure of the ordered values over every order that the ties allow."""
    found = orders(tuple(values.tolist()), tuple(keys.tolist()))
    return float(np.average([figure(np.array(v)) for v in found], weights=list(found.values())))


def flood_regions(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """The pixels of each 8-connected region, found by flooding from pixel to pixel."""
    left = {(int(r), int(c)) for r, c in np.argwhere(mask)}
    regions = []
    while left:
        frontier = [left.pop()]
        region = []
        while frontier:
            r, c = frontier.pop()
            region.append((r, c))
            for near in [(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]:
                if near in left:
                    left.remove(near)
                    frontier.append(near)
        regions.append(region)
    return regions


def slow_aupro(masks: list[np.ndarray], maps: list[np.ndarray], limit: float) -> float:
    """Threshold by threshold: the mean overlap of the regions against the share of normal pixels called."""
    regions = [(i, region) for i, mask in enumerate(masks) for region in flood_regions(mask)]
    normal = np.concatenate([values[mask == 0] for mask, values in zip(masks, maps, strict=True)])
    curve = [(0.0, 0.0)]
    for t in sorted({float(v) for values in maps for v in values.ravel()}, reverse=True):
        overlap = np.mean([np.mean([maps[i][pixel] >= t for pixel in region]) for i, region in regions])
        curve.append((float(np.mean(normal >= t)), float(overlap)))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x1 > limit:
            area += (limit - x0) * (y0 + (y0 + (y1 - y0) * (limit - x0) / (x1 - x0))) / 2
            break
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def slow_aupimo(masks: list[np.ndarray], maps: list[np.ndarray], low: float, high: float) -> list[float]:
    """Per anomalous image the integral of its recall over ln(FPR of the normal images), segment by segment."""
    normal = [values for mask, values in zip(masks, maps, strict=True) if not mask.any()]
    thresholds, fpr = [], [0.0]
    for t in sorted({float(v) for values in maps for v in values.ravel()}, reverse=True):
        thresholds.append(t)
        fpr.append(float(np.mean([np.mean(values >= t) for values in normal])))
        if fpr[-1] > high:  # what follows lies outside
            break
    found = []
    for mask, values in zip(masks, maps, strict=True):
        if not mask.any():
            continue
        recall = [0.0] + [float(np.mean(values[mask == 1] >= t)) for t in thresholds]
        area = 0.0
        for k in range(len(thresholds)):
            a, b = max(fpr[k], low), min(fpr[k + 1], high)
            if b > a:
                slope = (recall[k + 1] - recall[k]) / (fpr[k + 1] - fpr[k])
                line = (recall[k] - slope * fpr[k], slope)
                area += quad(lambda x, c=line: (c[0] + c[1] * x) / x, a, b, epsabs=1e-13)[0]
        found.append(area / np.log(high / low))
    return found


def random_images(
    seed: int, images: int = 6, ties: bool = False, normal: int = 2
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Masks with a few touching rectangles, and maps of different sizes that are higher inside them."""
    rng = np.random.default_rng(seed)
    masks, maps = [], []
    for i in range(images):
        height, width = rng.integers(12, 24, size=2)
        mask = np.zeros((height, width), dtype=np.uint8)
        for _ in range(0 if i < normal else rng.integers(1, 5)):
            r, c = rng.integers(height - 4), rng.integers(width - 4)
            mask[r : r + rng.integers(1, 5), c : c + rng.integers(1, 5)] = 1
        values = rng.gamma(2.0, size=mask.shape) + mask * rng.gamma(2.0, size=mask.shape)
        masks.append(mask)
        maps.append(np.round(values * 4) / 4 if ties else values.astype(np.float32).astype(np.float64))
    return masks, maps

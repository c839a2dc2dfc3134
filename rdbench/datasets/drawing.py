"""Shapes, noise and light on a square canvas, in numpy: what the scenes of the toy data set are drawn with.

Pictures are planar, (3, H, W) float32.
Coordinates are pixels, x to the right and y down, (0, 0) the middle of the top left pixel. A *coverage* is an
(H, W) float32 array in [0, 1]: how much of each pixel a shape covers, with an edge one pixel wide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from rdbench.datasets.base import ImageArray

SIZE = 256
"""Height and width of every canvas, pixels."""

Array = NDArray[np.float32]
Colour = tuple[float, float, float]


@cache
def pixels() -> tuple[Array, Array]:
    """The x and the y of every pixel, both (H, W). Shared: do not change them in place."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    return x, y


def colour(rgb: Sequence[float]) -> Array:
    """A colour (3, 1, 1) that multiplies an (H, W) array into a picture."""
    return np.array(rgb, np.float32).reshape(3, 1, 1)


def smooth_noise(rng: Generator, cells: tuple[int, int]) -> Array:
    """Noise (H, W) of mean 0 and standard deviation about 1 whose features are H / rows by W / columns pixels."""
    coarse = rng.standard_normal(cells, np.float32)
    return np.asarray(Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float32)


def table(rng: Generator, index: Array) -> Array:
    """One normal number per integer part of `index`, the same wherever that integer comes again (threads, grooves)."""
    values = rng.standard_normal(1024, np.float32)
    return np.asarray(values[index.astype(np.int32) & 1023], np.float32)


def inside(distance: ArrayLike) -> Array:
    """Coverage of a shape from the signed distance to its edge in pixels, positive inside."""
    return np.asarray(np.clip(np.asarray(distance) + 0.5, 0, 1), np.float32)


def disc(x: float | Array, y: float | Array, radius: float | Array) -> Array:
    """Coverage of a disc; arrays give each pixel a disc of its own (the one of its cell, in a repeated pattern)."""
    px, py = pixels()
    return inside(radius - np.hypot(px - x, py - y))


def blob(rng: Generator, x: float, y: float, radius: float) -> Array:
    """Signed distance, about, to the edge of an irregular blob: a disc whose radius wavers with the angle."""
    px, py = pixels()
    angle = np.arctan2(py - y, px - x)
    reach = np.full_like(angle, radius)
    for harmonic in (2, 3, 5):
        reach += radius * rng.uniform(0.05, 0.3) / harmonic**0.5 * np.sin(harmonic * angle + rng.uniform(0, 6.28))
    return np.asarray(reach - np.hypot(px - x, py - y), np.float32)


def stroke(points: Sequence[tuple[float, float]], width: float) -> Array:
    """Coverage of a line of `width` pixels through (x, y) points."""
    px, py = pixels()
    nearest = np.full_like(px, np.inf)
    for (x0, y0), (x1, y1) in pairwise(points):
        dx, dy = x1 - x0, y1 - y0
        along = np.clip(((px - x0) * dx + (py - y0) * dy) / max(dx * dx + dy * dy, 1e-6), 0.0, 1.0)
        np.minimum(nearest, np.hypot(px - x0 - along * dx, py - y0 - along * dy), out=nearest)
    return inside(width / 2 - nearest)


def wander(rng: Generator, x: float, y: float, angle: float, length: float, bend: float) -> list[tuple[float, float]]:
    """Six points of a line about `length` pixels long that sets out at `angle` and turns by about `bend` radians."""
    points = [(x, y)]
    for _ in range(5):
        angle += bend * rng.standard_normal()
        x, y = x + length / 5 * math.cos(angle), y + length / 5 * math.sin(angle)
        points.append((x, y))
    return points


def blend(below: Array, above: Array, coverage: Array) -> Array:
    """`above` laid over `below`, pictures or colours."""
    return below + coverage * (above - below)


@dataclass(frozen=True)
class Light:
    """How a surface is lit and exposed."""

    gain: float
    """Exposure; 1 shows a white surface as just white."""
    angle: float
    """Where the light comes from, radians, 0 from the right, growing clockwise."""
    slope: float
    """Relative change of brightness from one side of the image to the other."""


def expose(surface: Array, light: Light, rng: Generator) -> ImageArray:
    """What a sensor makes of a surface (3, H, W): exposure, fall-off across the image, read noise, 8 bits (H, W, 3)."""
    x, y = pixels()
    across = ((x - SIZE / 2) * math.cos(light.angle) + (y - SIZE / 2) * math.sin(light.angle)) / SIZE
    seen = surface * (light.gain * (1 + light.slope * across))
    seen += 0.012 * rng.standard_normal(surface.shape, np.float32)
    bits = (np.clip(seen, 0, 1) * 255 + 0.5).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(bits, 0, -1))

"""The three scenes of the toy data set: what a camera would see of a good part, and of the same part with a defect.

A scene is a function of a random generator, which draws the part (its pose, its grain), and of the angle that light
comes from. It returns the surface, (3, H, W) float32 reflectance about in [0, 1], and a function that draws a defect
of a given kind on that part: its coverage (H, W) and what is seen where it covers, (3, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from rdbench.datasets.drawing import (
    Array,
    blend,
    blob,
    colour,
    disc,
    inside,
    pixels,
    smooth_noise,
    stroke,
    table,
    wander,
)

Layer = tuple[Array, Array]
Scene = tuple[Array, Callable[[str, Generator], Layer]]


def twill(rng: Generator, light: float) -> Scene:
    """A twill weave with uneven threads, turned and shifted a little from part to part."""
    px, py = pixels()
    turn, pitch = rng.normal(0, 0.015), rng.uniform(7.8, 8.2)
    warp_at = (
        (px * math.cos(turn) + py * math.sin(turn)) / pitch + rng.uniform(8, 16) + 0.12 * smooth_noise(rng, (9, 5))
    )
    weft_at = (
        (py * math.cos(turn) - px * math.sin(turn)) / pitch + rng.uniform(8, 16) + 0.12 * smooth_noise(rng, (5, 9))
    )
    warp, weft = np.floor(warp_at), np.floor(weft_at)
    profiles = [1 - (2 * (at - thread) - 1) ** 2 for at, thread in ((warp_at, warp), (weft_at, weft))]
    # Light from the side makes the threads that run across it stand out.
    shade = [0.5 + (0.35 + 0.15 * lit) * p for p, lit in zip(profiles, (math.cos(light), math.sin(light)), strict=True)]
    fibre = 1 + 0.05 * rng.standard_normal(px.shape, np.float32)
    warps = (shade[0] * fibre * (1 + 0.07 * table(rng, warp))) * colour((0.30, 0.38, 0.52))
    wefts = (shade[1] * fibre * (1 + 0.07 * table(rng, weft))) * colour((0.74, 0.72, 0.64))
    over = (warp + weft) % 4 < 2
    surface = np.where(over, warps, wefts)

    def defect(kind: str, rng: Generator) -> Layer:
        x, y = rng.uniform(48, 208), rng.uniform(48, 208)
        if kind == "hole":
            edge = blob(rng, x, y, rng.uniform(5, 10)) + 1.5 * rng.standard_normal(px.shape, np.float32)
            return inside(edge), 0.15 * surface
        if kind == "stain":
            edge = blob(rng, x, y, rng.uniform(16, 26))
            # What dries leaves most of itself along the border.
            rim = np.exp(-(((edge - 3) / 2) ** 2))
            return inside(edge / 2), surface * colour((0.62, 0.52, 0.36)) * (1 - 0.45 * rim)
        thread = weft[int(y), int(x)]
        length = rng.uniform(4, 10)
        along = np.clip((length - np.abs(warp_at - warp_at[int(y), int(x)])) * 2, 0, 1)
        if kind == "missing_thread":
            return along * (weft == thread), 0.45 * warps
        if kind == "slub":
            swell = 1.1 * np.sqrt(along) - np.abs(weft_at - thread - 0.5)
            return inside(swell * pitch) * (along > 0), (0.75 + 0.35 * np.clip(swell, 0, 1)) * colour(
                (0.74, 0.72, 0.64)
            )
        assert kind == "weave_fault"
        fault = (np.abs(weft - thread) <= 2) & (along > 0)
        return fault.astype(np.float32), np.where(over, wefts, warps)

    return surface, defect


def tablets(rng: Generator, light: float) -> Scene:
    """A blister card of sixteen scored tablets on embossed foil."""
    px, py = pixels()
    pitch = 64
    column, row = (px / pitch).astype(np.int32), (py / pitch).astype(np.int32)
    x = column.astype(np.float32) * pitch + (pitch - 1) / 2 + rng.normal(0, 0.5, (4, 4)).astype(np.float32)[row, column]
    y = row.astype(np.float32) * pitch + (pitch - 1) / 2 + rng.normal(0, 0.5, (4, 4)).astype(np.float32)[row, column]
    dx, dy = px - x, py - y
    away = np.hypot(dx, dy)
    toward = dx * math.cos(light) + dy * math.sin(light)

    emboss = np.sin((px + py) * 0.55) * np.sin((px - py) * 0.55)
    foil = 0.58 + 0.05 * emboss + 0.015 * smooth_noise(rng, (6, 6)) + 0.02 * rng.standard_normal(px.shape, np.float32)
    pocket = inside(27.0 - away)
    bowl = foil * (1 - 0.35 * pocket) + 0.006 * toward * pocket
    empty = bowl * colour((0.95, 0.98, 1.0))

    radius = 21 + rng.normal(0, 0.2, (4, 4)).astype(np.float32)[row, column]
    dome = np.sqrt(np.clip(1 - (away / (radius + 6)) ** 2, 0, 1))
    turn = rng.normal(0.8, 0.15, (4, 4)).astype(np.float32)[row, column]
    score = inside(1.6 - np.abs(dx * np.sin(turn) - dy * np.cos(turn))) * inside(15.0 - away)
    powder = 1 + 0.025 * rng.standard_normal(px.shape, np.float32) + 0.015 * smooth_noise(rng, (48, 48))
    lit = (0.62 + 0.33 * dome - 0.004 * toward) * (1 - 0.22 * score) * powder
    face = inside(radius - away)
    tablet = lit * colour((1.0, 0.86, 0.70))
    surface = blend(empty, tablet, face)

    def defect(kind: str, rng: Generator) -> Layer:
        cell = rng.integers(0, 4, 2)
        mine = (row == cell[0]) & (column == cell[1])
        cx, cy = (float(c[mine][0]) for c in (x, y))
        angle = rng.uniform(0, 2 * np.pi)
        if kind == "missing":
            return face * mine, empty
        if kind == "discoloured":
            return face * mine, tablet * colour((0.78, 0.80, 0.62))
        if kind == "chip":
            edge = blob(rng, cx + 20 * math.cos(angle), cy + 20 * math.sin(angle), rng.uniform(5, 9))
            return inside(edge) * face * mine, 0.75 * empty
        if kind == "spot":
            edge = blob(rng, cx + 9 * math.cos(angle), cy + 9 * math.sin(angle), rng.uniform(3.0, 5.5))
            return inside(edge) * face, 0.3 * tablet
        assert kind == "crack"
        start = (cx - 19 * math.cos(angle), cy - 19 * math.sin(angle))
        line = stroke(wander(rng, *start, angle, 36, 0.35), rng.uniform(1.8, 2.8))
        return line * face * mine, 0.45 * tablet

    return surface, defect


def flange(rng: Generator, light: float) -> Scene:
    """A turned steel flange with bore, six holes, a groove and a printed scale, in one pose but for play."""
    px, py = pixels()
    cx, cy = rng.normal(127.5, 0.5), rng.normal(127.5, 0.5)
    turn = rng.normal(0, 0.01)
    dx, dy = px - cx, py - cy
    away, angle = np.hypot(dx, dy), np.arctan2(dy, dx)
    grooves = 0.025 * table(rng, away * 1.5) + 0.015 * table(rng, away * 0.6)
    # Turned metal throws light back in two opposite fans, across the direction it comes from.
    sheen = 0.12 * np.cos(2 * (angle - light))
    grain = 0.015 * rng.standard_normal(px.shape, np.float32) + 0.012 * smooth_noise(rng, (5, 5))
    steel = (0.60 + sheen + grooves * (1 + 2 * sheen) + grain) * colour((0.97, 1.0, 1.03))
    bench = (0.13 + 0.02 * smooth_noise(rng, (24, 24)) + grain) * colour((1.0, 0.98, 0.92))

    def rim(radius: float) -> Array:
        """The side of an edge that faces the light is bright, the other dark."""
        return np.asarray(np.exp(-((away - radius) ** 2) / 4) * np.cos(angle - light), np.float32)

    plate = steel * (1 - 0.45 * inside(1.5 - np.abs(away - 52.0)))
    plate = plate + (0.18 * rim(110.0) - 0.18 * rim(31.0))
    steps = (angle - turn) / (np.pi / 18)
    nearest = np.round(steps)
    long = np.where(nearest % 3 == 0, 90.0, 95.0)
    ticks = inside(1.1 - np.abs(steps - nearest) * (np.pi / 18) * away) * inside(away - long) * inside(102.0 - away)
    ink = np.full_like(plate, 0.12)
    printed = blend(plate, ink, 0.85 * ticks)
    hole_angles = turn + np.pi / 6 + np.arange(6) * np.pi / 3
    hole_at = np.stack((cx + 74 * np.cos(hole_angles), cy + 74 * np.sin(hole_angles)))
    sector = np.floor((angle - turn) / (np.pi / 3)).astype(np.int32) % 6
    hole_x, hole_y = hole_at.astype(np.float32)[:, sector]
    holes = disc(hole_x, hole_y, 10.0)
    openings = np.maximum(holes, inside(31.0 - away))
    surface = blend(bench, blend(printed, 0.5 * bench, openings), inside(112.0 - away))

    def defect(kind: str, rng: Generator) -> Layer:
        way = rng.uniform(0, 2 * np.pi)
        distance = rng.uniform(58, 86)
        x, y = cx + distance * math.cos(way), cy + distance * math.sin(way)
        on_metal = inside(112.0 - away) * (1 - openings)
        if kind == "scratch":
            line = stroke(wander(rng, x, y, rng.uniform(0, 6.28), rng.uniform(50, 80), 0.15), rng.uniform(1.8, 3.0))
            return line * on_metal, 0.3 * surface
        if kind == "rust":
            edge = blob(rng, x, y, rng.uniform(11, 19)) + 2.5 * smooth_noise(rng, (64, 64))
            return inside(edge / 3) * on_metal, surface * colour((0.66, 0.38, 0.20))
        if kind == "nick":
            edge = blob(rng, cx + 112 * math.cos(way), cy + 112 * math.sin(way), rng.uniform(6, 11))
            return inside(edge) * inside(112.0 - away), bench
        if kind == "blocked_hole":
            which = rng.integers(6)
            return holes * (sector == which), 0.8 * steel
        assert kind == "worn_print"
        wiped = np.clip((rng.uniform(0.3, 0.6) - np.abs((angle - way + np.pi) % (2 * np.pi) - np.pi)) * 8, 0, 1)
        return wiped * ticks, plate

    return surface, defect


SCENES: dict[str, tuple[Callable[[Generator, float], Scene], tuple[str, ...]]] = {
    "twill": (twill, ("hole", "missing_thread", "slub", "stain", "weave_fault")),
    "flange": (flange, ("blocked_hole", "nick", "rust", "scratch", "worn_print")),
    "tablets": (tablets, ("chip", "crack", "discoloured", "missing", "spot")),
}
"""Each category's scene and the kinds of defect it can draw, structural and textural."""

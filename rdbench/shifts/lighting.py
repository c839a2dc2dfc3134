"""Shifts of the light. Pixel values are taken as the square root of light: near sRGB's curve, and exact to compute."""

from __future__ import annotations

from torch import Tensor

from rdbench.shifts.draws import Draws


def exposure(images: Tensor, draws: Draws, stops: float) -> Tensor:
    """Light times or divided by 2 ** stops."""
    return images * draws.per_image(lambda generator: 2 ** (generator.choice((-stops, stops)) / 2))

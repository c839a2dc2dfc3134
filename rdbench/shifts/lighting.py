"""Shifts of the light. Pixel values are taken as the square root of light: near sRGB's curve, and exact to compute.

Only sums, products, quotients and square roots touch pixels: IEEE 754 rounds them alike on every device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rdbench.shifts.draws import Draws

DAYLIGHT_KELVIN = 6504
"""The white of sRGB (D65)."""


def pixel_scale(images: Tensor) -> float:
    """How many pixels of these images one pixel of a 256-pixel image is."""
    return min(images.shape[-2:]) / 256


def exposure(images: Tensor, draws: Draws, stops: float) -> Tensor:
    """Light times or divided by 2 ** stops."""
    return images * draws.per_image(lambda generator: 2 ** (generator.choice((-stops, stops)) / 2))


def gradient(images: Tensor, draws: Draws, stops: float) -> Tensor:
    """A plane over the image, in a direction drawn per image; `stops` between its two ends, the middle unchanged."""
    height, width = images.shape[2:]
    slope = math.tanh(stops * math.log(2) / 4)  # (1 + slope) / (1 - slope) = 2 ** (stops / 2)
    angles = [generator.uniform(0, math.tau) for generator in draws.generators()]
    across = draws.tensor([math.cos(angle) / (abs(math.cos(angle)) + abs(math.sin(angle))) for angle in angles])
    down = draws.tensor([math.sin(angle) / (abs(math.cos(angle)) + abs(math.sin(angle))) for angle in angles])
    plane = across * _axis(images, width).view(1, 1, 1, width) + down * _axis(images, height).view(1, 1, height, 1)
    return images * (1 + slope * plane)


def _axis(images: Tensor, length: int) -> Tensor:
    """-1 at one border, 1 at the other."""
    return (2 * torch.arange(length, device=images.device, dtype=torch.float32) + 1 - length) / length


def colour_temperature(images: Tensor, draws: Draws, mired: float, warm: float, cool: float) -> Tensor:
    """White becomes the black body's at `warm` or `cool` kelvin, at equal luminance."""
    gains = [_white_gains(generator.choice((warm, cool))) for generator in draws.generators()]
    return images * torch.cat([draws.tensor([gain[channel] for gain in gains]) for channel in range(3)], dim=1)


def _white_gains(kelvin: float) -> list[float]:
    """Factors of red, green and blue pixel values that turn daylight's white into the black body's at `kelvin`."""
    light = _black_body(kelvin)
    white = _black_body(DAYLIGHT_KELVIN)
    gains = [a / b for a, b in zip(light, white, strict=True)]
    luminance = sum(weight * gain for weight, gain in zip((0.2126, 0.7152, 0.0722), gains, strict=True))
    return [math.sqrt(gain / luminance) for gain in gains]


def _black_body(kelvin: float) -> tuple[float, float, float]:
    """Linear sRGB of the Planckian locus by the cubic splines of Kim et al. (2002), 1667 to 25000 K."""
    t = 1000 / kelvin
    if kelvin <= 4000:
        x = -0.2661239 * t**3 - 0.2343589 * t**2 + 0.8776956 * t + 0.179910
    else:
        x = -3.0258469 * t**3 + 2.1070379 * t**2 + 0.2226347 * t + 0.240390
    if kelvin <= 2222:
        y = -1.1063814 * x**3 - 1.34811020 * x**2 + 2.18555832 * x - 0.20219683
    elif kelvin <= 4000:
        y = -0.9549476 * x**3 - 1.37418593 * x**2 + 2.09137015 * x - 0.16748867
    else:
        y = 3.0817580 * x**3 - 5.87338670 * x**2 + 3.75112997 * x - 0.37001483
    big_x, big_z = x / y, (1 - x - y) / y
    return (
        3.2406 * big_x - 1.5372 - 0.4986 * big_z,
        -0.9689 * big_x + 1.8758 + 0.0415 * big_z,
        0.0557 * big_x - 0.2040 + 1.0570 * big_z,
    )


def highlight(images: Tensor, draws: Draws, count: float, radius: float) -> Tensor:
    """Soft round spots of added light, twice as strong as white in their middle, at places drawn per image."""
    return (images.square() + 2 * spots(images, draws, int(count), radius, 0.3)).clamp(0, 1).sqrt()


def spots(images: Tensor, draws: Draws, count: int, radius: float, spread: float, salt: int = 0) -> Tensor:
    """Soft discs at places drawn per image, (B, 1, H, W): 1 in their middles, 0 from their radii on.

    Args:
        radius: in pixels of a 256-pixel image; each disc's own is up to `spread` of that larger or smaller.
        salt: another number for other places.
    """
    height, width = images.shape[2:]
    radius = radius * pixel_scale(images)
    drawn = torch.tensor(
        [
            [(g.random() * width, g.random() * height, g.uniform(1 - spread, 1 + spread)) for _ in range(count)]
            for g in draws.generators(salt)
        ]
    ).to(images.device)
    x, y, own = (drawn[:, :, index, None, None] for index in range(3))
    reach = math.ceil(radius * (1 + spread))
    window = torch.arange(-reach, reach + 1, device=images.device)
    columns = x.floor().long() + window.view(1, 1, 1, -1)
    rows = y.floor().long() + window.view(1, 1, -1, 1)
    distance = ((columns - x) / (radius * own)).square() + ((rows - y) / (radius * own)).square()
    disc = (1 - distance).clamp(min=0).square()
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    place = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    cover = torch.zeros(len(images), height * width, device=images.device)
    # The largest where discs overlap: no order of writing can change it.
    cover.scatter_reduce_(1, place.flatten(1), (disc * inside).flatten(1), "amax")
    return cover.view(-1, 1, height, width)


def flicker(images: Tensor, draws: Draws, depth: float) -> Tensor:
    """Rows lit at different moments of the mains' cycle: 3 to 6 dark bands, their place drawn per image."""
    height = images.shape[2]
    factors = torch.empty(len(images), 1, height, 1)
    for factor, generator in zip(factors, draws.generators(), strict=True):
        bands, phase = generator.uniform(3, 6), generator.random()
        turns = [bands * row / height + phase for row in range(height)]
        light = [1 - depth / 100 * (0.5 - 0.5 * math.cos(math.tau * turn)) for turn in turns]
        factor.copy_(torch.tensor([math.sqrt(value) for value in light]).view(1, height, 1))
    return images * factors.to(images.device)

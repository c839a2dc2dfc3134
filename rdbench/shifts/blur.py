"""Blur, in integers: sums of 8-bit values are exact, so no order of summation can change a bit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rdbench.shifts.draws import Draws


def pixel_scale(images: Tensor) -> float:
    """How many pixels of these images one pixel of a 256-pixel image is."""
    return min(images.shape[2:]) / 256


def defocus(images: Tensor, draws: Draws, diameter: float) -> Tensor:
    """The mean over a disc of `diameter` pixels at 256 pixels."""
    return disc_mean(images, diameter / 2 * pixel_scale(images))


def disc_mean(images: Tensor, radius: float) -> Tensor:
    """The mean over all pixels at most `radius` away, the image mirrored at its border.

    Each row of the disc is a difference of two running sums, so the cost grows with the radius, not its square.
    """
    height, width = images.shape[2:]
    reach = min(int(radius), height - 1, width - 1)
    levels = mirrored(to_levels(images), reach)
    running = torch.nn.functional.pad(levels.cumsum(-1, dtype=torch.int32), (1, 0))
    total = torch.zeros(images.shape, dtype=torch.int32, device=images.device)
    count = 0
    for row in range(-reach, reach + 1):
        half = min(math.isqrt(int(radius**2 - row**2)), reach)
        sums = running[:, :, reach + row : reach + row + height]
        total += sums[..., reach + half + 1 : reach + half + 1 + width]
        total -= sums[..., reach - half : reach - half + width]
        count += 2 * half + 1
    return total / (255 * count)


def to_levels(images: Tensor) -> Tensor:
    """8-bit levels, int32."""
    return (images * 255).round().to(torch.int32)


def mirrored(images: Tensor, reach: int) -> Tensor:
    """The images with `reach` more pixels on each side, mirrored about the outermost pixel, contiguous."""
    for axis in (2, 3):
        length = images.shape[axis]
        index = torch.arange(-reach, length + reach, device=images.device).abs()
        images = images.index_select(axis, torch.where(index < length, index, 2 * (length - 1) - index))
    return images.contiguous()

"""Blur, in integers: sums of 8-bit values are exact, so no order of summation can change a bit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rdbench.shifts.draws import Draws
from rdbench.shifts.reach import disc_radius, path_reach


def defocus(images: Tensor, draws: Draws, diameter: float) -> Tensor:
    """The mean over a disc of `diameter` pixels at 256 pixels."""
    total, count = disc_sum(images, disc_radius(diameter, min(images.shape[2:])))
    return total / (255 * count)


def disc_sum(images: Tensor, radius: float) -> tuple[Tensor, int]:
    """The sum of the 8-bit levels at most `radius` pixels away, (B, 3, H, W) int32, and how many they are.

    The image is mirrored at its border. Each row of the disc is a difference of two running sums, so the cost grows
    with the radius, not with its square.
    """
    height, width = images.shape[2:]
    reach = int(radius)
    running = torch.nn.functional.pad(mirrored(to_levels(images), reach).cumsum(-1, dtype=torch.int32), (1, 0))
    total = torch.zeros(images.shape, dtype=torch.int32, device=images.device)
    count = 0
    for row in range(-reach, reach + 1):
        half = math.isqrt(int(radius**2 - row**2))
        sums = running[:, :, reach + row : reach + row + height]
        total += sums[..., reach + half + 1 : reach + half + 1 + width]
        total -= sums[..., reach - half : reach - half + width]
        count += 2 * half + 1
    return total, count


def motion(images: Tensor, draws: Draws, length: float) -> Tensor:
    """The mean along a straight path of `length` pixels at 256 pixels, its direction drawn per image."""
    height, width = images.shape[2:]
    reach = path_reach(length, min(height, width))
    padded = mirrored(to_levels(images), reach)
    blurred = []
    for levels, generator in zip(padded, draws.generators(), strict=True):
        angle = generator.uniform(0, math.pi)
        total = torch.zeros((3, height, width), dtype=torch.int32, device=images.device)
        for step in range(-reach, reach + 1):
            top = reach + round(step * math.sin(angle))
            left = reach + round(step * math.cos(angle))
            total += levels[:, top : top + height, left : left + width]
        blurred.append(total)
    return torch.stack(blurred) / (255 * (2 * reach + 1))


def to_levels(images: Tensor) -> Tensor:
    """8-bit levels, int32."""
    return (images * 255).round().to(torch.int32)


def mirrored(levels: Tensor, reach: int) -> Tensor:
    """`reach` more pixels on each side, mirrored about the outermost pixel; contiguous."""
    for axis in (2, 3):
        last = levels.shape[axis] - 1
        index = torch.arange(-reach, last + 1 + reach, device=levels.device).abs() % max(2 * last, 1)
        levels = levels.index_select(axis, torch.where(index > last, 2 * last - index, index))
    return levels.contiguous()

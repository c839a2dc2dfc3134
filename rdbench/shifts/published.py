"""The four shifts of ADShift (Cao, Zhu and Pang, ICCV 2023): those of ImageNet-C (Hendrycks and Dietterich, 2019).

ADShift corrupts images at their own size and resizes them afterwards; rdbench shifts what the model sees, so that blur
and noise weigh more here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rdbench.shifts.blur import disc_sum, mirrored, to_levels
from rdbench.shifts.draws import Draws


def brightness(images: Tensor, draws: Draws, added: float) -> Tensor:
    """Add to the value of HSV, hue and saturation kept."""
    value = images.amax(dim=1, keepdim=True)
    brighter = (value + added).clamp(max=1)
    return torch.where(value > 0, images / value * brighter, brighter)


def contrast(images: Tensor, draws: Draws, factor: float) -> Tensor:
    """Shrink the difference from each channel's mean."""
    mean = to_levels(images).sum(dim=(2, 3), keepdim=True) / (255 * images[0, 0].numel())
    return (images - mean) * factor + mean


def defocus_blur(images: Tensor, draws: Draws, radius: float, softness: float) -> Tensor:
    """The mean over a disc, then a Gaussian of deviation `softness`, 3 pixels wide (5 beyond radius 8)."""
    total, count = disc_sum(images, radius)
    reach = 1 if radius <= 8 else 2
    bell = [math.exp(-((step / softness) ** 2) / 2) for step in range(-reach, reach + 1)]
    height, width = images.shape[2:]
    padded = mirrored(total, reach) / (255 * count * sum(bell) ** 2)
    rows = torch.zeros_like(padded[:, :, :height])
    soft = torch.zeros_like(rows[..., :width])
    for step, weight in enumerate(bell):
        rows += padded[:, :, step : step + height] * weight
    for step, weight in enumerate(bell):
        soft += rows[..., step : step + width] * weight
    return soft


def gaussian_noise(images: Tensor, draws: Draws, deviation: float) -> Tensor:
    """Independent in every pixel and channel."""
    return images + draws.normal(*images.shape[2:]) * deviation

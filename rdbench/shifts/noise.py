"""Noise of the sensor."""

from __future__ import annotations

import torch
from torch import Tensor

from rdbench.shifts.draws import Draws


def sensor(images: Tensor, draws: Draws, photons: float, read_noise: float) -> Tensor:
    """Shot noise (normal approximation of Poisson's) and read noise, both in photons, on the light that falls in.

    An image whose three channels are equal comes from a monochrome camera, and so does its noise.
    """
    noise = draws.normal(*images.shape[2:])
    mono = (images == images[:, :1]).flatten(1).all(dim=1).view(-1, 1, 1, 1)
    light = images.square() * photons
    noisy = light + torch.where(mono, noise[:, :1], noise) * (light + read_noise**2).sqrt()
    return (noisy / photons).clamp(0, 1).sqrt()


def salt_pepper(images: Tensor, draws: Draws, percent: float) -> Tensor:
    """This share of the pixels is stuck, half of them at white."""
    drawn = draws.pixels(*images.shape[2:])
    stuck = drawn[:, :1] < percent / 100 * 2**16
    return torch.where(stuck, (drawn[:, 1:2] % 2).float(), images)

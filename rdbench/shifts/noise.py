"""Noise of the sensor."""

from __future__ import annotations

from torch import Tensor

from rdbench.shifts.draws import Draws


def sensor(images: Tensor, draws: Draws, photons: float, read_noise: float) -> Tensor:
    """Shot noise (normal approximation of Poisson's) and read noise, both in photons, on the light that falls in."""
    light = images.square() * photons
    noisy = light + draws.normal(*images.shape[2:]) * (light + read_noise**2).sqrt()
    return (noisy / photons).clamp(0, 1).sqrt()

"""Random numbers that depend on the kind, the seed and the image's key alone, and are the same bits on every device.

What an image needs few of is drawn by Python's generator. Per-pixel numbers are a hash of the pixel's position
(SplitMix64, in integers, Steele et al. 2014): no state, so that neither order nor batch can matter.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from statistics import NormalDist

import torch
from torch import Tensor

_LEVELS = 2**16


class Draws:
    """The random numbers of B images for one kind of shift."""

    def __init__(self, kind: str, seed: int, keys: Sequence[str], device: torch.device) -> None:
        self._seeds = [hashlib.sha256(f"{kind}\0{seed}\0{key}".encode()).digest()[:8] for key in keys]
        self._device = device

    def __len__(self) -> int:
        return len(self._seeds)

    def generators(self, salt: int = 0) -> list[random.Random]:
        """A fresh generator for each image; another `salt` gives another."""
        return [random.Random(seed + bytes([salt])) for seed in self._seeds]

    def per_image(self, draw: Callable[[random.Random], float]) -> Tensor:
        """One number for each image, (B, 1, 1, 1) float32."""
        return self.tensor([draw(generator) for generator in self.generators()])

    def tensor(self, values: Sequence[float]) -> Tensor:
        """One number for each image, (B, 1, 1, 1) float32 on the device."""
        return torch.tensor(values, dtype=torch.float32).to(self._device, non_blocking=True).view(-1, 1, 1, 1)

    def pixels(self, height: int, width: int) -> Tensor:
        """Three 16-bit random integers for each pixel, (B, 3, H, W) int64."""
        seeds = torch.tensor([int.from_bytes(seed, "little", signed=True) for seed in self._seeds])
        counter = torch.arange(1, height * width + 1, device=self._device).view(1, height, width)
        state = seeds.to(self._device, non_blocking=True).view(-1, 1, 1) + counter * _signed(0x9E3779B97F4A7C15)
        state = (state ^ _shift_right(state, 30)) * _signed(0xBF58476D1CE4E5B9)
        state = (state ^ _shift_right(state, 27)) * _signed(0x94D049BB133111EB)
        state = state ^ _shift_right(state, 31)
        return torch.stack([_shift_right(state, bits) & (_LEVELS - 1) for bits in (0, 16, 32)], dim=1)

    def normal(self, height: int, width: int) -> Tensor:
        """Standard normal noise, independent in every pixel and channel, (B, 3, H, W) float32 within +-4.3."""
        return torch.take(_quantiles(self._device), self.pixels(height, width))


def _signed(constant: int) -> int:
    return constant - 2**64 if constant >= 2**63 else constant


def _shift_right(values: Tensor, bits: int) -> Tensor:
    """The logical shift of an unsigned 64-bit number; torch's own copies the sign."""
    return (values >> bits).bitwise_and(2 ** (64 - bits) - 1)


@lru_cache(maxsize=4)
def _quantiles(device: torch.device) -> Tensor:
    """The standard normal quantiles of 65536 equal shares of probability, float32.

    A table and no formula: logarithm and cosine differ in their last bits between devices and vector widths.
    """
    half = [NormalDist().inv_cdf((rank + 0.5) / _LEVELS) for rank in range(_LEVELS // 2)]
    return torch.tensor([*half, *(-value for value in reversed(half))], device=device)

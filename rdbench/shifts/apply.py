"""Applies a kind of shift to a batch, always in float32 and always back to 8 bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rdbench.shifts import Kind, blur, lighting, noise
from rdbench.shifts.draws import Draws

_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "exposure": lighting.exposure,
    "defocus": blur.defocus,
    "sensor": noise.sensor,
}


@torch.no_grad()
def apply_kind(images: Tensor, kind: Kind, severity: int, seed: int, keys: Sequence[str]) -> Tensor:
    """:func:`rdbench.shifts.apply_shift`, for a kind."""
    if images.ndim != 4 or images.shape[1] != 3 or len(keys) != len(images):
        raise ValueError(f"images {tuple(images.shape)} with {len(keys)} keys: (B, 3, H, W) and B keys are wanted")
    draws = Draws(kind.name, seed, keys, images.device)
    with torch.autocast(images.device.type, enabled=False):
        shifted = _FUNCTIONS[kind.name](images.float(), draws, *kind.values[severity - 1])
        shifted = shifted.clamp(0, 1).mul_(255).round_().div_(255)
    in_last = images.is_contiguous(memory_format=torch.channels_last)
    return shifted.contiguous(memory_format=torch.channels_last if in_last else torch.contiguous_format)

"""Applies a kind of shift to a batch, always in float32 and always back to 8 bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rdbench.shifts import blur, camera, lighting, noise, published
from rdbench.shifts.draws import Draws
from rdbench.shifts.kinds import Kind

_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "exposure": lighting.exposure,
    "gradient": lighting.gradient,
    "colour_temperature": lighting.colour_temperature,
    "highlight": lighting.highlight,
    "flicker": lighting.flicker,
    "defocus": blur.defocus,
    "motion": blur.motion,
    "sensor": noise.sensor,
    "salt_pepper": noise.salt_pepper,
    "contrast": camera.contrast,
    "jpeg": camera.jpeg,
    "resolution": camera.resolution,
    "viewpoint": camera.viewpoint,
    "dirt": camera.dirt,
    "adshift_brightness": published.brightness,
    "adshift_contrast": published.contrast,
    "adshift_defocus_blur": published.defocus_blur,
    "adshift_gaussian_noise": published.gaussian_noise,
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


@torch.no_grad()
def apply_kind_to_mask(
    masks: Tensor, kind: Kind, severity: int, seed: int, keys: Sequence[str], image_size: tuple[int, int] | None
) -> Tensor:
    """:func:`rdbench.shifts.apply_to_mask`, for a kind."""
    if masks.ndim != 3 or masks.dtype != torch.bool or len(keys) != len(masks):
        raise ValueError(f"masks {tuple(masks.shape)} with {len(keys)} keys: (B, H, W) bool and B keys are wanted")
    if not kind.geometric:
        return masks
    draws = Draws(kind.name, seed, keys, masks.device)
    with torch.autocast(masks.device.type, enabled=False):
        moved = camera.moved(
            masks[:, None].float(), draws, kind.values[severity - 1], image_size or masks.shape[1:], "nearest"
        )
    return moved[:, 0] > 0.5

"""What else a camera does to an image: haze, compression, coarse pixels, a knock, a dirty lens."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from rdbench.datasets.decode import cores
from rdbench.shifts.blur import to_levels
from rdbench.shifts.draws import Draws
from rdbench.shifts.lighting import spots
from rdbench.shifts.reach import block_side


def contrast(images: Tensor, draws: Draws, percent: float) -> Tensor:
    """The difference from the image's mean grey shrinks to `percent`."""
    mean = to_levels(images).sum(dim=(1, 2, 3), keepdim=True) / (255 * images[0].numel())
    return mean + (images - mean) * (percent / 100)


def jpeg(images: Tensor, draws: Draws, quality: float) -> Tensor:
    """Through Pillow's JPEG encoder and back, on the CPU."""
    pixels = to_levels(images).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    with ThreadPoolExecutor(cores()) as pool:
        decoded = list(pool.map(lambda image: _recoded(image, int(quality)), pixels))
    return torch.from_numpy(np.stack(decoded)).to(images.device).permute(0, 3, 1, 2).float() / 255


def _recoded(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=quality)
    with Image.open(buffer) as coded:
        return np.asarray(coded)


def resolution(images: Tensor, draws: Draws, factor: float) -> Tensor:
    """Square pixels `factor` times as wide at 256 pixels, each the mean of what it covers."""
    height, width = images.shape[2:]
    side = block_side(factor, min(height, width))
    levels = to_levels(images).float()
    for axis, length in ((2, height), (3, width)):
        whole = math.ceil(length / side) * side
        levels = levels.index_select(axis, torch.arange(whole, device=images.device).clamp(max=length - 1))
    # Sums of whole numbers below 2 ** 24: exact in float32 in any order.
    means = torch.nn.functional.avg_pool2d(levels.contiguous(), side, divisor_override=1) / (255 * side**2)
    wide = means.repeat_interleave(side, dim=3)[..., :width]
    return wide.repeat_interleave(side, dim=2)[:, :, :height]


def viewpoint(images: Tensor, draws: Draws, degrees: float, shift: float, perspective: float) -> Tensor:
    """The image as a camera sees it that was turned, moved and tilted; mirrored beyond its border."""
    return moved(images, draws, (degrees, shift, perspective), images.shape[2:], "bilinear")


def moved(pixels: Tensor, draws: Draws, values: Sequence[float], image_size: Sequence[int], mode: str) -> Tensor:
    """`pixels` (B, C, H, W) of any size, moved as images of `image_size` = (height, width) are.

    Args:
        values: degrees, pixels and percent of perspective; their signs are drawn per image.
    """
    degrees, shift, perspective = values
    height, width = image_size
    long, short = max(height, width), min(height, width)
    x_unit, y_unit = width / long, height / long
    x = _axis(pixels, pixels.shape[3], x_unit).view(1, 1, -1, 1)
    y = _axis(pixels, pixels.shape[2], y_unit).view(1, -1, 1, 1)
    signs = [[generator.choice((-1, 1)) for _ in range(5)] for generator in draws.generators()]
    turn, right, down, tilt_x, tilt_y = (draws.tensor([sign[index] for sign in signs]) for index in range(5))
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    offset = 2 * shift / 256 * short / long
    depth = 1 + perspective / 100 * (tilt_x * x + tilt_y * y)
    source_x = (cosine * x - turn * (sine * y) + right * offset) / depth / x_unit
    source_y = (turn * (sine * x) + cosine * y + down * offset) / depth / y_unit
    grid = torch.cat([source_x, source_y], dim=3)
    return torch.nn.functional.grid_sample(
        pixels.contiguous(), grid, mode=mode, padding_mode="reflection", align_corners=False
    )


def _axis(pixels: Tensor, length: int, unit: float) -> Tensor:
    """The middles of `length` pixels between -unit and unit."""
    return (2 * torch.arange(length, device=pixels.device, dtype=torch.float32) + 1 - length) / length * unit


def dirt(images: Tensor, draws: Draws, smudges: float, veil: float, specks: float) -> Tensor:
    """Large smudges that veil the image in grey and small dark specks, both out of focus, at places drawn per image."""
    haze = spots(images, draws, int(smudges), 75, 0.3).sqrt() * (veil / 100)
    dust = spots(images, draws, int(specks), 5, 0.5, salt=1) * 0.8
    return (images * (1 - haze) + 0.55 * haze) * (1 - dust)

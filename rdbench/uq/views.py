"""Views of an image for test-time augmentation: how it is changed, and how a view's map is brought back.

Notation: B images of H x W pixels, ImageNet-normalised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdbench.protocol import Batch
from rdbench.rd.anomaly import SIGMA, anomaly_map
from rdbench.rd.backbones import IMAGENET_MEAN, IMAGENET_STD

MARGIN = round(4 * SIGMA)
"""Pixels along a border, the image's or the view's, for which a rotated or shifted view does not count.

A map's value there depends on what lies beyond the border, through the smoothing (cut off at 4 sigma) and the networks'
padding: it dips by a fifth, and a view has its border elsewhere than the image.
"""


@dataclass(frozen=True)
class View:
    """One way of looking at images.

    Attributes:
        name: what it is called, e.g. "rotation +5".
        transform: images (B, 3, H, W) -> the images as this view shows them.
        restore: the view's anomaly maps (B, H, W) -> the maps in the images' own frame, and a bool tensor, broadcast to
            them, that says for which of their pixels the view counts.
    """

    name: str
    transform: Callable[[Tensor], Tensor]
    restore: Callable[[Tensor], tuple[Tensor, Tensor]]


def flip(axis: int) -> View:
    """Mirror rows (`axis` -2, upside down) or columns (-1, left to right)."""
    return View(
        {-2: "vertical flip", -1: "horizontal flip"}[axis],
        lambda images: images.flip(axis),
        lambda maps: (maps.flip(axis), _everywhere(maps)),
    )


def rotation(degrees: float) -> View:
    """Rotate about the centre, counter-clockwise for positive `degrees`."""
    return _rigid(f"rotation {degrees:+g}", degrees, 0.0, 0.0)


def shift(down: float, right: float) -> View:
    """Move by fractions of the height and the width, in whole pixels, so that no view is blurred."""
    return _rigid(f"shift {down:+g} {right:+g}", 0.0, down, right)


def brightness(factor: float) -> View:
    """Multiply the image's values in [0, 1] by `factor`, clipped."""
    from torchvision.transforms.functional import adjust_brightness

    return _photometric(f"brightness {factor:g}", lambda images: adjust_brightness(images, factor))


def contrast(factor: float) -> View:
    """Scale the image's values in [0, 1] about its mean grey by `factor`, clipped."""
    from torchvision.transforms.functional import adjust_contrast

    return _photometric(f"contrast {factor:g}", lambda images: adjust_contrast(images, factor))


def geometric_views(flips: bool, degrees: float, fraction: float) -> list[View]:
    """Both flips, rotations to either side, shifts along both diagonals both ways; 0 or False leaves them out.

    Raises ValueError, in the words of the methods' options, for what is out of range.
    """
    _check(rotation=(degrees, 45), shift=(fraction, 0.5))
    views = [flip(-1), flip(-2)] if flips else []
    if degrees:
        views += [rotation(degrees), rotation(-degrees)]
    if (s := fraction) > 0:
        views += [shift(s, s), shift(-s, -s), shift(s, -s), shift(-s, s)]
    return views


def photometric_views(brighter: float, steeper: float) -> list[View]:
    """Brightness and contrast, each less and more by these relative changes; 0 leaves one out.

    Raises ValueError, in the words of the methods' options, for what is out of range.
    """
    _check(brightness=(brighter, 1), contrast=(steeper, 1))
    views = [brightness(1 - brighter), brightness(1 + brighter)] if brighter else []
    if steeper:
        views += [contrast(1 - steeper), contrast(1 + steeper)]
    return views


def view_maps(
    batch: Batch, teacher: nn.Module, student: nn.Module, views: Sequence[View]
) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
    """The anomaly map of the images as they are, then of each view, mapped back and with the pixels that count.

    The images' own map takes the features that are there; each view costs a pass of teacher, bottleneck and decoder.
    """
    size = batch.images.shape[-2:]
    yield anomaly_map(batch.features, student(batch.features), size)
    for view in views:
        features = teacher(view.transform(batch.images))
        yield view.restore(anomaly_map(features, student(features), size))


def _check(**options: tuple[float, float]) -> None:
    for name, (value, limit) in options.items():
        if not 0 <= value < limit:
            raise ValueError(f"{name} must be in [0, {limit:g}), got {value:g}")


def _photometric(name: str, adjust: Callable[[Tensor], Tensor]) -> View:
    def transform(images: Tensor) -> Tensor:
        mean = images.new_tensor(IMAGENET_MEAN).view(3, 1, 1)
        std = images.new_tensor(IMAGENET_STD).view(3, 1, 1)
        adjusted: Tensor = (adjust(images * std + mean) - mean) / std
        return adjusted

    return View(name, transform, lambda maps: (maps, _everywhere(maps)))


def _rigid(name: str, degrees: float, down: float, right: float) -> View:
    """Rotation about the centre, then a shift; what comes in from outside is the image mirrored at its border."""

    def transform(images: Tensor) -> Tensor:
        grid = _sampling_grid(images, degrees, down, right, inverse=False).expand(len(images), -1, -1, -1)
        return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)

    def restore(maps: Tensor) -> tuple[Tensor, Tensor]:
        grid = _sampling_grid(maps, degrees, down, right, inverse=True).expand(len(maps), -1, -1, -1)
        restored = F.grid_sample(maps[:, None], grid, align_corners=False)[:, 0]
        inner = torch.zeros_like(maps[:1])
        inner[:, MARGIN:-MARGIN, MARGIN:-MARGIN] = 1
        inner_in_view = F.grid_sample(inner[:, None], grid[:1], mode="nearest", align_corners=False)[:, 0]
        return restored, (inner * inner_in_view)[0] > 0

    return View(name, transform, restore)


def _sampling_grid(pixels: Tensor, degrees: float, down: float, right: float, inverse: bool) -> Tensor:
    """(1, H, W, 2): where each pixel of the view lies in the image, or with `inverse` the other way round.

    Coordinates are grid_sample's: x to the right and y down, from -1 to 1 between the image's outer edges.
    """
    height, width = pixels.shape[-2:]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # The view shows at R x + t what the image has at x, both in pixels from the centre, y pointing down.
    to_view = torch.tensor(
        [[cos, sin, round(right * width)], [-sin, cos, round(down * height)], [0, 0, 1]], dtype=torch.float64
    )
    scale = torch.tensor([width / 2, height / 2, 1], dtype=torch.float64).diag()
    matrix = scale.inverse() @ (to_view if inverse else to_view.inverse()) @ scale
    with torch.autocast(pixels.device.type, enabled=False):  # bf16 would misplace pixels
        return F.affine_grid(matrix[None, :2].to(pixels), [1, 1, height, width], align_corners=False)


def _everywhere(maps: Tensor) -> Tensor:
    return maps.new_ones((), dtype=torch.bool)

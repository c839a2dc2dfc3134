"""Decoded images on their way to the model, and the teacher's features of those that are seen again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rdbench.benchmark.cost import Stopwatch
from rdbench.datasets.decode import reserved_file
from rdbench.protocol import Batch
from rdbench.rd.backbones import IMAGENET_MEAN, IMAGENET_STD
from rdbench.rd.memory import free_memory
from rdbench.rd.precision import Precision, autocast
from rdbench.rd.teacher import Teacher

FEATURE_BYTES_IN_MEMORY = 6 * 2**30
"""Features larger than this are kept in a file that is mapped into memory."""


def to_unit(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [0, 1], channels last, on the device."""
    return torch.from_numpy(images).to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)


def normalise(images: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> ImageNet-normalised."""
    mean = images.new_tensor(IMAGENET_MEAN).view(3, 1, 1)
    std = images.new_tensor(IMAGENET_STD).view(3, 1, 1)
    return (images - mean) / std


def to_numpy(tensor: Tensor) -> NDArray[np.float32]:
    """The values as a float32 array on the host."""
    return tensor.detach().float().cpu().numpy()


def map_at_size(values: Tensor, size: tuple[int, int]) -> NDArray[np.float32]:
    """A map (H, W) at another size, bilinear, in an image's geometry: pixels are areas, not points."""
    if tuple(values.shape) != size:
        values = F.interpolate(values[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    return to_numpy(values)


class Pixels(Protocol):
    """Images, (N, H, W, 3) uint8."""

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: slice | NDArray[np.int64], /) -> NDArray[np.uint8]: ...


class FeatureBank:
    """Normal images with the teacher's features computed once and kept: the `NormalImages` of the protocol.

    Args:
        images: (N, H, W, 3) uint8, an array or one that is still being filled.
        precision: what the teacher computes in.
        kept: the number format that its features are kept in.
        on_batch: called with the number of images whose features have just been computed.
        directory: where features go that are too large for memory.
    """

    def __init__(
        self,
        images: Pixels,
        teacher: Teacher,
        device: torch.device,
        precision: Precision,
        batch_size: int,
        directory: Path,
        on_batch: Callable[[int], None] | None = None,
        kept: Precision | None = None,
    ) -> None:
        self._images = images
        self._device = device
        self._features: list[Tensor] = []
        self.seconds = 0.0
        """What computing the features took."""
        for start in range(0, len(images), batch_size):
            pixels = normalise(to_unit(images[start : start + batch_size], device))
            with torch.inference_mode(), autocast(device, precision), Stopwatch(device) as watch:
                pyramid = teacher(pixels)
            self.seconds += watch.seconds
            if not self._features:
                dtype = torch.bfloat16 if (kept or precision) == "bf16" else torch.float32
                self._features = self._allocate(pyramid, len(images), dtype, directory)
            for own, scale in zip(self._features, pyramid, strict=True):
                own[start : start + len(pixels)] = scale.permute(0, 2, 3, 1)
            if on_batch is not None:
                on_batch(len(pixels))

    def _allocate(self, pyramid: Sequence[Tensor], count: int, dtype: torch.dtype, directory: Path) -> list[Tensor]:
        """One (N, h, w, C) tensor per scale: channels last, so that any choice of images is channels last too."""
        shapes = [(count, *scale.shape[2:], scale.shape[1]) for scale in pyramid]
        sizes = [int(np.prod(shape)) for shape in shapes]
        total = sum(sizes) * dtype.itemsize
        if self._device.type == "cuda" and total < free_memory(self._device) // 2:
            return [torch.empty(shape, dtype=dtype, device=self._device) for shape in shapes]
        if total <= FEATURE_BYTES_IN_MEMORY:
            return [torch.empty(shape, dtype=dtype) for shape in shapes]
        kept = []
        for shape, size in zip(shapes, sizes, strict=True):
            with reserved_file(size * dtype.itemsize, directory, ".features") as path:  # unlinked once mapped
                kept.append(torch.from_file(path, shared=True, size=size, dtype=dtype).view(shape))
        return kept

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, indices: Sequence[int] | Tensor) -> Batch:
        """The images at `indices`, in that order, with their kept features."""
        chosen = torch.as_tensor(indices, dtype=torch.long)
        return Batch(lambda: self._pixels(chosen), lambda: self._kept(chosen))

    def batches(self, size: int) -> Iterator[Batch]:
        """All images in order, at most `size` at a time."""
        for start in range(0, len(self), size):
            yield self.batch(range(start, min(start + size, len(self))))

    def _pixels(self, indices: Tensor) -> Tensor:
        return normalise(to_unit(self._images[indices.cpu().numpy()], self._device))

    def _kept(self, indices: Tensor) -> tuple[Tensor, ...]:
        at = self._features[0].device
        if at.type == "cuda" and not indices.is_cuda:
            indices = indices.pin_memory()  # else the host would wait for all that the GPU was told to do before
        indices = indices.to(at, non_blocking=at.type == "cuda")
        return tuple(
            kept.index_select(0, indices).to(self._device, non_blocking=True).permute(0, 3, 1, 2)
            for kept in self._features
        )

"""Decoding images and masks on all cores, in order, with bounded memory.

In threads: Pillow lets go of the interpreter while it unpacks and resizes, and a thread costs no start and no copy
of its result (measured: docs/datasets.md).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rdbench.datasets.base import Category, ImageArray, ImageRecord, MaskArray

T = TypeVar("T")


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decode_images(
    category: Category,
    images: Sequence[ImageRecord],
    size: tuple[int, int],
    workers: int | None = None,
    on_image: Callable[[int], None] | None = None,
) -> NDArray[np.uint8]:
    """The images as (N, H, W, 3) uint8 RGB, resized to `size` = (H, W) by Pillow's bilinear filter, as RD4AD does.

    Args:
        workers: threads; by default one per core.
        on_image: called with the number of images done, after each.

    Raises InputError that names an unreadable file.
    """
    decoded = np.empty((len(images), *size, 3), np.uint8)
    for index, pixels in enumerate(_in_order(lambda image: _resized(category, image, size), images, workers)):
        decoded[index] = pixels
        if on_image is not None:
            on_image(index + 1)
    return decoded


def decode_batches(
    category: Category,
    images: Sequence[ImageRecord],
    size: tuple[int, int],
    batch_size: int,
    workers: int | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """The same images, at most `batch_size` at a time, each batch (B, H, W, 3), decoded while the last one is used.

    Holds one batch beside the one handed out, and one image at its own size per worker, whatever the number of images.
    """
    decoded = _in_order(lambda image: _resized(category, image, size), images, workers, ahead=batch_size)
    while batch := list(islice(decoded, batch_size)):
        yield np.stack(batch)


def decode_masks(category: Category, images: Sequence[ImageRecord], workers: int | None = None) -> list[MaskArray]:
    """The images' masks, each (H, W) bool at its image's own size, all False for a normal image.

    Raises InputError that names a mask that is unreadable or of another size than its image.
    """
    return list(_in_order(category.read_mask, images, workers))


def _resized(category: Category, image: ImageRecord, size: tuple[int, int]) -> ImageArray:
    pixels = category.read_image(image)
    if pixels.shape[:2] == size:
        return pixels
    height, width = size
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def _in_order(
    read: Callable[[ImageRecord], T], images: Sequence[ImageRecord], workers: int | None, ahead: int | None = None
) -> Iterator[T]:
    """`read` of each image in order, by threads that are at most `ahead` images (default: two per worker) in front."""
    workers = workers or cores()
    waiting: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for image in images:
            waiting.append(pool.submit(read, image))
            if len(waiting) > (ahead or 2 * workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)

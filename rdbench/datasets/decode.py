"""Decoding images and masks on all cores, in order, with bounded memory.

In threads: Pillow lets go of the interpreter while it unpacks and resizes, and a thread costs no start and no copy
of its result (measured: docs/datasets.md).
"""

from __future__ import annotations

import math
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rdbench.datasets.base import Category, ImageArray, ImageRecord, MaskArray
from rdbench.errors import InputError

T = TypeVar("T")

IMAGE_BYTES_IN_MEMORY = 6 * 2**30
"""Decoded images larger than this together are kept in a file that is mapped into memory."""


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def reserved_file(size: int, directory: Path | None, suffix: str) -> Iterator[str]:
    """The path of a new file of `size` bytes that is removed in the end, with its room on the disk taken beforehand.

    A disk that fills up under a file that is mapped into memory kills the process without a word. Raises InputError.
    """
    with tempfile.NamedTemporaryFile(dir=directory, suffix=suffix) as file:
        try:
            os.truncate(file.fileno(), size)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise InputError(
                f"no room for {size / 2**30:.1f} GiB in {Path(file.name).parent} ({error.strerror}); free some, "
                "give another --out, or a smaller --image-size"
            ) from error
        yield file.name


class DecodedImages:
    """The images as (N, H, W, 3) uint8 RGB, resized by Pillow's bilinear filter, as RD4AD does, in the background.

    Asking for images waits for those alone, so that a model works on the first while the others are decoded. An
    unreadable file raises InputError, which names it, when it is asked for.

    Args:
        size: (H, W).
        pool: whose threads decode, in order; each holds one image at its own size. It must outlive the decoding.
        directory: where the images go, in a file that is mapped into memory, if they are larger than `in_memory` bytes.
    """

    def __init__(
        self,
        category: Category,
        images: Sequence[ImageRecord],
        size: tuple[int, int],
        pool: ThreadPoolExecutor,
        directory: Path | None = None,
        in_memory: int = IMAGE_BYTES_IN_MEMORY,
    ) -> None:
        self.size = size
        shape = (len(images), *size, 3)
        if math.prod(shape) <= in_memory:
            self._pixels: NDArray[np.uint8] = np.empty(shape, np.uint8)
        else:
            with reserved_file(math.prod(shape), directory, ".images") as path:  # unlinked once mapped
                self._pixels = np.memmap(path, np.uint8, "r+", shape=shape)

        def decode(index: int, image: ImageRecord) -> None:
            self._pixels[index] = resized(category.read_image(image), size)

        self._decoding = [pool.submit(decode, index, image) for index, image in enumerate(images)]

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, chosen: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        """The chosen images, (n, H, W, 3), as soon as they are there."""
        for index in np.arange(len(self))[chosen]:
            self._decoding[index].result()
        return self._pixels[chosen]


def decode_batches(
    category: Category,
    images: Sequence[ImageRecord],
    size: tuple[int, int],
    batch_size: int,
    workers: int | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """The images in order, at most `batch_size` at a time, each (B, H, W, 3) uint8, decoded while the last one is used.

    Holds one batch beside the one handed out, and one image at its own size per worker, whatever the number of images.
    """
    decoded = _in_order(lambda image: resized(category.read_image(image), size), images, workers, ahead=batch_size)
    while batch := list(islice(decoded, batch_size)):
        yield np.stack(batch)


def decode_masks(category: Category, images: Sequence[ImageRecord], workers: int | None = None) -> Iterator[MaskArray]:
    """The images' masks in order, each (H, W) bool at its image's own size, all False for a normal image.

    Raises InputError that names a mask that is unreadable or of another size than its image.
    """
    return _in_order(category.read_mask, images, workers)


def resized(pixels: ImageArray, size: tuple[int, int]) -> ImageArray:
    """An image (h, w, 3) as (H, W, 3), by Pillow's bilinear filter; itself if it is of that size."""
    if pixels.shape[:2] == size:
        return pixels
    height, width = size
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


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

"""Reading image and mask files, and saying which one cannot be read."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from rdbench.datasets.base import ImageArray, ImageRecord, MaskArray
from rdbench.errors import InputError

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""What Pillow raises for a file that is no image, is cut short or is damaged."""


def read_image(record: ImageRecord) -> ImageArray:
    """The record's image, (H, W, 3) uint8 RGB.

    Grey becomes three equal channels, palette indices their colours, 16-bit grey is scaled by 255 / 65535 (16-bit
    colour Pillow cuts to its upper bytes), and a transparency channel is dropped, as Pillow's (and so RD4AD's)
    `convert("RGB")` does. Raises InputError that names the file if it cannot be read to its end.
    """
    return _rgb(_decode(_path(record)), _path(record))


def read_mask(record: ImageRecord) -> MaskArray:
    """The record's mask, (H, W) bool, True wherever the mask is not black; all False for a normal image.

    Raises InputError that names the file if it cannot be read or is of another size than its image.
    """
    width, height = image_size(_path(record))
    if record.mask_path is None:
        return np.zeros((height, width), np.bool_)
    check_mask_size(record)
    return read_mask_file(record.mask_path)


def read_mask_file(path: Path) -> MaskArray:
    """A mask file, (H, W) bool, True wherever it is not black. Raises InputError that names an unreadable file."""
    return np.asarray(_values(_decode(path)).any(axis=-1))


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) by the file's header alone. Raises InputError that names an unreadable file."""
    try:
        with Image.open(path) as image:
            return image.size
    except _BROKEN as error:
        raise _unreadable(path, error) from None


def check_mask_size(record: ImageRecord) -> None:
    """Raise InputError if the record's mask is of another size than its image (headers only)."""
    if record.mask_path is None:
        return
    image, mask = image_size(_path(record)), image_size(record.mask_path)
    if image != mask:
        raise InputError(
            f"mask {record.mask_path} is {mask[0]} x {mask[1]} pixels, its image {record.path} is "
            f"{image[0]} x {image[1]}; give a mask of the image's own size"
        )


def _path(record: ImageRecord) -> Path:
    if record.path is None:
        raise ValueError(f"{record.key} is no file: read it by its category's read_image")
    return record.path


def _decode(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except _BROKEN as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: BaseException) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"image {path} does not exist; restore it, or correct the path")
    if isinstance(error, IsADirectoryError):
        return InputError(f"{path} is a folder, not an image; name the images in it")
    if isinstance(error, PermissionError):
        return InputError(f"image {path} may not be read by this user; change its permissions")
    reason = "not an image that Pillow knows" if isinstance(error, UnidentifiedImageError) else str(error)
    return InputError(f"image {path} cannot be read ({reason}); restore it from where it came from")


def _rgb(image: Image.Image, path: Path) -> ImageArray:
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise InputError(f"image {path} has values outside 0..65535; save it with 8 or 16 bits per channel")
        grey = ((values * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise InputError(f"image {path} has floating-point values; save it with 8 or 16 bits per channel")
    return np.asarray(image.convert("RGB"))


def _values(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """(H, W, C): what a mask says, transparency aside."""
    if image.mode in ("F", "1") or image.mode.startswith("I"):
        return np.asarray(image)[:, :, None]
    return np.asarray(image.convert("RGB"))

"""Reading image and mask files, and saying which one cannot be read."""

from __future__ import annotations

import struct
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from rdbench.datasets.base import ImageArray, ImageRecord, MaskArray
from rdbench.errors import InputError

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""What Pillow raises for a file that is no image, is cut short or is damaged."""
_ORIENTATION = 0x0112
_ON_ITS_SIDE = (5, 6, 7, 8)
"""EXIF orientations that turn an image by 90 degrees."""

# Of attacks by large images, which are the user's own here, and of EXIF data that are passed over.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", "Corrupt EXIF data", module="PIL")


def read_image(record: ImageRecord) -> ImageArray:
    """The record's image, (H, W, 3) uint8 RGB.

    Turned as its EXIF orientation says, as people see it who draw its mask. Grey becomes three equal channels, palette
    indices their colours, 16-bit grey is scaled by 255 / 65535 (16-bit colour Pillow cuts to its upper bytes), and a
    transparency channel is dropped, as Pillow's (and so RD4AD's) `convert("RGB")` does. Raises InputError that names
    the file if it cannot be read to its end.
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
    """A mask file, (H, W) bool, True wherever it is neither black nor transparent.

    Raises InputError that names an unreadable file.
    """
    return np.asarray(_values(_decode(path)).any(axis=-1))


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of what is read, by the file's header alone. Raises InputError that names an unreadable file."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            if image.format != "TIFF" and _orientation(image) in _ON_ITS_SIDE:  # Pillow turns TIFFs itself
                return height, width
            return width, height
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
            if _orientation(image) != 1:
                ImageOps.exif_transpose(image, in_place=True)
            return image
    except _BROKEN as error:
        raise _unreadable(path, error) from None


def _orientation(image: Image.Image) -> int:
    with suppress(*_BROKEN):  # of damaged EXIF data, which image viewers pass over too
        return int(image.getexif().get(_ORIENTATION, 1))
    return 1


def _unreadable(path: Path, error: BaseException) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"image {path} does not exist; restore it, or correct the path")
    if isinstance(error, IsADirectoryError):
        return InputError(f"{path} is a folder, not an image; name the images in it")
    if isinstance(error, PermissionError):
        return InputError(f"image {path} may not be read by this user; change its permissions")
    if isinstance(error, Image.DecompressionBombError):
        return InputError(
            f"image {path} has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, the most that Pillow reads; "
            "make it smaller, or cut it up"
        )
    reason = "not an image that Pillow knows" if isinstance(error, UnidentifiedImageError) else str(error)
    return InputError(f"image {path} cannot be read ({reason}); restore it from where it came from")


def _rgb(image: Image.Image, path: Path) -> ImageArray:
    if image.mode in ("F", "I"):
        what = "floating-point values" if image.mode == "F" else "32 bits per channel"
        raise InputError(f"image {path} has {what}, which do not say what is white; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        grey = ((np.asarray(image).astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.asarray(_opaque(image).convert("RGB"))


def _opaque(image: Image.Image) -> Image.Image:
    """Of a palette with transparent colours Pillow warns where it is not made RGBA first."""
    return image.convert("RGBA") if image.mode == "P" and "transparency" in image.info else image


def _values(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """(H, W, C): what a mask says, black where it is transparent."""
    if image.mode in ("F", "1") or image.mode.startswith("I"):
        return np.asarray(image)[:, :, None]
    if image.has_transparency_data:
        pixels = np.asarray(image.convert("RGBA"))
        return pixels[:, :, :3] * (pixels[:, :, 3:] > 0)
    return np.asarray(image.convert("RGB"))

"""The archive that the evaluation server of MVTec AD 2 takes: maps of the private images, and nothing else.

A map is written as (value - mean) / std of the object's validation pixels, as float16. Reverse Distillation's maps are
small numbers on a pedestal; standardised, they lie around 0, where float16 is finest: steps of 0.002 at the threshold
of 3 and of 0.008 at 8 to 16 standard deviations. The order of the pixels, all that AU-PRO looks at, stays.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from os.path import isdir  # pathlib's raises where a folder may not be entered
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from rdbench.datasets import DATASETS, ImageRecord, list_categories, scan_category
from rdbench.datasets.files import image_size
from rdbench.errors import InputError, reason

PRIVATE_SPLITS = ("test_private", "test_private_mixed")
DEVIATIONS = 3.0
"""A pixel is called anomalous beyond this many standard deviations above the mean of the validation pixels."""


@dataclass(frozen=True)
class PrivateMap:
    """The anomaly map of one private image."""

    category: str
    split: str
    """test_private or test_private_mixed."""
    stem: str
    """The image's file name without its extension, as 000_regular."""
    anomaly_map: NDArray[np.float32]
    """(H, W) at the image's own size."""


@dataclass(frozen=True)
class Export:
    """What was written."""

    path: Path
    maps: int
    lacking: tuple[str, ...]
    """Official objects that are not in it; the server wants all eight."""


def private_images(root: Path | None, category: str) -> tuple[ImageRecord, ...]:
    """The unlabelled images of both private splits. Raises InputError if there are none, or not the official number."""
    _, scan = scan_category("mvtec_ad2", category, root)
    official = DATASETS["mvtec_ad2"].counts.get(category, {})
    for split in PRIVATE_SPLITS:
        found = len(scan.splits[split])
        wanted = official.get(split, max(found, 1))
        if found != wanted:
            raise InputError(f"{scan.folder / split} has {found} images where {wanted} are wanted; unpack it again")
    for fault in scan.faults:
        if fault.path.parent.name in PRIVATE_SPLITS:
            raise InputError(fault.message)
    return tuple(image for split in PRIVATE_SPLITS for image in scan.splits[split])


def export_mvtec_ad2(
    maps: Iterable[PrivateMap],
    validation: Mapping[str, tuple[float, float]],
    root: Path | None,
    out: Path,
    on_map: Callable[[int, int], None] | None = None,
) -> Export:
    """Write the maps to `out`, a tar.gz: float16 TIFFs, and PNGs of 0 and 255 that say what is beyond the threshold.

    Args:
        maps: one for each private image of the categories in `validation`, in any order; one is held at a time.
        validation: category -> mean and standard deviation of the pixels of its validation images' maps.
        on_map: called with (done, total) after each map.

    Raises InputError, with nothing written, for a map that is missing, of another size than its image, not finite,
    given twice or of no private image. `out` appears only when it is whole.
    """
    wanted = {
        (category, image.key.split("/")[0], image.key.split("/")[1]): image
        for category in validation
        for image in private_images(root, category)
    }
    for category, (mean, std) in validation.items():
        if not (np.isfinite(mean) and np.isfinite(std) and std > 0):
            raise InputError(f"validation maps of {category} have mean {mean} and deviation {std}: nothing to scale by")
    check_place(out)
    written: set[tuple[str, str, str]] = set()
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".exporting-") as folder:
            part = Path(folder) / "archive"
            with (
                gzip.GzipFile(part, "wb", compresslevel=1, mtime=0) as packed,
                tarfile.open(fileobj=packed, mode="w") as tar,
            ):
                for item in maps:
                    name = (item.category, item.split, item.stem)
                    _check(item, wanted.get(name), name in written)
                    mean, std = validation[item.category]
                    scores = (item.anomaly_map.astype(np.float64) - mean) / std
                    place = "/".join(name)
                    _add(tar, f"anomaly_images/{place}.tiff", _tiff(scores))
                    _add(tar, f"anomaly_images_thresholded/{place}.png", _png(scores > DEVIATIONS))
                    written.add(name)
                    if on_map is not None:
                        on_map(len(written), len(wanted))
            if missing := sorted("/".join(name) for name in wanted.keys() - written):
                more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
                raise InputError(f"no map was given for {', '.join(missing[:3])}{more}; nothing was written")
            _check_archive(part, wanted.keys())
            os.replace(part, out)
    except OSError as error:  # a full disk, say
        raise InputError(f"cannot write {out}: {reason(error)}; nothing was written") from error
    official = set(DATASETS["mvtec_ad2"].categories)
    return Export(out, len(written), tuple(sorted(official - validation.keys())))


def check_place(out: Path) -> None:
    """Raise InputError if the archive cannot be written to `out`; to be asked before hours of predicting."""
    if not isdir(out.parent):
        raise InputError(f"{out.parent} does not exist; give --out a place in an existing folder")
    if isdir(out):
        raise InputError(f"{out} is a folder; give --out the name of a file, ending in .tar.gz")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise InputError(f"{out.parent} may not be written to; give --out a place in another folder")


def exported_categories(root: Path | None) -> list[str]:
    """The categories under `root` that a submission is made of: the official ones, or all where there is none."""
    found = list_categories("mvtec_ad2", root)
    return [name for name in found if name in DATASETS["mvtec_ad2"].categories] or found


def _check(item: PrivateMap, image: ImageRecord | None, again: bool) -> None:
    place = f"{item.category}/{item.split}/{item.stem}"
    if image is None or image.path is None:
        raise InputError(f"a map was given for {place}, which is no private image; nothing was written")
    if again:
        raise InputError(f"two maps were given for {place}; nothing was written")
    width, height = image_size(image.path)
    if item.anomaly_map.shape != (height, width):
        size = " x ".join(str(side) for side in reversed(item.anomaly_map.shape))
        raise InputError(f"the map of {image.path} is {size} pixels, the image {width} x {height}; nothing was written")
    if not np.isfinite(item.anomaly_map).all():
        raise InputError(f"the map of {image.path} holds NaN or infinity; nothing was written")


def _tiff(scores: NDArray[np.float64]) -> bytes:
    largest = float(np.finfo(np.float16).max)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, scores.clip(-largest, largest).astype(np.float16), photometric="minisblack", metadata=None)
    return buffer.getvalue()


def _png(anomalous: NDArray[np.bool_]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(anomalous.astype(np.uint8) * 255).save(buffer, "PNG")
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _check_archive(path: Path, wanted: Iterable[tuple[str, str, str]]) -> None:
    """Read the archive back: exactly the wanted names."""
    names = [
        f"{folder}/{'/'.join(name)}.{suffix}"
        for name in wanted
        for folder, suffix in (("anomaly_images", "tiff"), ("anomaly_images_thresholded", "png"))
    ]
    with tarfile.open(path) as tar:
        if sorted(tar.getnames()) != sorted(names):
            raise InputError(f"the archive at {path} did not read back as it was written; is the disk sound?")

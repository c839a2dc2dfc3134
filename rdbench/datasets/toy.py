"""The toy data set: inspection images drawn in memory, the same on every machine, laid out as MVTec AD 2.

Three categories of 256 x 256 pixels. 60 training and 12 calibration images of good parts under `regular` light; 60
test images: 10 good and 10 defective parts, each seen under three lights. A part under another light is the same part
with the same defect; only light and sensor noise change. Defects run from faint to plain (:data:`CONTRASTS`), so
some decisions are truly uncertain. Every image is a function of its category and key alone.
"""

from __future__ import annotations

import hashlib
import inspect
import shutil
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.random import Generator
from PIL import Image

from rdbench.datasets import drawing, toy_scenes
from rdbench.datasets.base import Category, ImageArray, ImageRecord, MaskArray
from rdbench.datasets.drawing import Light
from rdbench.datasets.toy_scenes import SCENES, Scene
from rdbench.errors import InputError, reason, unknown

VERSION = 1
"""Part of every random seed: a new number draws other parts."""

CATEGORIES: tuple[str, ...] = tuple(sorted(SCENES))

TRAIN, CALIBRATION, PARTS = 60, 12, 10
"""Training images, calibration images, and test parts of either kind (good, defective)."""

CONTRASTS: dict[str, tuple[float, ...]] = {
    "twill": (0.15, 1.0, 0.6, 0.6, 0.9, 1.0, 0.7, 0.9, 1.0, 0.65),
    "flange": (0.15, 1.0, 0.6, 0.5, 1.0, 0.9, 0.4, 0.9, 1.0, 0.7),
    "tablets": (0.15, 1.0, 0.6, 0.4, 1.0, 1.0, 0.3, 0.9, 0.8, 0.7),
}
"""Opacity of the defect of each defective test part, in order; each kind of defect is drawn twice."""

LIGHTS = {
    "regular": Light(gain=1.0, angle=0.6, slope=0.10),
    "shift_1": Light(gain=0.95, angle=1.3, slope=0.18),
    "underexposed": Light(gain=0.70, angle=0.6, slope=0.10),
}


def load(category: str) -> Category:
    """One of the three :data:`CATEGORIES`. Raises InputError for another name."""
    if category not in CATEGORIES:
        raise unknown("category of toy", category, CATEGORIES)
    kinds = SCENES[category][1]
    test = [_record("test", "good", number, light) for number in range(PARTS) for light in LIGHTS]
    test += [_record("test", kinds[number % len(kinds)], number, light) for number in range(PARTS) for light in LIGHTS]
    return Category(
        dataset="toy",
        name=category,
        train=tuple(_record("train", "good", number, "regular") for number in range(TRAIN)),
        calibration=tuple(_record("validation", "good", number, "regular") for number in range(CALIBRATION)),
        test=tuple(test),
        calibration_source="validation/good, drawn like the training images",
        fingerprint=_fingerprint(category),
        custom="",
        read_image=partial(draw_image, category),
        read_mask=partial(draw_mask, category),
    )


def draw_image(category: str, record: ImageRecord) -> ImageArray:
    """The image, (256, 256, 3) uint8."""
    light, (surface, defect) = _look(category, record)
    if record.label:
        coverage, seen = defect(record.defect, _rng(category, record.part, "defect"))
        surface = drawing.blend(surface, seen, _contrast(category, record) * coverage)
    return drawing.expose(surface, light, _rng(category, record.key, "noise"))


def draw_mask(category: str, record: ImageRecord) -> MaskArray:
    """The pixels that the defect touches, (256, 256) bool: outside of them the image is that of the good part."""
    if not record.label:
        return np.zeros((drawing.SIZE, drawing.SIZE), np.bool_)
    _, (_, defect) = _look(category, record)
    coverage, _ = defect(record.defect, _rng(category, record.part, "defect"))
    return np.asarray(coverage > 0)


def _look(category: str, record: ImageRecord) -> tuple[Light, Scene]:
    """The part, and the light as it falls on it: a little different from part to part, under every lighting alike."""
    rng = _rng(category, record.part, "part")
    light = LIGHTS[record.lighting]
    gain, slope, turn = rng.normal(1, 0.04), rng.normal(0, 0.03), rng.normal(0, 0.05)
    light = Light(light.gain * gain, light.angle + turn, light.slope + slope)
    return light, SCENES[category][0](rng, light.angle)


def export(directory: Path, layout: Literal["mvtec_ad", "mvtec_ad2"]) -> None:
    """Write every category as PNG files laid out as `layout`, into a directory that is new or empty.

    mvtec_ad has no calibration split: there those images join train/good. mvtec_ad2 also gets its two private test
    folders, with the good parts again, unlabelled. Raises InputError if the directory holds anything, or
    cannot be written.
    """
    if layout not in ("mvtec_ad", "mvtec_ad2"):
        raise unknown("layout", layout, ("mvtec_ad", "mvtec_ad2"))
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory} is not an empty directory; give a new one for the exported data set")
    try:
        for name in CATEGORIES:
            _export(load(name), directory / name, layout)
    except BaseException as error:  # half a data set would be taken for a whole one, and refused the next time
        for name in CATEGORIES:
            shutil.rmtree(directory / name, ignore_errors=True)
        if isinstance(error, OSError):
            raise InputError(f"cannot write to {directory}: {reason(error)}; nothing was left there") from error
        raise


def _export(category: Category, folder: Path, layout: str) -> None:
    for record in (*category.train, *category.calibration, *category.test):
        image_path, mask_path = _paths(record, layout)
        _write(folder / image_path, category.read_image(record))
        if record.label:
            _write(folder / mask_path, category.read_mask(record).astype(np.uint8) * 255)
        elif layout == "mvtec_ad2" and record.key.startswith("test") and record.lighting != "shift_1":
            split, light = (
                ("test_private", "regular") if record.lighting == "regular" else ("test_private_mixed", "mixed")
            )
            number = record.key.rsplit("/", 1)[1].split("_")[0]
            _write(folder / split / f"{number}_{light}.png", category.read_image(record))


def _paths(record: ImageRecord, layout: str) -> tuple[str, str]:
    """Where `layout` keeps the image and its mask, relative to the category."""
    split, defect, stem = record.key.split("/")
    if layout == "mvtec_ad":
        folder = "test" if split == "test" else "train"
        stem = f"validation_{stem}" if split == "validation" else stem
        return f"{folder}/{defect}/{stem}.png", f"ground_truth/{defect}/{stem}_mask.png"
    if split != "test":
        return f"{split}/good/{stem}.png", ""
    kind = "bad" if record.label else "good"
    return f"test_public/{kind}/{stem}.png", f"test_public/ground_truth/{kind}/{stem}_mask.png"


def _write(path: Path, pixels: ImageArray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _record(split: str, defect: str, number: int, light: str) -> ImageRecord:
    kind = "good" if defect == "good" else "bad"
    return ImageRecord(
        key=f"{split}/{defect}/{number:03d}_{light}",
        label=int(defect != "good"),
        part=f"{split}/{kind}/{number:03d}",
        defect=defect,
        lighting=light,
    )


def _contrast(category: str, record: ImageRecord) -> float:
    return CONTRASTS[category][int(record.part.rsplit("/", 1)[1])]


def _rng(category: str, *names: str) -> Generator:
    """A generator that depends on nothing but the names."""
    seed = hashlib.sha256("/".join((str(VERSION), category, *names)).encode()).digest()
    return np.random.default_rng(list(seed))


def _fingerprint(category: str) -> str:
    """SHA-256 of the recipe: the source that draws, with its parameters, and the category."""
    recipe = "".join(inspect.getsource(module) for module in (drawing, toy_scenes))
    return hashlib.sha256(f"{VERSION}{category}{CONTRASTS[category]}{LIGHTS}{recipe}".encode()).hexdigest()

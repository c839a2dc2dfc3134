"""The datasets: what is known of them, which categories are on this disk, and one function that loads one.

Importing this costs next to nothing: NumPy, Pillow and the drawn dataset are imported when a category is loaded.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from os.path import exists, isdir  # pathlib's raise where a folder may not be entered
from pathlib import Path

from rdbench.datasets.base import Category, ImageRecord
from rdbench.datasets.catalogue import DATASETS, DatasetInfo
from rdbench.datasets.scan import LAYOUTS, UNSAYABLE, Layout, Scan, subfolders
from rdbench.errors import InputError, unknown
from rdbench.words import count

__all__ = [
    "DATASETS",
    "Category",
    "DatasetInfo",
    "ImageRecord",
    "fingerprint_now",
    "list_categories",
    "load_category",
    "locate",
    "scan_category",
    "shortages",
]

MIN_TRAIN, MIN_CALIBRATION = 2, 10
"""Batch norm needs two training images; below ten calibration images no threshold has a level of 0.10."""

SCORED_SPLITS = ("train", "validation", "test")

HOLD_OUT = 0.10
"""The share of the training images that is held out to calibrate on where a dataset has no split for that."""


def list_categories(dataset: str, root: Path | None) -> list[str]:
    """The categories of `dataset` found under `root`, sorted.

    `root` (or, if None, the environment variable RDBENCH_DATA) is the folder that holds the categories, or a folder
    in which that one is called `dataset`. Raises InputError for an unknown dataset and for a root without categories.
    """
    if _info(dataset).name == "toy":
        return list(DATASETS["toy"].categories)
    return list(locate(dataset, root)[1])


def load_category(
    dataset: str,
    category: str,
    root: Path | None,
    seed: int,
    on_file: Callable[[int, int], None] | None = None,
) -> Category:
    """One category's splits, checked: layout, names, counts, and that each mask fits its image.

    Args:
        seed: the run's seed; draws the calibration images where the dataset has no split for them.
        on_file: called with (done, total) while the files are hashed for the fingerprint.

    Raises InputError at the first thing that is wrong, with its path and what to do.
    """
    if _info(dataset).name == "toy":
        from rdbench.datasets import toy

        return toy.load(category)
    from rdbench.datasets.files import check_mask_size, read_image, read_mask
    from rdbench.datasets.fingerprint import fingerprint

    home, scan = scan_category(dataset, category, root)
    if scan.faults:
        all_of_them = f"rdbench datasets verify {dataset} --root {shlex.quote(str(home))}"
        more = f" ({len(scan.faults)} faults in all: `{all_of_them}`)" if len(scan.faults) > 1 else ""
        raise InputError(scan.faults[0].message + more)
    if short := next(shortages(scan), ""):
        raise InputError(short)
    train, calibration, source = _calibration(scan, seed)
    test = scan.splits["test"]
    for image in test:
        check_mask_size(image)
    return Category(
        dataset=dataset,
        name=category,
        train=train,
        calibration=calibration,
        test=test,
        calibration_source=source,
        fingerprint=fingerprint(home, fingerprinted_files(scan), on_file),
        custom=why_custom(dataset, category, scan),
        read_image=read_image,
        read_mask=read_mask,
    )


def fingerprint_now(dataset: str, category: str, root: Path | None) -> str:
    """The fingerprint that a category has at this moment; no image is opened. Raises InputError if it is gone."""
    if _info(dataset).name == "toy":
        from rdbench.datasets import toy

        return toy.load(category).fingerprint
    from rdbench.datasets.fingerprint import fingerprint

    home, scan = scan_category(dataset, category, root)
    return fingerprint(home, fingerprinted_files(scan))


def fingerprinted_files(scan: Scan) -> list[Path]:
    """Every image and mask that a result depends on: all but the private splits."""
    records = [image for split in SCORED_SPLITS for image in scan.splits.get(split, ())]
    return [path for image in records for path in (image.path, image.mask_path) if path is not None]


def scan_category(dataset: str, category: str, root: Path | None) -> tuple[Path, Scan]:
    """The folder that holds the categories, and what `category` holds there, faults included; no image is opened.

    Raises InputError for an unknown dataset, a wrong root or an unknown category.
    """
    home, found = locate(dataset, root)
    if category not in found:
        if category in _info(dataset).categories:
            raise InputError(f"category {category} of {dataset} is not in {home}; found there: {', '.join(found)}")
        raise unknown(f"category of {dataset}", category, found)
    if UNSAYABLE.search(category):
        raise InputError(f"category {category!r} in {home} has a control character or no UTF-8 in its name; rename it")
    return home, found[category].scan(home, category)


def locate(dataset: str, root: Path | None) -> tuple[Path, dict[str, Layout]]:
    """The folder that holds the categories of `dataset`, and its categories, sorted, each with its layout."""
    info = _info(dataset)
    given = root or (Path(os.environ["RDBENCH_DATA"]) if os.environ.get("RDBENCH_DATA") else None)
    if given is None:
        where = f"; get it from {info.url}" if info.url else ""
        raise InputError(f"no folder given for {dataset}: use --root or the environment variable RDBENCH_DATA{where}")
    if not isdir(given):
        what = "is not a folder" if exists(given) else "does not exist, or may not be entered"
        raise InputError(f"root {given} {what}; give the folder that holds the categories of {dataset}")
    layouts = _layouts(dataset)
    for home in (given / dataset, given):
        if isdir(home) and (found := _find(home, layouts)):
            return home, found
    raise InputError(f"root {given} holds no category of dataset {dataset}; {_hint(given, dataset, layouts)}")


def _info(dataset: str) -> DatasetInfo:
    if dataset not in DATASETS:
        raise unknown("dataset", dataset, DATASETS)
    return DATASETS[dataset]


def _layouts(dataset: str) -> list[Layout]:
    return [LAYOUTS[dataset]] if dataset in LAYOUTS else list(LAYOUTS.values())


def _find(home: Path, layouts: list[Layout]) -> dict[str, Layout]:
    return dict(sorted((category, layout) for layout in layouts for category in layout.find(home)))


def _hint(given: Path, dataset: str, layouts: list[Layout]) -> str:
    """What the user may have meant instead of a root without categories."""
    whole = given.resolve()
    if whole.name in _find(whole.parent, layouts):
        options = f"--root {shlex.quote(str(whole.parent))} --category {shlex.quote(whole.name)}"
        return f"it is itself a category: use {options}"
    for other in LAYOUTS.values():
        if found := other.find(given):
            return f"it holds {', '.join(found[:3])} in the layout of {other.name}: use --dataset {other.name}"
    for child in subfolders(given):
        if os.access(child, os.R_OK | os.X_OK) and _find(child, layouts):
            return f"{child} does: use --root {shlex.quote(str(child))}"
    url = DATASETS[dataset].url
    return "give the folder that holds one folder per category" + (f", as unpacked from {url}" if url else "")


def _calibration(scan: Scan, seed: int) -> tuple[tuple[ImageRecord, ...], tuple[ImageRecord, ...], str]:
    """Training images, calibration images, and where those come from."""
    images = scan.splits["train"]
    if "validation" in scan.splits:
        return images, scan.splits["validation"], "validation/good"
    held_out_count = max(MIN_CALIBRATION, round(HOLD_OUT * len(images)))
    # Ordered by a hash of seed and key: the same draw on every machine, with every version of every library.
    drawn = sorted(images, key=lambda image: hashlib.sha256(f"{seed}/{image.key}".encode()).digest())[:held_out_count]
    held_out = frozenset(image.key for image in drawn)
    return (
        tuple(image for image in images if image.key not in held_out),
        tuple(image for image in images if image.key in held_out),
        f"{held_out_count} of the {len(images)} training images, held out by seed {seed}",
    )


def shortages(scan: Scan) -> Iterator[str]:
    """What there are too few images of to train, to calibrate or to test, in words; no image is opened."""
    if "validation" in scan.splits:
        wanted = {"train": (MIN_TRAIN, "training", ""), "validation": (MIN_CALIBRATION, "validation", "")}
    else:
        detail = f" ({MIN_CALIBRATION} to calibrate on and {MIN_TRAIN} to train on)"
        wanted = {"train": (MIN_TRAIN + MIN_CALIBRATION, "training", detail)}
    for split, (least, kind, detail) in wanted.items():
        if (found := len(scan.splits[split])) < least:
            yield f"{scan.folder} has {count(found, f'{kind} image')}; at least {least} are needed{detail}: add images"
    for label, kind in ((0, "normal"), (1, "defect")):
        if not any(image.label == label for image in scan.splits["test"]):
            yield f"{scan.folder} has no {kind} image to test on; restore its test folders"


def why_custom(dataset: str, category: str, scan: Scan) -> str:
    """Why this is not the official category, in words; empty if it is, as far as the catalogue has counts."""
    if not (official := DATASETS[dataset].counts):
        return "a folder of your own"
    if category not in official:
        return f"{category} is not an official category of {dataset}"
    scored = {split: len(scan.splits[split]) for split in SCORED_SPLITS if split in scan.splits}
    return "; ".join(differences(official[category], scored))


def differences(official: Mapping[str, int], found: Mapping[str, int]) -> list[str]:
    """How the number of images differs from the official one, split by split, in words."""
    return [
        f"{count} {split} images where the official set has {official[split]}"
        for split, count in found.items()
        if split in official and count != official[split]
    ]

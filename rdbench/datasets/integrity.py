"""Is a dataset on this disk whole? Every image and mask decoded, counted, compared; every fault with its path."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rdbench.datasets import (
    DATASETS,
    differences,
    fingerprinted_files,
    list_categories,
    scan_category,
    shortages,
    why_custom,
)
from rdbench.datasets.base import ImageRecord
from rdbench.datasets.decode import cores
from rdbench.datasets.files import read_image, read_mask_file
from rdbench.datasets.fingerprint import fingerprint
from rdbench.datasets.scan import Fault, Scan, is_image, shown
from rdbench.errors import InputError

_JUNK = {"thumbs.db", ".ds_store", "desktop.ini"}
_COMPANIONS = {".txt", ".md", ".csv", ".json", ".pdf"}
"""Licences, tables and readmes that come with the official archives."""


@dataclass(frozen=True)
class CategoryCheck:
    """What `rdbench datasets verify` found in one category."""

    category: str
    counts: dict[str, int]
    """Split -> number of images found."""
    official: dict[str, int]
    """Split -> the official number; empty for a category that is not official."""
    custom: str
    """Why results on it count as those of custom data, in words; empty if they do not."""
    fingerprint: str
    """As it stands in results; empty if a file is missing or may not be read."""
    faults: tuple[Fault, ...]


def verify(
    dataset: str,
    root: Path | None,
    categories: Sequence[str] = (),
    workers: int | None = None,
    on_file: Callable[[int, int], None] | None = None,
) -> list[CategoryCheck]:
    """Check `categories` (by default all that are found), on all cores.

    Args:
        on_file: called with (done, total) images of the category at hand, after each.

    Raises InputError for a wrong root or an unknown category; what is wrong inside a category is in the checks.
    """
    if dataset == "toy":
        raise InputError("toy is drawn in memory: there are no files to verify")
    chosen = list(categories) or list_categories(dataset, root)
    scans = [(name, *scan_category(dataset, name, root)) for name in chosen]
    return [_check(dataset, name, home, scan, workers, on_file) for name, home, scan in scans]


def as_json(dataset: str, checks: Sequence[CategoryCheck]) -> dict[str, object]:
    """The checks as plain numbers, strings, lists and dicts."""
    return {
        "dataset": dataset,
        "faults": sum(len(check.faults) for check in checks),
        "categories": [
            {
                "category": check.category,
                "counts": check.counts,
                "official": check.official,
                "custom": check.custom,
                "fingerprint": check.fingerprint,
                "faults": [
                    {"kind": fault.kind, "path": str(fault.path), "message": fault.message} for fault in check.faults
                ],
            }
            for check in checks
        ],
    }


def _check(
    dataset: str, name: str, home: Path, scan: Scan, workers: int | None, on_file: Callable[[int, int], None] | None
) -> CategoryCheck:
    counts = {split: len(records) for split, records in scan.splits.items()}
    official = dict(DATASETS[dataset].counts.get(name, {}))
    faults = list(scan.faults)
    faults += [
        Fault("count", scan.folder, f"{scan.folder} has {text}: unpack the archive again")
        for text in differences(official, counts)
    ]
    if not faults:  # else what is missing or misplaced says it better
        faults += [Fault("count", scan.folder, text) for text in shortages(scan)]
    faults += _extra(scan)
    images = [(split, record) for split, records in scan.splits.items() for record in records]
    seen: dict[str, list[tuple[str, Path]]] = {}
    with ThreadPoolExecutor(workers or cores()) as pool:
        try:
            for done, ((split, record), (digest, found)) in enumerate(
                zip(images, pool.map(_examine, [record for _, record in images]), strict=True), start=1
            ):
                faults += found
                if digest and record.path:
                    faults += _twins(split, record.path, seen.setdefault(digest, []))
                    seen[digest].append((split, record.path))
                if on_file is not None:
                    on_file(done, len(images))
        finally:
            pool.shutdown(cancel_futures=True)
    try:
        digest = fingerprint(home, fingerprinted_files(scan))
    except InputError:  # a file that is missing or may not be read is among the faults by now
        digest = ""
    return CategoryCheck(name, counts, official, why_custom(dataset, name, scan), digest, tuple(faults))


def _examine(record: ImageRecord) -> tuple[str, list[Fault]]:
    """The SHA-256 of the image's pixels (empty if it cannot be read), and the faults of image and mask."""
    digest, faults = "", []
    shape: tuple[int, ...] = ()
    assert record.path is not None
    try:
        pixels = read_image(record)
        shape = pixels.shape[:2]
        digest = hashlib.sha256(repr(shape).encode() + pixels.tobytes()).hexdigest()
    except InputError as error:
        faults.append(Fault("unreadable", record.path, str(error)))
    if record.mask_path is None:
        return digest, faults
    try:
        mask = read_mask_file(record.mask_path)
    except InputError as error:
        faults.append(Fault("unreadable", record.mask_path, str(error)))
        return digest, faults
    if shape and mask.shape != shape:
        sizes = " and ".join(f"{width} x {height}" for height, width in (mask.shape, shape))
        message = f"mask {record.mask_path} and its image {record.path} differ in size: {sizes}; restore them"
        faults.append(Fault("size", record.mask_path, message))
    elif not mask.any():
        message = f"mask {record.mask_path} of a defective image is all black; restore it"
        faults.append(Fault("empty_mask", record.mask_path, message))
    return digest, faults


def _twins(split: str, path: Path, others: list[tuple[str, Path]]) -> Iterator[Fault]:
    """A fault if the same picture was seen in this split, or in training or calibration and in a test split."""
    for other_split, other in others:
        if other_split == split:
            yield Fault("duplicate", path, f"{path} shows the same pixels as {other}; remove one of them")
            return
        if not (split.startswith("test") and other_split.startswith("test")):
            yield Fault("leak", path, f"{path} ({split}) shows the same pixels as {other} ({other_split}); remove one")
            return


def _extra(scan: Scan) -> Iterator[Fault]:
    """Files of the category's folder that no split uses and no other fault names."""
    used = {path for records in scan.splits.values() for image in records for path in (image.path, image.mask_path)}
    used |= {fault.path for fault in scan.faults}
    for folder, folders, names in os.walk(scan.folder):
        folders.sort()
        for path in sorted(Path(folder) / name for name in names):
            ignored = path.name.lower() in _JUNK or path.name.startswith("._")
            companion = path.suffix.lower() in _COMPANIONS
            if path not in used and not ignored and not companion:
                what = "image" if is_image(path) else "file"
                yield Fault(
                    "extra", path, f"{what} {shown(path)} belongs to no split of this layout; move it elsewhere"
                )

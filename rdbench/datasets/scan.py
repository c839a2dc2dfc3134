"""From a category's folder to records: the three official layouts, and every fault found on the way.

A scan opens no image. Loading stops at the first fault; `rdbench datasets verify` prints them all.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from os.path import isdir, isfile, islink  # pathlib's raise where a folder may not be entered
from pathlib import Path, PurePosixPath

from rdbench.datasets.base import ImageRecord
from rdbench.errors import InputError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
UNSAYABLE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, line ends and what is no UTF-8: such a name fits into no message, key or fingerprint."""


@dataclass(frozen=True)
class Fault:
    """Something wrong with one file or folder."""

    kind: str
    """layout, missing, extra, name, duplicate, unreadable, size, empty_mask, leak or count."""
    path: Path
    message: str
    """What is wrong, where, and what to do."""


@dataclass
class Scan:
    """What a category's folder holds: split -> records in order of their keys, and what is wrong with it."""

    folder: Path
    splits: dict[str, tuple[ImageRecord, ...]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def fault(self, kind: str, path: Path, message: str) -> None:
        """Note a fault."""
        self.faults.append(Fault(kind, path, message))


@dataclass(frozen=True)
class Layout:
    """One of the shapes that a dataset comes in."""

    name: str
    find: Callable[[Path], list[str]]
    """The categories under a root, sorted."""
    scan: Callable[[Path, str], Scan]
    """Root and category -> what is there."""


def is_image(path: Path) -> bool:
    """True for a file whose name says it is an image (not Thumbs.db, .DS_Store, ._000.png, readme.txt, ...)."""
    return _named_image(path) and isfile(path)


def shown(path: Path) -> str:
    """The path as a message may hold it: on one line, and printable wherever."""
    return repr(str(path)) if UNSAYABLE.search(str(path)) else str(path)


def _named_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, hidden ones left out. Raises InputError if it may not be listed."""
    return [path for path in _entries(folder) if isdir(path) and not path.name.startswith(".")]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder} cannot be listed ({error.strerror}); check its permissions") from None


def _images(scan: Scan, relative: str) -> dict[str, Path]:
    """Stem -> image file in one folder, by name; {} where there is no such folder."""
    found: dict[str, Path] = {}
    folder = scan.folder / relative
    for path in _entries(folder) if isdir(folder) else ():
        if not is_image(path):
            if _named_image(path) and islink(path) and not isdir(path):
                scan.fault("missing", path, f"{path} is a link to a file that is not there; restore the file")
            continue
        if UNSAYABLE.search(path.name):
            scan.fault("name", path, f"{shown(path)} has a control character or no UTF-8 in its name; rename it")
        elif path.stem in found:
            message = f"{found[path.stem]} and {path.name} beside it have one name; keep one of them"
            scan.fault("duplicate", path, message)
        else:
            found[path.stem] = path
    return found


def _required(scan: Scan, relative: str, layout: str) -> dict[str, Path]:
    found = _images(scan, relative)
    if not found:
        what = "holds no image" if isdir(scan.folder / relative) else "does not exist"
        message = f"{scan.folder / relative} {what}; a category of {layout} needs normal images there"
        scan.fault("layout", scan.folder / relative, message)
    return found


def _paired(scan: Scan, images: dict[str, Path], folder: str) -> dict[str, Path]:
    """Stem -> mask, by name: `<stem>_mask.*` as MVTec calls it, or `<stem>.*`."""
    masks = _images(scan, folder)
    pairs: dict[str, Path] = {}
    for stem, image in images.items():
        candidates = [masks.pop(name) for name in (f"{stem}_mask", stem) if name in masks]
        if not candidates:
            wanted = scan.folder / folder / f"{stem}_mask.png"
            scan.fault(
                "missing",
                wanted,
                f"mask {wanted} of image {image} is missing; restore it, or draw it: of the image's size, white where "
                f"the defect is, else black; an image without a defect belongs in {image.parent.with_name('good')}",
            )
        elif len(candidates) == 2:
            scan.fault("duplicate", candidates[1], f"{image} has two masks, {candidates[0]} and {candidates[1].name}")
        else:
            pairs[stem] = candidates[0]
    for mask in masks.values():
        scan.fault("missing", mask, f"mask {mask} belongs to no image; restore its image, or remove the mask")
    return pairs


def _sorted(records: Iterable[ImageRecord]) -> tuple[ImageRecord, ...]:
    return tuple(sorted(records, key=lambda record: record.key))


# MVTec AD: <category>/{train/good, test/{good,<defect>}, ground_truth/<defect>}; each image is a part of its own.


def _find_mvtec_ad(root: Path) -> list[str]:
    return [
        folder.name
        for folder in subfolders(root)
        if any(isdir(folder / part) for part in ("train", "test", "ground_truth")) and not isdir(folder / "test_public")
    ]


def _scan_mvtec_ad(root: Path, category: str) -> Scan:
    scan = Scan(root / category)
    train = _required(scan, "train/good", "mvtec_ad")
    scan.splits["train"] = tuple(_mvtec_ad_record(f"train/good/{stem}", path) for stem, path in train.items())
    test: list[ImageRecord] = []
    folders = {
        path.name
        for part in ("test", "ground_truth")
        if isdir(scan.folder / part)
        for path in subfolders(scan.folder / part)
    }
    for defect in sorted(folders):
        if UNSAYABLE.search(defect):
            path = scan.folder / "test" / defect
            scan.fault("name", path, f"{shown(path)} has a control character or no UTF-8 in its name; rename it")
            continue
        images = _images(scan, f"test/{defect}")
        masks = {} if defect == "good" else _paired(scan, images, f"ground_truth/{defect}")
        test += [
            _mvtec_ad_record(f"test/{defect}/{stem}", path, defect, masks.get(stem)) for stem, path in images.items()
        ]
    scan.splits["test"] = _sorted(test)
    return scan


def _mvtec_ad_record(key: str, path: Path, defect: str = "good", mask: Path | None = None) -> ImageRecord:
    return ImageRecord(key=key, label=int(defect != "good"), part=key, defect=defect, path=path, mask_path=mask)


# MVTec AD 2: a number and a lighting in each name; one number, per split and good or bad, is one part.


def _find_mvtec_ad2(root: Path) -> list[str]:
    return [
        folder.name
        for folder in subfolders(root)
        if any(isdir(folder / part) for part in ("test_public", "validation", "test_private"))
        or (isdir(folder / "train") and not isdir(folder / "test"))
    ]


def _scan_mvtec_ad2(root: Path, category: str) -> Scan:
    scan = Scan(root / category)
    for split in ("train", "validation"):
        images = _required(scan, f"{split}/good", "mvtec_ad2")
        scan.splits[split] = _lit(scan, f"{split}/good", images)
    good = _images(scan, "test_public/good")
    bad = _images(scan, "test_public/bad")
    masks = _paired(scan, bad, "test_public/ground_truth/bad")
    scan.splits["test"] = _lit(scan, "test_public/bad", bad, "bad", masks) + _lit(scan, "test_public/good", good)
    for split in ("test_private", "test_private_mixed"):
        scan.splits[split] = _lit(scan, split, _images(scan, split))
    return scan


def _lit(
    scan: Scan, folder: str, images: dict[str, Path], defect: str = "good", masks: dict[str, Path] | None = None
) -> tuple[ImageRecord, ...]:
    records = []
    for stem, path in images.items():
        name = re.fullmatch(r"(\d+)_(\w+)", stem)
        if name is None:
            scan.fault("name", path, f"{path} is not named <number>_<lighting>, as in 000_regular.png; rename it")
            continue
        if name[2] == "clean":
            scan.fault("name", path, f"{path}: `clean` is what results call the whole test set; rename the lighting")
            continue
        records.append(
            ImageRecord(
                key=f"{folder}/{stem}",
                label=int(defect != "good"),
                part=f"{folder}/{name[1]}",
                defect=defect,
                lighting=name[2],
                path=path,
                mask_path=(masks or {}).get(stem),
            )
        )
    return _sorted(records)


# VisA: split_csv/1cls.csv names object, split, label, image and mask of every image.

VISA_TABLE = "split_csv/1cls.csv"
VISA_COLUMNS = ("object", "split", "label", "image", "mask")


def _visa_rows(root: Path) -> list[dict[str, str]]:
    table = root / VISA_TABLE
    if not isfile(table):
        return []
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if lacking := set(VISA_COLUMNS) - set(rows.fieldnames or ()):
                raise InputError(
                    f"table {table} has no column {', '.join(sorted(lacking))}; its first line is to name "
                    f"{', '.join(VISA_COLUMNS)}, with commas between"
                )
            return list(rows)
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"table {table} cannot be read ({error}); restore it") from None


def _find_visa(root: Path) -> list[str]:
    return sorted({row["object"] for row in _visa_rows(root) if row.get("object")})


def _scan_visa(root: Path, category: str) -> Scan:
    scan = Scan(root / category)
    splits: dict[str, list[ImageRecord]] = {"train": [], "test": []}
    seen: set[str] = set()
    for row in _visa_rows(root):
        if row.get("object") != category:
            continue
        split, label, image, mask = (row.get(name) or "" for name in ("split", "label", "image", "mask"))
        inside = not any(
            ".." in name or PurePosixPath(name).is_absolute() or UNSAYABLE.search(name) for name in (image, mask)
        )
        if split not in splits or label not in ("normal", "anomaly") or not image or not inside:
            scan.fault("name", root / VISA_TABLE, f"{root / VISA_TABLE} has a row that is not of VisA's form: {row}")
            continue
        if split == "train" and label == "anomaly":
            message = f"{root / VISA_TABLE} has the anomaly {image} among the training images; make its split `test`"
            scan.fault("name", root / VISA_TABLE, message)
        key = f"{split}/{label}/{PurePosixPath(image).stem}"
        anomalous = label == "anomaly"
        if key in seen:
            scan.fault("duplicate", root / VISA_TABLE, f"{root / VISA_TABLE} names {image} twice; keep one row")
        seen.add(key)
        for wanted in (image, mask if anomalous else ""):
            if wanted and not isfile(root / wanted):
                scan.fault("missing", root / wanted, f"{root / wanted}, named in {VISA_TABLE}, is missing; restore it")
        if anomalous and not mask:
            scan.fault("missing", root / image, f"{root / VISA_TABLE} names no mask for {image}; restore the table")
        splits[split].append(
            ImageRecord(
                key=key,
                label=int(anomalous),
                part=key,
                defect="anomaly" if anomalous else "good",
                path=root / image,
                mask_path=root / mask if anomalous else None,
            )
        )
    if not splits["train"]:
        scan.fault("layout", root / VISA_TABLE, f"{root / VISA_TABLE} names no training image of {category}")
    scan.splits = {split: _sorted(records) for split, records in splits.items()}
    return scan


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("mvtec_ad", _find_mvtec_ad, _scan_mvtec_ad),
        Layout("mvtec_ad2", _find_mvtec_ad2, _scan_mvtec_ad2),
        Layout("visa", _find_visa, _scan_visa),
    )
}

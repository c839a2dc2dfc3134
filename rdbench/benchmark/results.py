"""What a cell leaves behind: a typed result (JSON) and its per-image predictions (NumPy archive).

Predictions are kept before any metric, so that metrics can be computed again for ever without torch or the model.
Imports no torch.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from rdbench.reading import MAX_BYTES, read_bounded

PROTOCOL_VERSION = 1
"""Raised whenever the same cell would give other numbers; results of different versions are never ranked together."""

CLEAN = "clean"
"""The condition of the test set as it is; the others are "kind:severity" and the real lightings."""

MOST_SHOWN = 8000
"""Characters that are kept of why a cell failed."""

OptionValue = bool | int | float | str


class Record(BaseModel):
    """Base of the stored records: immutable, and refusing fields it does not know and numbers that are none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Figure(Record):
    """One number with its 95 % interval where there is one; `value` is None when undefined, and `note` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""


class CellSpec(Record):
    """All that decides a cell's numbers; two cells with equal specs have equal results on one machine."""

    protocol: int
    dataset: str
    category: str
    method: str
    options: dict[str, OptionValue]
    method_sha256: str
    seed: int
    backbone: str
    weights: str
    weights_sha256: str
    image_size: tuple[int, int]
    """Height and width in pixels."""
    map_size: tuple[int, int] | None
    """Height and width at which pixel figures are computed; None for each image's own size."""
    epochs: int
    batch_size: int
    precision: Literal["fp32", "bf16"]
    conditions: tuple[str, ...]
    """CLEAN first, then the shifts, "kind:severity", sorted."""
    fingerprint: str
    """Of the category's images, see `rdbench.datasets`."""

    def digest(self, *fields: str) -> str:
        """Ten hexadecimal digits that stand for the named fields, all of them (the weights' name apart) if none is."""
        content = self.model_dump(mode="json", include=set(fields) or None, exclude={"weights"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]

    @property
    def group_id(self) -> str:
        """Cells with one group id share images, teacher features and the deterministic student."""
        shared = (
            "protocol", "dataset", "category", "seed", "backbone", "weights_sha256", "image_size", "map_size", "epochs",
            "batch_size", "precision", "fingerprint",
        )  # fmt: skip
        return f"{slug(self.category)}-s{self.seed}-{self.digest(*shared)}"

    @property
    def path(self) -> Path:
        """The cell's directory below the store."""
        leaf = f"{slug(self.method)}-s{self.seed}-{self.digest()}"
        return Path(slug(self.dataset)) / slug(self.category) / leaf

    def __str__(self) -> str:
        return f"{self.method} on {self.dataset}/{self.category}, seed {self.seed}"


class Split(Record):
    """How many images each split holds and where the calibration images come from."""

    train: int
    calibration: int
    test: int
    test_anomalous: int
    calibration_source: str
    custom: str
    """Empty for official data; otherwise why the result is never ranked with official ones."""


class Threshold(Record):
    """The decision threshold: anomalous if score > value."""

    alpha: float = Field(gt=0, lt=1)
    value: float
    level: float
    """The false-alarm level that this many calibration images can attain."""
    attained: bool
    """False if `level` is larger than `alpha`."""


class Provenance(Record):
    """Where, when and with what a result was made."""

    created: str
    rdbench: str
    packages: dict[str, str]
    git_commit: str
    git_dirty: bool | None
    device: str
    platform: str
    threads: int
    kept_memory: bool | None = None
    """Whether freed memory was kept (`--keep-memory`) and the C library could; None in results from before this."""

    def unlike(self, other: Provenance) -> dict[str, tuple[str, str]]:
        """Threads, device and torch where the two have others: the bits of one cell differ between those."""
        mine, its = (
            {
                "threads": str(each.threads),
                "device": each.device,
                "torch": each.packages.get("torch", "unknown"),
            }
            for each in (self, other)
        )
        return {name: (mine[name], its[name]) for name in mine if mine[name] != its[name]}


class CellResult(Record):
    """One cell, measured."""

    spec: CellSpec
    provenance: Provenance
    split: Split
    threshold: Threshold
    cost: dict[str, Figure]
    pixel: dict[str, dict[str, Figure]]
    """Pixel figures by condition: computed while the maps streamed by, kept because the maps are not."""
    image: dict[str, dict[str, Figure]]
    """Image figures by condition, computed from the stored predictions."""
    predictions_sha256: str
    interval: str = Field(description="How the intervals were made, in words.")

    @model_validator(mode="after")
    def _whole(self) -> CellResult:
        if missing := {CLEAN, *self.spec.conditions} - self.image.keys():
            raise ValueError(f"image: the condition {sorted(missing)[0]!r} is missing")
        if unknown := self.pixel.keys() - self.image.keys():
            raise ValueError(f"pixel: the condition {sorted(unknown)[0]!r} is not among the image figures'")
        return self

    def figures(self) -> dict[str, dict[str, Figure]]:
        """All figures, by condition and metric name; the cost stands under the clean condition."""
        by_condition = {name: self.image[name] | self.pixel.get(name, {}) for name in self.image}
        by_condition[CLEAN] = by_condition[CLEAN] | self.cost
        return by_condition


class CellFailure(Record):
    """Why a cell has no result."""

    spec: CellSpec
    stage: str
    reason: Annotated[str, AfterValidator(lambda text: _shown(" ".join(text.split())))]
    """In one line, as it is shown in lines; the traceback has it as it was raised."""
    traceback: Annotated[str, AfterValidator(lambda text: _shown(text))]
    bad_input: bool
    """True if the user's input was at fault rather than the method."""


def _shown(text: str) -> str:
    """A stranger's text, fit to be written: cut in the middle, and halves of surrogate pairs spelt out."""
    if len(text) > MOST_SHOWN:
        text = f"{text[: MOST_SHOWN // 2]} [...] {text[-MOST_SHOWN // 2 :]}"
    return text.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True)
class Predictions:
    """What a method said: C conditions, n test images, m calibration images, K members (0 if it has none)."""

    conditions: tuple[str, ...]
    images: tuple[str, ...]
    parts: NDArray[np.str_]
    labels: NDArray[np.int8]
    defects: NDArray[np.str_]
    lightings: NDArray[np.str_]
    scores: NDArray[np.float32]
    """(C, n)"""
    uncertainties: NDArray[np.float32]
    """(C, n)"""
    member_scores: NDArray[np.float32]
    """(C, K, n)"""
    calibration_scores: NDArray[np.float32]
    """(m,)"""
    calibration_uncertainties: NDArray[np.float32]
    """(m,)"""
    calibration_members: NDArray[np.float32]
    """(K, m)"""

    def save(self, path: Path) -> None:
        """Write as a compressed NumPy archive without pickled objects."""
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in vars(self).items()}
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Read what :meth:`save` wrote. Raises ValueError for anything else, OSError for what cannot be read."""
        return cls.unpack(io.BytesIO(read_bounded(path)))

    @classmethod
    def unpack(cls, file: IO[bytes]) -> Predictions:
        """The same from an open file."""
        try:
            with zipfile.ZipFile(file) as packed:
                if sum(item.file_size for item in packed.infolist()) > MAX_BYTES:
                    raise ValueError(f"unpacked it is larger than {MAX_BYTES:,} bytes")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                missing = set(cls.__dataclass_fields__) - set(archive.files)
                if missing:
                    raise ValueError(f"it lacks {', '.join(sorted(missing))}")
                values: dict[str, Any] = {name: archive[name] for name in cls.__dataclass_fields__}
        except UNREADABLE as error:
            raise ValueError(f"it is no archive of predictions: {error}") from error
        for name in ("conditions", "images"):
            if values[name].ndim != 1 or values[name].dtype.kind != "U":
                raise ValueError(f"{name}: wrong shape or type")
            values[name] = tuple(values[name].tolist())
        found = cls(**values)
        found._check()
        return found

    def _check(self) -> None:
        """Raise ValueError if the arrays are not what they are said to be."""
        conditions, images = len(self.conditions), len(self.images)
        if not images or self.conditions[:1] != (CLEAN,) or len(set(self.conditions)) < conditions:
            raise ValueError(f"it wants images, and conditions that differ and start with {CLEAN!r}")
        members, calibration = self.calibration_members.shape[:1], self.calibration_scores.shape
        shapes: dict[str, tuple[int, ...]] = {
            **dict.fromkeys(("parts", "labels", "defects", "lightings"), (images,)),
            **dict.fromkeys(("scores", "uncertainties"), (conditions, images)),
            "member_scores": (conditions, *members, images),
            "calibration_scores": calibration[:1],
            "calibration_uncertainties": calibration,
            "calibration_members": (*members, *calibration),
        }
        arrays = {name: getattr(self, name) for name in shapes}
        wrong = {name for name, array in arrays.items() if array.shape != shapes[name]}
        for name, array in arrays.items():
            match name:
                case "parts" | "defects" | "lightings":
                    sound = array.dtype.kind == "U"
                case "labels":
                    sound = bool(np.isin(array, (0, 1)).all())
                case _:
                    sound = array.dtype.kind == "f" and bool(np.isfinite(array).all())
            if not sound:
                wrong.add(name)
        if not self.calibration_scores.size:
            wrong.add("calibration_scores")
        if wrong:
            raise ValueError(f"{', '.join(sorted(wrong))}: wrong shape, type or values")


UNREADABLE = (
    EOFError, NotImplementedError, AttributeError, KeyError, TypeError, MemoryError, zlib.error, zipfile.BadZipFile,
)  # fmt: skip
"""What NumPy and zipfile raise for bytes that are no archive of arrays, beside ValueError."""


def slug(name: str) -> str:
    """A name that came from a file or a user, made safe as one path component; distinct names stay distinct."""
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:60]
    return safe if safe and safe == name else f"{safe or 'x'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"

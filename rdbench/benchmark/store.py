"""The store: a directory of finished cells. A cell is written beside its place and moved in whole. Imports no torch."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from rdbench.benchmark.gallery import GALLERY
from rdbench.benchmark.results import CellFailure, CellResult, CellSpec, Predictions, slug
from rdbench.errors import InputError

RESULT = "result.json"
PREDICTIONS = "predictions.npz"
WORK = ".work"
FAILED = ".failed"


@dataclass(frozen=True)
class Store:
    """Finished cells below `root`; `root/.work` holds what a killed run left, `root/.failed` why cells failed."""

    root: Path

    def has(self, spec: CellSpec, *, with_model: bool = False) -> bool:
        """Whether the cell is finished, and its model kept if asked; a cell directory is only ever there whole."""
        cell = self.root / spec.path
        return (cell / RESULT).is_file() and (not with_model or (cell / "model").is_dir())

    def load(self, spec: CellSpec) -> CellResult:
        """The finished cell's result."""
        return read_result(self.root / spec.path / RESULT)

    def results(self) -> Iterator[tuple[Path, CellResult]]:
        """Every finished cell's directory and result, in the order of their paths."""
        for path in sorted(self.root.glob(f"[!.]*/*/*/{RESULT}")):
            yield path.parent, read_result(path)

    def kept_models(self, like: CellSpec, method: str) -> Iterator[tuple[Path, CellResult]]:
        """Model directory and result of the finished cells of `method` in the group of `like` that kept their model."""
        cells = self.root / slug(like.dataset) / slug(like.category)
        for model in sorted(cells.glob(f"{slug(method)}-s{like.seed}-*/model")):
            result = read_result(model.parent / RESULT)
            if result.spec.group_id == like.group_id:
                yield model, result

    def write(
        self, result: CellResult, predictions: Path, model: Path | None = None, gallery: Path | None = None
    ) -> Path:
        """Move a finished cell in, whole: its predictions file and, if given, its directories of model and pictures."""
        target = self.root / result.spec.path
        work = self.work_directory("cells")
        staged = work / f"{target.name}.{os.getpid()}"
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        shutil.copyfile(predictions, staged / PREDICTIONS)
        if model is not None:
            shutil.copytree(model, staged / "model")
        if gallery is not None:
            shutil.copytree(gallery, staged / GALLERY)
        write_text(staged / RESULT, result.model_dump_json(indent=1))
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():  # run again to keep its model
            shutil.rmtree(target)
        staged.replace(target)
        self.failure_path(result.spec).unlink(missing_ok=True)
        return target

    def rewrite(self, directory: Path, result: CellResult) -> None:
        """Replace a finished cell's result in one step; its predictions stay."""
        write_text(directory / RESULT, result.model_dump_json(indent=1))

    def write_failure(self, failure: CellFailure) -> Path:
        """Keep why a cell failed until it succeeds."""
        path = self.failure_path(failure.spec)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, failure.model_dump_json(indent=1))
        return path

    def failure_path(self, spec: CellSpec) -> Path:
        """Where the reason of a failed cell is kept."""
        return self.root / FAILED / f"{'-'.join(spec.path.parts)}.json"

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the unfinished work of that name; the system lets go of it when the process ends, however it ends.

        Raises InputError if another process holds it.
        """
        with (self.work_directory("locks") / name).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"another run is at work on this in {self.root}; run the same command again when it has ended"
                ) from None
            yield

    def work_directory(self, name: str) -> Path:
        """A directory for unfinished work; it survives a killed run and is removed when the work is done."""
        path = self.root / WORK / name
        path.mkdir(parents=True, exist_ok=True)
        return path


def open_store(root: Path, *, create: bool) -> Store:
    """The store at `root`. Raises InputError if it cannot be used."""
    if create:
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root):
                pass
        except OSError as error:
            raise InputError(f"cannot write results to {root}: {error.strerror}; choose another --out") from error
    elif not root.is_dir():
        raise InputError(
            f"no results at {root}: no such directory; run `rdbench run` first, or name its --out directory"
        )
    return Store(root)


def read_result(path: Path) -> CellResult:
    """Read and check one result file. Raises InputError that names the file and the first thing wrong."""
    try:
        return CellResult.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(
            f"{path} is no valid result: {where}: {first['msg']}; remove its directory to run it again"
        ) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def read_predictions(directory: Path, result: CellResult) -> Predictions:
    """The stored predictions of a finished cell, checked against the hash in its result."""
    path = directory / PREDICTIONS
    try:
        if sha256(path) != result.predictions_sha256:
            raise InputError(f"{path} is not what the result was computed from; remove {directory} to run it again")
        return Predictions.load(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; remove {directory} to run it again") from error


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replace the file in one step, so that it is never seen half-written."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    with staged.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)

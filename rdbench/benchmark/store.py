"""The store: a directory of finished cells. A cell is written beside its place and moved in whole. Imports no torch."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from os.path import isdir, isfile, lexists  # pathlib's raise where a name is too long
from pathlib import Path

from pydantic import ValidationError

from rdbench.benchmark.gallery import GALLERY
from rdbench.benchmark.locks import RUN, Locks
from rdbench.benchmark.results import CellFailure, CellResult, CellSpec, Predictions, slug
from rdbench.datasets.scan import subfolders
from rdbench.errors import InputError
from rdbench.reading import read_bounded

RESULT = "result.json"
PREDICTIONS = "predictions.npz"
WORK = ".work"
LOCKS = "locks"
CELLS = "cells"
"""Where cells lie on their way in, and work on its way out; a cell that another replaces is aside there for a moment,
with `BEFORE` at its end."""
BEFORE = ".before"
FAILED = ".failed"
CELL = re.compile(r"-s\d+-[0-9a-f]{10}$")
"""How the names of cells' directories end."""


@dataclass(frozen=True)
class Store:
    """Finished cells below `root`; `root/.work` holds what a killed run left, `root/.failed` why cells failed."""

    root: Path

    def was_used(self) -> bool:
        """Whether a run was ever at work here; else, without cells, this is some other directory, or a new one."""
        return any(isdir(self.root / name) for name in (WORK, FAILED))

    def has(self, spec: CellSpec, *, with_model: bool = False) -> bool:
        """Whether the cell is finished, and its model kept if asked; whole, unless somebody has removed files of it."""
        cell = self.root / spec.path
        for folder in (cell.parent.parent, cell.parent, cell):
            _refuse_unreadable(folder)
        there = isfile(cell / RESULT) and isfile(cell / PREDICTIONS)
        return there and (not with_model or isdir(cell / "model"))

    def load(self, spec: CellSpec) -> CellResult:
        """The finished cell's result."""
        return read_result(self.root / spec.path / RESULT)

    def results(self) -> Iterator[tuple[Path, CellResult]]:
        """Every finished cell's directory and result, in the order of their paths."""
        for cell in self.cells():
            _refuse_unreadable(cell)
            if lexists(cell / RESULT):
                yield cell, read_result(cell / RESULT)

    def cells(self) -> list[Path]:
        """Every directory that is a cell's by its name or has a result, sorted: what is damaged too."""
        if not isdir(self.root):
            return []
        datasets = (folder for folder in subfolders(self.root) if folder.name != "lost+found")  # of a file system
        found = (cell for dataset in datasets for category in subfolders(dataset) for cell in subfolders(category))
        return [cell for cell in found if CELL.search(cell.name) or lexists(cell / RESULT)]

    def kept_models(self, like: CellSpec, method: str) -> Iterator[tuple[Path, CellResult]]:
        """Model directory and result of the finished cells of `method` in the group of `like` that kept their model."""
        cells = self.root / slug(like.dataset) / slug(like.category)
        for model in sorted(cells.glob(f"{slug(method)}-s{like.seed}-*/model")):
            if not isfile(model.parent / RESULT):  # of a cell that somebody has removed files of
                continue
            result = read_result(model.parent / RESULT)
            if result.spec.group_id == like.group_id:
                yield model, result

    def write(
        self, result: CellResult, predictions: Path, model: Path | None = None, gallery: Path | None = None
    ) -> Path:
        """Move a finished cell in, whole: its predictions file and, if given, its directories of model and pictures."""
        target = self.root / result.spec.path
        work = self.work_directory(CELLS)
        staged = work / f"{target.name}.{os.getpid()}"
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        shutil.copyfile(predictions, staged / PREDICTIONS)
        if model is not None:
            shutil.copytree(model, staged / "model")
        if gallery is not None:
            shutil.copytree(gallery, staged / GALLERY)
        write_text(staged / RESULT, result.model_dump_json(indent=1))
        self._move_in(staged, target, result.spec)
        return target

    def adopt(self, directory: Path, *, move: bool = False) -> Path:
        """Copy a finished cell's directory from elsewhere in, whole, or move it if it lies on this file system.

        Raises InputError if the result is not valid or its predictions are not those it was computed from.
        """
        result = read_result(directory / RESULT)
        read_predictions(directory, result)
        target = self.root / result.spec.path
        staged = self.work_directory(CELLS) / f"{target.name}.{os.getpid()}"
        shutil.rmtree(staged, ignore_errors=True)
        if move:
            directory.replace(staged)
        else:
            shutil.copytree(directory, staged)
            # A folder that may not be written to, as of an archive, cannot be moved or removed.
            for folder in (staged, *filter(Path.is_dir, staged.rglob("*"))):
                folder.chmod(folder.stat().st_mode | stat.S_IRWXU)
        self._move_in(staged, target, result.spec)
        return target

    def _move_in(self, staged: Path, target: Path, spec: CellSpec) -> None:
        """Move the cell in when all of it is on the disk: after a power cut it is there whole or not at all."""
        for path in (*staged.rglob("*"), staged):
            to_disk(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        before = staged.with_name(staged.name + BEFORE)
        shutil.rmtree(before, ignore_errors=True)
        if target.exists():  # run again to keep its model; aside in one step, so that nobody sees half of it
            target.replace(before)
        staged.replace(target)
        for folder in (target.parent, target.parent.parent, self.root):  # each may be new
            to_disk(folder)
        shutil.rmtree(before, ignore_errors=True)
        self.failure_path(spec).unlink(missing_ok=True)

    def clear_up(self, mine: str) -> None:
        """Remove what killed runs left on its way in, unless another run than that with the lock `mine` is at work.

        A finished cell that was aside to be replaced, and was not, goes back to its place.
        """
        # Before looking who is at work: a run that has begun since has nothing among them.
        left = sorted((self.root / WORK / CELLS).glob("*"))
        if any(holder.name.startswith(RUN) and holder.name != mine for holder in self.locks.held()):
            return
        for path in left:
            if path.name.endswith(BEFORE) and (path / RESULT).is_file():
                target = self.root / read_result(path / RESULT).spec.path
                if not target.exists():
                    path.replace(target)
                    continue
            shutil.rmtree(path, ignore_errors=True)

    def rewrite(self, directory: Path, result: CellResult) -> None:
        """Replace a finished cell's result in one step; its predictions stay. Raises InputError if that cannot be."""
        try:
            write_text(directory / RESULT, result.model_dump_json(indent=1))
        except OSError as error:
            raise InputError(
                f"cannot write {directory / RESULT}: {error.strerror}; it is as it was, mend that and run the same "
                "command again"
            ) from error

    def write_failure(self, failure: CellFailure) -> Path:
        """Keep why a cell failed until it succeeds."""
        path = self.failure_path(failure.spec)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, failure.model_dump_json(indent=1))
        return path

    def failure_path(self, spec: CellSpec) -> Path:
        """Where the reason of a failed cell is kept."""
        return self.root / FAILED / f"{'-'.join(spec.path.parts)}.json"

    @property
    def locks(self) -> Locks:
        """Who is at work on what."""
        return Locks(self.root / WORK / LOCKS)

    def work_directory(self, name: str) -> Path:
        """A directory for unfinished work; it survives a killed run and is removed when the work is done."""
        path = self.root / WORK / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def remove_work(self, directory: Path) -> None:
        """Remove a directory of work that is done, out of its place in one step: whoever finds it finds all of it."""
        away = self.work_directory(CELLS) / f"{directory.name}.{os.getpid()}"
        shutil.rmtree(away, ignore_errors=True)  # of a killed process of the same number, as containers have them
        directory.replace(away)
        shutil.rmtree(away)


def _refuse_unreadable(folder: Path) -> None:
    """Raises InputError for a folder that is there but may not be looked into, which pathlib takes for an empty one."""
    if isdir(folder) and not os.access(folder, os.R_OK | os.X_OK):
        raise InputError(f"{folder} may not be read by this user; change its permissions")


def refuse_within(out: Path) -> None:
    """Raises InputError if what people are to read would be written into a store, among its cells or over them."""
    places = _itself_and_above(out)
    if within := [*filter(_is_store, places), *filter(_is_cell, places)]:
        raise InputError(f"{out} lies in a directory of results, {within[0]}; choose a place outside of it")


def _itself_and_above(path: Path) -> list[Path]:
    whole = Path(os.path.realpath(path))  # unlike resolve, it takes a link that leads to itself
    return [whole, *whole.parents]


def _is_store(place: Path) -> bool:
    """Whether results went there, by more than the name `WORK`, which any folder may have."""
    return isdir(place / WORK / LOCKS) or isdir(place / WORK / CELLS)


def _is_cell(place: Path) -> bool:
    return CELL.search(place.name) is not None and isfile(place / RESULT)


def open_store(root: Path, *, create: bool) -> Store:
    """The store at `root`. Raises InputError if it cannot be used, or is to be made inside another's cell."""
    if create:
        for place in _itself_and_above(root):
            if _is_cell(place) or (place.name == WORK and _is_store(place.parent)):
                raise InputError(f"cannot write results to {root}: {place} is part of others; choose another --out")
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
        return CellResult.model_validate_json(read_bounded(path))
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
    except ValueError as error:  # unharmed, but of another version of rdbench
        raise InputError(f"cannot use {path}: {error}; remove {directory} to run it again") from error


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_disk(path: Path) -> None:
    """Wait until a file's content, or a directory's list of names, is on the disk and not in the machine's memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.EBADF):  # some file systems have no such thing
            raise
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace the file in one step, so that it is never seen half-written."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with staged.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    except OSError:
        with suppress(OSError):
            staged.unlink()
        raise

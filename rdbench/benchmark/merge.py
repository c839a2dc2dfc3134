"""Joins stores. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rdbench.benchmark.results import CellFailure, CellResult
from rdbench.benchmark.store import FAILED, MERGE, RESULT, RUN, Store, open_store, read_predictions, read_result
from rdbench.errors import InputError

SHOWN = 10
"""How many conflicts are named."""


@dataclass(frozen=True)
class Merged:
    """What a merge came to, in cells."""

    copied: int
    equal: int
    """Already there, with equal predictions."""


def merge_stores(sources: Sequence[Path], out: Path) -> Merged:
    """Bring every finished cell of the sources to `out`, and why cells failed that none of them finished.

    A cell that is in several is kept once, with its model if one of them has it. Everything is checked before anything
    is written, and no run or other merge can be at work on `out` meanwhile.

    Raises:
        InputError: two stores have different predictions or pixel figures for one cell, or a cell is damaged, or a run
            or another merge is at work on `out`. Nothing is written then. Or the disk is full: what was copied by then
            is whole.
    """
    stores = [open_store(source, create=False) for source in sources]
    others = [store for store in stores if store.root.resolve() != out.resolve()]
    joined = _Joined()
    for store in others:
        for directory, result in store.results():
            read_predictions(directory, result)
            joined.add(directory, result)
    joined.refuse_conflicts()
    target = open_store(out, create=True)
    with target.lock(MERGE, "a merge"):
        target.refuse_beside(RUN)
        final = _Joined(equal=joined.equal)
        for directory, result in target.results():
            read_predictions(directory, result)
            final.add(directory, result)
        before = dict(final.chosen)
        for directory in joined.chosen.values():
            final.add(directory, read_result(directory / RESULT))
        final.refuse_conflicts()
        for path, directory in final.chosen.items():
            if before.get(path) != directory:
                _adopt(target, directory)
        for store in others:
            _copy_failures(store, target)
    return Merged(len(final.chosen.keys() - before.keys()), final.equal)


@dataclass
class _Joined:
    """Cells of several stores, each once."""

    equal: int = 0
    """How many came again."""
    chosen: dict[Path, Path] = field(default_factory=dict)
    """Where each cell lies that is to be kept, by its path below a store."""
    conflicts: list[str] = field(default_factory=list)

    def add(self, directory: Path, result: CellResult) -> None:
        """Take a cell in; of two equal ones the first, or the one with a model."""
        other = self.chosen.setdefault(result.spec.path, directory)
        if other is directory:
            return
        if not _same(directory, result, other):
            self.conflicts.append(f"{result.spec}: {other} and {directory}")
            return
        self.equal += 1
        if (directory / "model").is_dir() and not (other / "model").is_dir():
            self.chosen[result.spec.path] = directory

    def refuse_conflicts(self) -> None:
        """Raises InputError if there are any."""
        if self.conflicts:
            more = f", and {len(self.conflicts) - SHOWN} more" if len(self.conflicts) > SHOWN else ""
            raise InputError(
                "different results for one cell: " + "; ".join(self.conflicts[:SHOWN]) + more + "; nothing was merged, "
                "remove the directory that is not to be trusted"
            )


def _adopt(target: Store, directory: Path) -> None:
    try:
        target.adopt(directory)
    except OSError as error:
        raise InputError(
            f"cannot copy {directory} to {target.root}: {error.strerror or error}; the cells that are there are whole, "
            "the same command goes on from here"
        ) from error


def _same(directory: Path, result: CellResult, other: Path) -> bool:
    """Whether two results of one cell say the same of every image and its maps; the archives may be packed differently.

    A pixel figure that one of them lacks, as from before it was measured, is no difference.
    """
    known = read_result(other / RESULT)
    for condition in result.pixel.keys() & known.pixel.keys():
        mine, its = result.pixel[condition], known.pixel[condition]
        if any(mine[name].value != its[name].value for name in mine.keys() & its.keys()):
            return False
    if result.predictions_sha256 == known.predictions_sha256:
        return True
    ours, theirs = vars(read_predictions(directory, result)), vars(read_predictions(other, known))
    return all(np.array_equal(ours[name], theirs[name]) for name in ours)


def _copy_failures(store: Store, target: Store) -> None:
    for path in sorted((store.root / FAILED).glob("*.json")):
        try:
            failure = CellFailure.model_validate_json(path.read_bytes())
        except ValueError:
            continue  # a note for people, no result
        if not target.has(failure.spec) and not target.failure_path(failure.spec).exists():
            target.write_failure(failure)

"""Joins stores. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rdbench.benchmark.results import CellFailure, CellResult
from rdbench.benchmark.store import FAILED, RESULT, Store, open_store, read_predictions, read_result
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
    is written.

    Raises:
        InputError: two stores have different predictions or pixel figures for one cell, or a cell is damaged. Nothing
            is written then. Or the disk is full: what was copied by then is whole.
    """
    stores = [open_store(source, create=False) for source in sources]
    chosen = {result.spec.path: directory for directory, result in Store(out).results()} if out.is_dir() else {}
    before = dict(chosen)
    equal, conflicts = 0, []
    for store in [store for store in stores if store.root.resolve() != out.resolve()]:
        for directory, result in store.results():
            read_predictions(directory, result)
            other = chosen.setdefault(result.spec.path, directory)
            if other is directory:
                continue
            if not _same(directory, result, other):
                conflicts.append(f"{result.spec}: {other} and {directory}")
                continue
            equal += 1
            if (directory / "model").is_dir() and not (other / "model").is_dir():
                chosen[result.spec.path] = directory
    if conflicts:
        more = f", and {len(conflicts) - SHOWN} more" if len(conflicts) > SHOWN else ""
        raise InputError(
            "different results for one cell: " + "; ".join(conflicts[:SHOWN]) + more + "; nothing was merged, "
            "remove the directory that is not to be trusted"
        )
    target = open_store(out, create=True)
    copied = 0
    for path, directory in chosen.items():
        if before.get(path) != directory:
            try:
                target.adopt(directory)
            except OSError as error:
                raise InputError(
                    f"cannot copy {directory} to {out}: {error.strerror or error}; the cells that are there are whole, "
                    "the same command goes on from here"
                ) from error
            copied += path not in before
    for store in stores:
        _copy_failures(store, target)
    return Merged(copied, equal)


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

"""Joins stores. Imports no torch."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rdbench.benchmark.gallery import GALLERY
from rdbench.benchmark.locks import MERGE, RUN
from rdbench.benchmark.results import CellFailure, CellResult, Figure
from rdbench.benchmark.store import FAILED, RESULT, Store, open_store, read_predictions, read_result
from rdbench.errors import InputError, reason

SHOWN = 10
"""How many conflicts are named."""
TOLERANCE = 1e-6
"""Relative; figures of equal predictions that were computed on other machines agree to the last digits nearly."""

Figures = Mapping[str, Mapping[str, Figure]]


@dataclass(frozen=True)
class Merged:
    """What a merge came to, in cells."""

    copied: int
    equal: int
    """Already there, with equal predictions."""


def merge_stores(sources: Sequence[Path], out: Path) -> Merged:
    """Bring every finished cell of the sources to `out`, and why cells failed that none of them finished.

    A cell that is in several is kept once: with its model, or else its pictures, if one of them has it. Everything is
    checked before anything is written, and no run or other merge can be at work on `out` meanwhile.

    Raises:
        InputError: two stores have different predictions, thresholds or figures for one cell, or a cell is damaged, or
            a source is no store, or a run or another merge is at work on `out`. Nothing is written then. Or the disk is
            full: what was copied by then is whole.
    """
    stores = [open_store(source, create=False) for source in sources]
    others = [store for store in stores if store.root.resolve() != out.resolve()]
    joined = _Joined()
    for store in others:
        if not (store.was_used() or store.cells()):  # cells alone: as copied by `cp -r runs/*`
            raise InputError(
                f"{store.root} is no directory of results: no run was at work there; name the --out of one"
            )
        for directory, result in _cells(store):
            joined.add(directory, result)
    joined.refuse_conflicts()
    target = open_store(out, create=True)
    with target.locks.hold(MERGE, "a merge"):
        target.locks.refuse_beside(RUN)
        final = _Joined(equal=joined.equal)
        for directory, result in _cells(target):
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


def _cells(store: Store) -> Iterator[tuple[Path, CellResult]]:
    """Each cell's directory and result, checked. Raises InputError for a damaged one."""
    for directory in store.cells():
        if not (directory / RESULT).is_file():
            raise InputError(f"{directory} is no whole cell, it has no {RESULT}; remove it, or run that cell again")
        result = read_result(directory / RESULT)
        read_predictions(directory, result)
        yield directory, result


@dataclass
class _Joined:
    """Cells of several stores, each once."""

    equal: int = 0
    """How many came again."""
    chosen: dict[Path, Path] = field(default_factory=dict)
    """Where each cell lies that is to be kept, by its path below a store."""
    conflicts: list[str] = field(default_factory=list)

    def add(self, directory: Path, result: CellResult) -> None:
        """Take a cell in; of two equal ones the one with a model, or else with pictures, or else the first."""
        other = self.chosen.setdefault(result.spec.path, directory)
        if other is directory:
            return
        if conflict := _conflict(directory, result, other):
            self.conflicts.append(conflict)
            return
        self.equal += 1
        if _kept(directory) > _kept(other):
            self.chosen[result.spec.path] = directory

    def refuse_conflicts(self) -> None:
        """Raises InputError if there are any."""
        if self.conflicts:
            more = f", and {len(self.conflicts) - SHOWN} more" if len(self.conflicts) > SHOWN else ""
            raise InputError(
                "different results for one cell: " + "; ".join(self.conflicts[:SHOWN]) + more + "; nothing was merged"
            )


def _kept(directory: Path) -> tuple[bool, bool]:
    """Whether a cell has its model, and its pictures: the more it has, the larger."""
    return (directory / "model").is_dir(), (directory / GALLERY).is_dir()


def _adopt(target: Store, directory: Path) -> None:
    try:
        target.adopt(directory)
    except OSError as error:
        raise InputError(
            f"cannot copy {directory} to {target.root}: {reason(error)}; the cells that are there are whole, "
            "the same command goes on from here"
        ) from error


def _conflict(directory: Path, result: CellResult, other: Path) -> str:
    """What differs between two results of one cell, why, and what to do; nothing if they say the same."""
    known = read_result(other / RESULT)
    # The archives may be packed differently.
    same = result.predictions_sha256 == known.predictions_sha256
    if not same:
        ours, theirs = vars(read_predictions(directory, result)), vars(read_predictions(other, known))
        same = all(np.array_equal(ours[name], theirs[name]) for name in ours)
    first, second = known.threshold, result.threshold
    differs = {
        "predictions": not same,
        f"alpha ({first.alpha:g} and {second.alpha:g})": first.alpha != second.alpha,
        "split": known.split != result.split,
        "threshold": not _close(first.value, second.value),
        "image figures": not _agree(known.image, result.image),
        "pixel figures": not _agree(known.pixel, result.pixel, tolerance=0.0),
    }
    if not any(differs.values()):
        return ""
    what = ", ".join(name for name in differs if differs[name])
    mend = _evaluate if same and not (differs["pixel figures"] or differs["split"]) else _run_again
    return f"{result.spec}: {what} differ between {other} and {directory}; {mend(known, result, other, directory)}"


def _evaluate(known: CellResult, result: CellResult, *directories: Path) -> str:
    """What makes figures equal that come of equal predictions."""
    commands = (f"`rdbench evaluate {_store_of(each)} --alpha {known.threshold.alpha:g}`" for each in directories)
    return f"the predictions are equal: {' and '.join(commands)} make these equal too"


def _run_again(known: CellResult, result: CellResult, other: Path, directory: Path) -> str:
    """Why two runs of one cell gave other bits, as far as they say it themselves, and what to do."""
    unlike = known.provenance.unlike(result.provenance)
    commits = [each.provenance.git_commit[:10] or "none" for each in (known, result)]
    reasons = [f"{name}: {first} and {second}" for name, (first, second) in unlike.items()]
    reasons += [f"commit: {commits[0]} and {commits[1]}"] if commits[0] != commits[1] else []
    if not reasons:
        return (
            "both say that they were made with the same threads, device, torch and commit: `rdbench verify "
            f"{_store_of(directory)}` runs cells again; remove the directory that is not to be trusted"
        )
    threads = f" (OMP_NUM_THREADS={known.provenance.threads})" if "threads" in unlike else ""
    return (
        f"they were made otherwise ({'; '.join(reasons)}), and bits differ between those: leave {_store_of(directory)} "
        f"out, or remove {directory} and run that cell again as the other was{threads}"
    )


def _store_of(directory: Path) -> str:
    return shlex.quote(str(directory.parents[2]))


def _agree(known: Figures, new: Figures, tolerance: float = TOLERANCE) -> bool:
    """Whether both have the same conditions, and all figures that both have are the same.

    A figure that is missing is from before it was measured; a condition never is.
    """
    return known.keys() == new.keys() and all(
        _close(getattr(known[condition][name], part), getattr(new[condition][name], part), tolerance)
        for condition in known
        for name in known[condition].keys() & new[condition].keys()
        for part in ("value", "low", "high")
    )


def _close(first: float | None, second: float | None, tolerance: float = TOLERANCE) -> bool:
    if first is None or second is None:
        return first is second
    return math.isclose(first, second, rel_tol=tolerance, abs_tol=tolerance)


def _copy_failures(store: Store, target: Store) -> None:
    for path in sorted((store.root / FAILED).glob("*.json")):
        try:
            failure = CellFailure.model_validate_json(path.read_bytes())
        except (ValueError, FileNotFoundError):
            continue  # a note for people, no result; or of a cell that has succeeded meanwhile
        if not target.has(failure.spec) and not target.failure_path(failure.spec).exists():
            target.write_failure(failure)

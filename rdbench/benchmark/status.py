"""What is going on in a store: finished, failed, at work, left over. Reads only, at any moment. Imports no torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from rdbench.benchmark.locks import RUN, Holder
from rdbench.benchmark.results import CellFailure, CellSpec, slug
from rdbench.benchmark.store import CELLS, FAILED, LOCKS, PREDICTIONS, RESULT, WORK, open_store, read_result
from rdbench.errors import InputError
from rdbench.words import count


@dataclass(frozen=True)
class Status:
    """A store at one moment."""

    finished: Counter[str]
    """Cells by data set, as its folder is called."""
    failed: Counter[str]
    damaged: Counter[str]
    reasons: list[tuple[str, list[str]]]
    """Each reason why cells failed, and which."""
    problems: list[str]
    """What is wrong with each damaged cell."""
    runs: list[Holder]
    """The runs that go on."""
    groups: list[Holder]
    """The groups that are worked on."""
    begun: list[str]
    """Groups that were begun and are worked on by nobody, in words."""
    left: list[str]
    """What they left behind whose cells are finished since, in words."""

    def lines(self) -> Iterator[str]:
        """What is at work, failed, damaged and left over, in words."""
        if not self.finished:
            yield "nothing is finished here"
        for run in self.runs:
            yield f"run: {_words(run)}"
        for group in self.groups:
            yield f"at work: {_words(group)}"
        for reason, cells in self.reasons:
            more = f" and {len(cells) - 3} more" if len(cells) > 3 else ""
            yield f"failed: {'; '.join(cells[:3])}{more}: {reason}"
        for problem in self.problems:
            yield f"damaged: {problem}"
        for begun in self.begun:
            yield f"begun and not finished: {begun}; the same command goes on from there"
        for left in self.left:
            yield f"left over: {left}"
        if not (self.runs or self.groups):
            yield "nothing is at work here"


def read_status(root: Path) -> Status:
    """What is going on in the store at `root`. Raises InputError if there is none."""
    store = open_store(root, create=False)
    held, begun = list(store.locks.held()), _begun(root)
    runs = [holder for holder in held if holder.name.startswith(RUN)]
    groups = [holder for holder in held if not holder.name.startswith(RUN)]
    specs, damaged = _read(store.cells())
    again, damaged = _read(list(damaged))  # what was replaced at that moment is whole by now
    specs += again
    failures: list[CellSpec] = []
    reasons: dict[str, list[str]] = {}
    for path in sorted((root / FAILED).glob("[!.]*.json")):
        try:
            failure = CellFailure.model_validate_json(path.read_bytes())
        except FileNotFoundError:  # succeeded meanwhile
            continue
        except ValueError:
            reasons.setdefault("the note of it cannot be read; remove it", []).append(str(path))
            continue
        failures.append(failure.spec)
        reasons.setdefault(failure.reason, []).append(str(failure.spec))
    if not specs and any(root.iterdir()) and not store.was_used():
        raise InputError(f"{root} is no directory of results: no run was at work there; name the --out of one")
    # A group may have begun, or ended, between one look and the next.
    now = {holder.name for holder in store.locks.held()} | {holder.name for holder in held}
    names = [name for name in _begun(root) if name in begun and not name.startswith(tuple(now))]
    done = [name for name in names if _is_done(root / WORK / name, specs, failures)]
    return Status(
        finished=Counter(spec.path.parts[0] for spec in specs),
        failed=Counter(spec.path.parts[0] for spec in failures),
        damaged=Counter(directory.parts[-3] for directory in damaged),
        reasons=list(reasons.items()),
        problems=list(damaged.values()),
        runs=runs,
        groups=groups,
        begun=[_group(root, name) for name in names if name not in done],
        left=[
            f"{_group(root, name)}: its cells are finished, nothing goes on from there; remove {root / WORK / name}"
            for name in done
        ],
    )


def _read(directories: Sequence[Path]) -> tuple[list[CellSpec], dict[Path, str]]:
    """The finished cells among these directories, and what is wrong with the others."""
    specs, damaged = [], {}
    for directory in directories:
        try:
            spec = read_result(directory / RESULT).spec
            if (directory / PREDICTIONS).is_file():
                specs.append(spec)
            elif directory.is_dir():
                damaged[directory] = f"{directory / PREDICTIONS} is missing; the same command runs the cell again"
        except InputError as error:
            if directory.is_dir():
                damaged[directory] = str(error)
    return specs, damaged


def _begun(root: Path) -> list[str]:
    return sorted(path.name for path in (root / WORK).glob("*") if path.is_dir() and path.name not in (LOCKS, CELLS))


def _is_done(directory: Path, finished: Sequence[CellSpec], failures: Sequence[CellSpec]) -> bool:
    """Whether every method that the group's unfinished work has fitted has a finished cell there, and none has failed.

    As where a killed run was gone on with by one with other threads, which leaves the first one's work alone.
    """
    its = [spec for spec in finished if directory.name.startswith(spec.group_id)]
    fitted = {path.name.rpartition("-s")[0] for path in (directory / "fitted").glob("*-s*-*")}
    failed = any(directory.name.startswith(spec.group_id) for spec in failures)
    return bool(its) and not failed and fitted <= {slug(spec.method) for spec in its}


def _group(root: Path, name: str) -> str:
    """Data set, category, seed and threads of a group's unfinished work, as its lock and its name say them."""
    for lock in sorted((root / WORK / LOCKS).glob("*-s*-*")):
        threads = re.match(r"-(\d+)-threads?-", name.removeprefix(lock.name))
        if threads:
            with suppress(OSError, ValidationError):
                what = Holder.model_validate_json(lock.read_bytes()).what
                return f"{what}, with {count(int(threads[1]), 'thread')}"
    return name


def _words(holder: Holder) -> str:
    if not holder.host:
        return f"{holder.name} (its lock file does not say by whom)"
    return f"{holder.what or holder.name} (process {holder.pid} on {holder.host}, since {holder.since})"


def progress_words(done: int, failed: int, cells: int) -> str:
    """How far a run is, as its lock says it."""
    return f"{done} of {count(cells, 'cell')} done, {failed} failed"

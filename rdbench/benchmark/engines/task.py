"""A task, what came of it, and the function that works it off. Imports torch only when a task is worked off."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from rdbench.benchmark.plan import RunSettings
from rdbench.benchmark.progress import Reporter
from rdbench.benchmark.results import PROTOCOL_VERSION, CellFailure, CellSpec
from rdbench.benchmark.store import Store, open_store
from rdbench.datasets import load_category
from rdbench.errors import InputError

if TYPE_CHECKING:
    from rdbench.rd.teacher import Teacher


@dataclass(frozen=True)
class Part:
    """Cells of one group that are run with the same settings."""

    settings: RunSettings
    specs: tuple[CellSpec, ...]


@dataclass(frozen=True)
class Task:
    """The cells of one group that have no result yet. Picklable, and independent of every other task."""

    parts: tuple[Part, ...]

    @property
    def specs(self) -> tuple[CellSpec, ...]:
        """All cells, in the order in which they are counted."""
        return tuple(spec for part in self.parts for spec in part.specs)

    @property
    def group_id(self) -> str:
        """The group's, which no other task of a run has."""
        return self.parts[0].specs[0].group_id

    def without(self, cells: Iterable[CellSpec]) -> Task:
        """The task with these cells left out."""
        left_out = {spec.path for spec in cells}
        parts = (
            replace(part, specs=tuple(spec for spec in part.specs if spec.path not in left_out)) for part in self.parts
        )
        return Task(tuple(part for part in parts if part.specs))

    def moved(self, out: Path, root: Path | None) -> Task:
        """The task with other folders in its settings."""
        return Task(tuple(replace(part, settings=replace(part.settings, out=out, root=root)) for part in self.parts))

    def __str__(self) -> str:
        first = self.parts[0].specs[0]
        return f"{first.dataset}/{first.category}, seed {first.seed}"


@dataclass(frozen=True)
class TaskOutcome:
    """How a task ended: its cells are in the store, but for these."""

    failures: tuple[CellFailure, ...] = ()
    bad_input: str = ""
    """Why the cells that are in neither could not start: something the user gave cannot be used."""


def run_task(task: Task, reporter: Reporter) -> TaskOutcome:
    """Fit, predict, evaluate and store the task's cells, here and now."""
    failures: list[CellFailure] = []
    try:
        store = open_store(task.parts[0].settings.out, create=True)
        with store.locks.hold(task.group_id, str(task)):
            for part in task.parts:
                more = part is not task.parts[-1]
                failures += _run_part(part, store, reporter, keep_work=more or bool(failures))
    except InputError as error:
        reporter.line(f"  cannot run: {error}")
        return TaskOutcome(tuple(failures), str(error))
    return TaskOutcome(tuple(failures))


def _run_part(part: Part, store: Store, reporter: Reporter, keep_work: bool) -> list[CellFailure]:
    from rdbench.benchmark.device import choose_device
    from rdbench.benchmark.group import Bench, failed, run_group
    from rdbench.benchmark.provenance import provenance
    from rdbench.rd.runtime import keep_freed_memory

    settings, first = part.settings, part.specs[0]
    if first.protocol != PROTOCOL_VERSION:
        raise InputError(
            f"rdbench here has protocol {PROTOCOL_VERSION}, the run was planned with {first.protocol}; "
            "install one version everywhere"
        )
    kept_memory = settings.keep_memory and keep_freed_memory()
    device = choose_device(settings.device)
    teacher = get_teacher(settings.backbone, settings.weights, str(device))
    bench = Bench(settings, teacher, device, provenance(device, kept_memory), store, reporter)
    _check_methods(part)
    _same("weights of the teacher", first.weights_sha256, teacher.weights_sha256)
    with reporter.step("  reading file by file, for the fingerprint", 0, "files") as step:
        category = load_category(settings.dataset, first.category, settings.root, first.seed, step.reach)
    there = partial(bench.store.has, with_model=settings.keep_models)
    below = f" below {settings.root}" if settings.root else ""
    _same(f"images of {settings.dataset}/{first.category}{below}", first.fingerprint, category.fingerprint)
    try:
        return list(run_group(bench, category, part.specs, keep_work=keep_work).failures)
    except InputError:
        raise
    except Exception as error:  # memory that ran out, say: the other groups are still to be run
        return [failed(bench, spec, "group", error) for spec in part.specs if not there(spec)]


@lru_cache(maxsize=1)
def get_teacher(backbone: str, weights: Path | str | None, device: str) -> Teacher:
    """The teacher; the last one is kept, as most tasks in a row have the same."""
    import torch

    from rdbench.rd.teacher import load_teacher

    return load_teacher(backbone, weights, torch.device(device))


def _check_methods(part: Part) -> None:
    """A result carries the hash of its method's file as planned; what is read here must be that file."""
    for name, planned in {spec.method: spec.method_sha256 for spec in part.specs}.items():
        file = part.settings.methods[name]
        if file.problem:
            continue  # its cells fail, and say why
        try:
            found = hashlib.sha256(file.path.read_bytes()).hexdigest()
        except OSError as error:
            raise InputError(f"method file {file.path} cannot be read here: {error.strerror}") from None
        _same(f"method file {file.path}", planned, found)


def _same(what: str, planned: str, found: str) -> None:
    if planned != found:
        raise InputError(
            f"the {what} are not those that the run was planned with (SHA-256 {found[:10]}, planned {planned[:10]}); "
            "make them the same everywhere and run the same command again"
        )

"""Plans what is to be run, group by group, leaving out the cells that are there already, and lets an engine run it."""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from rdbench.benchmark.engines import Engine
from rdbench.benchmark.engines.local import InProcess
from rdbench.benchmark.engines.task import Part, Task, TaskOutcome, get_teacher, run_task
from rdbench.benchmark.evaluate import evaluate_cell
from rdbench.benchmark.plan import RunSettings
from rdbench.benchmark.progress import Reporter
from rdbench.benchmark.results import CLEAN, PROTOCOL_VERSION, CellFailure, CellResult, CellSpec, OptionValue
from rdbench.benchmark.status import RUN, progress_words
from rdbench.benchmark.store import LOCKS, WORK, Store, open_store
from rdbench.datasets import load_category
from rdbench.errors import InputError
from rdbench.rd.precision import Precision
from rdbench.rd.teacher import Teacher
from rdbench.registry import BrokenMethod, load_method


@dataclass(frozen=True)
class Plan:
    """Every cell asked for: those that are there, and those that are to be run, in tasks."""

    store: Store
    there: tuple[tuple[CellSpec, float], ...]
    """Finished cells, and the alpha that is asked for."""
    tasks: tuple[Task, ...]

    @property
    def waiting(self) -> int:
        """The number of cells that are to be run."""
        return sum(len(task.specs) for task in self.tasks)


@dataclass
class Outcome:
    """What a run came to: every cell asked for is finished or has failed, but for groups that could not start."""

    store: Store
    finished: list[CellSpec] = field(default_factory=list)
    failures: list[CellFailure] = field(default_factory=list)
    """Their tracebacks are in the store."""
    reused: int = 0
    """How many of the finished were there before."""
    bad_input: list[str] = field(default_factory=list)
    """Groups that could not start, and why."""

    @property
    def results(self) -> Iterator[CellResult]:
        """The finished cells' results, read from the store: they are not all held in memory."""
        return map(self.store.load, self.finished)


def run(
    lines: Sequence[RunSettings], reporter: Reporter, engine: Engine | None = None, shard: Shard | None = None
) -> Outcome:
    """Run every cell of the lines that has no result yet.

    All the input is looked at before anything is trained. Raises InputError if none of it can be used.
    """
    with engine or InProcess() as chosen:
        return run_plan(make_plan(lines, reporter, chosen, shard), reporter, chosen)


def make_plan(
    lines: Sequence[RunSettings], reporter: Reporter, engine: Engine, shard: Shard | None = None, *, create: bool = True
) -> Plan:
    """Find out what is to be run, and what is there already.

    Args:
        lines: all with one `out`.
        shard: plan its groups only.
        create: make the store if it is not there.

    Raises:
        InputError: something in the lines cannot be used.
    """
    store = open_store(lines[0].out, create=True) if create else Store(lines[0].out)
    _try_methods(lines, reporter)
    planner = _Planner(engine, reporter)
    there: dict[Path, tuple[CellSpec, float]] = {}
    tasks: dict[str, dict[str, list[CellSpec]]] = {}
    seen: set[Path] = set()
    with reporter.step("planning", sum(len(line.groups) for line in lines), "groups") as step:
        # First those that keep models: a cell that is asked for twice is planned once, and is to have its model then.
        for settings in sorted(lines, key=lambda line: not line.keep_models):
            for category, seed in settings.groups:
                step.advance()
                if shard is not None and not shard.has(settings, category, seed):
                    continue
                waiting = []
                for spec in planner.specs(settings, category, seed):
                    if (path := spec.path) in seen:
                        continue
                    seen.add(path)
                    if store.has(spec, with_model=settings.keep_models):
                        there[path] = spec, settings.alpha
                    else:
                        waiting.append(spec)
                if waiting:
                    tasks.setdefault(waiting[0].group_id, {}).setdefault(_way(settings), []).extend(waiting)
    ways = _ways(lines)
    return Plan(
        store,
        tuple(there.values()),
        tuple(Task(tuple(Part(ways[way], tuple(specs)) for way, specs in of.items())) for of in tasks.values()),
    )


def run_plan(plan: Plan, reporter: Reporter, engine: Engine) -> Outcome:
    """Let the engine, which has been entered, work off the plan's tasks."""
    store = plan.store
    outcome = Outcome(store, [_reused(store, spec, alpha) for spec, alpha in plan.there], reused=len(plan.there))
    cells = outcome.reused + plan.waiting

    def announced() -> Iterator[Task]:
        done = outcome.reused
        for task in plan.tasks:
            reporter.line(f"cells {done + 1} to {done + len(task.specs)} of {cells}: {task}")
            done += len(task.specs)
            yield task

    name = f"{RUN}{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"  # containers may share name and number
    with (
        store.lock(name) as tell,
        reporter.step("cells", plan.waiting, "cells") as step,
        closing(engine.run(announced(), run_task, reporter)) as ended,
    ):
        tell(progress_words(outcome.reused, 0, cells))
        for task, came in ended:
            _note(outcome, task, came)
            step.advance(len(task.specs))
            tell(progress_words(len(outcome.finished), len(outcome.failures), cells))
    (store.root / WORK / LOCKS / name).unlink(missing_ok=True)  # nobody else ever asks for it
    return outcome


def _note(outcome: Outcome, task: Task, came: TaskOutcome) -> None:
    with_model = {spec.path: part.settings.keep_models for part in task.parts for spec in part.specs}

    def there(spec: CellSpec) -> bool:
        return outcome.store.has(spec, with_model=with_model[spec.path])

    # A worker that died may have finished some of the cells that are given up with it.
    failures = [failure for failure in came.failures if not there(failure.spec)]
    failed = {failure.spec.path for failure in failures}
    for failure in failures:
        with suppress(OSError):  # a full disk, say
            outcome.store.write_failure(failure)
        outcome.failures.append(failure.model_copy(update={"traceback": ""}))
    finished = [spec for spec in task.specs if spec.path not in failed]
    if came.bad_input:
        outcome.bad_input.append(f"{task}: {came.bad_input}")
        finished = [spec for spec in finished if there(spec)]
    outcome.finished += finished


@dataclass(frozen=True)
class Shard:
    """One of several runs, on machines that know nothing of each other, that together do all."""

    index: int
    """From 1."""
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that "I/N" means. Raises InputError for anything else."""
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise InputError(f"--shard {text}: I/N is wanted, I from 1 to N, as 1/4")
        return cls(int(index), int(count))

    def has(self, settings: RunSettings, category: str, seed: int) -> bool:
        """Whether a group belongs to this shard.

        Decided by what was asked for and nothing that is found out on a machine, so that every group is in one shard.
        """
        name = f"{settings.dataset}/{category}/{seed}/{settings.backbone}/{settings.image_size}"
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % self.count == self.index - 1


class _Planner:
    """Makes specs, finding out what they depend on once: images, the teacher's weights, the number format."""

    def __init__(self, engine: Engine, reporter: Reporter) -> None:
        self._engine = engine
        self._reporter = reporter
        self._fingerprints: dict[tuple[str, str, Path | None], str] = {}
        self._teachers: dict[tuple[str, Path | str | None], tuple[str, str]] = {}
        self._precisions: dict[tuple[str, str], Precision] = {}

    def specs(self, settings: RunSettings, category: str, seed: int) -> Iterator[CellSpec]:
        """The group's cells."""
        fingerprint, precision = self._fingerprint(settings, category, seed), self._precision(settings)
        weights, weights_sha256 = self._teacher(settings)
        conditions = (CLEAN, *map(str, settings.shifts))
        for name, method in settings.methods.items():
            for options in settings.options[name]:
                yield CellSpec(
                    protocol=PROTOCOL_VERSION,
                    dataset=settings.dataset,
                    category=category,
                    method=name,
                    options=options,
                    method_sha256=method.sha256,
                    seed=seed,
                    backbone=settings.backbone,
                    weights=weights,
                    weights_sha256=weights_sha256,
                    image_size=settings.image_size,
                    map_size=settings.map_size,
                    epochs=settings.epochs,
                    batch_size=settings.batch_size,
                    precision=precision,
                    conditions=conditions,
                    fingerprint=fingerprint,
                )

    def _teacher(self, settings: RunSettings) -> tuple[str, str]:
        key = settings.backbone, settings.weights
        if key not in self._teachers:
            teacher: Teacher = get_teacher(*key, "cpu")
            self._teachers[key] = teacher.weights_name, teacher.weights_sha256
        return self._teachers[key]

    def _precision(self, settings: RunSettings) -> Precision:
        key = settings.precision, settings.device
        if key not in self._precisions:
            self._precisions[key] = self._engine.precision(settings)
        return self._precisions[key]

    def _fingerprint(self, settings: RunSettings, category: str, seed: int) -> str:
        """Of the images, whichever of them the seed draws to calibrate on."""
        key = settings.dataset, category, settings.root
        if key not in self._fingerprints:
            with self._reporter.step("reading file by file, for the fingerprint", 0, "files") as step:
                self._fingerprints[key] = load_category(*key, seed, step.reach).fingerprint
        return self._fingerprints[key]


def _try_methods(lines: Sequence[RunSettings], reporter: Reporter) -> None:
    """Import each method and make it with each choice of its options: what is wrong there shows at once."""
    tried: set[tuple[str, tuple[tuple[str, OptionValue], ...]]] = set()
    for settings in lines:
        for name, method in settings.methods.items():
            try:
                for options in settings.options[name]:
                    key = str(method.path), tuple(options.items())
                    if key not in tried:
                        tried.add(key)
                        load_method(method, options)
            except BrokenMethod as error:
                reporter.line(f"method {name} cannot run: {error}")


def _way(line: RunSettings) -> str:
    """All settings but which cells are run: cells of a group that are run in the same way are run together."""
    return repr(replace(line, methods={}, options={}, categories=(), seeds=()))


def _ways(lines: Sequence[RunSettings]) -> dict[str, RunSettings]:
    """For each way of running, settings with the methods of all its lines."""
    ways: dict[str, RunSettings] = {}
    for line in lines:
        before = ways.setdefault(_way(line), _anywhere(line))
        for name, method in line.methods.items():
            if name in before.methods and before.methods[name].sha256 != method.sha256:
                raise InputError(
                    f"method {name} is two files: {before.methods[name].path} and {method.path}; rename one"
                )
        files = {name: replace(method, path=method.path.absolute()) for name, method in line.methods.items()}
        ways[_way(line)] = replace(before, methods=before.methods | files)
    return ways


def _anywhere(line: RunSettings) -> RunSettings:
    """The settings with paths that mean the same in another working directory and environment."""
    data = os.environ.get("RDBENCH_DATA")
    root = line.root or (Path(data) if data else None)
    return replace(
        line,
        options={},
        categories=(),
        seeds=(),
        methods={},
        root=root.absolute() if root is not None else None,
        weights=line.weights.absolute() if isinstance(line.weights, Path) else line.weights,
        out=line.out.absolute(),
    )


def _reused(store: Store, spec: CellSpec, alpha: float) -> CellSpec:
    """A finished cell; its threshold is set again if it was at another level, which needs no model."""
    result = store.load(spec)
    if result.threshold.alpha != alpha:
        evaluate_cell(store, store.root / spec.path, result, alpha)
    return spec

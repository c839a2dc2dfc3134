"""Plans what is to be run, group by group, leaving out the cells that are there already."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rdbench.benchmark.engines import Engine
from rdbench.benchmark.engines.task import Part, Task, get_teacher
from rdbench.benchmark.guard import guarded_call
from rdbench.benchmark.head import read_head
from rdbench.benchmark.plan import RunSettings, Share
from rdbench.benchmark.progress import Reporter
from rdbench.benchmark.results import CLEAN, PROTOCOL_VERSION, CellSpec, OptionValue
from rdbench.benchmark.store import RESULT, Store, open_store
from rdbench.datasets import load_category
from rdbench.errors import BrokenMethod, InputError
from rdbench.rd.precision import Precision
from rdbench.rd.teacher import Teacher
from rdbench.registry import load_method
from rdbench.words import count

Sharing = tuple[str, tuple[int, int], tuple[int, ...], int, int, str, str, int]
"""Backbone, image size, map size, epochs, batch size, data set, category and seed of a group."""


@dataclass(frozen=True)
class Plan:
    """Every cell asked for: those that are there, and those that are to be run, in tasks."""

    store: Store
    there: tuple[CellSpec, ...]
    tasks: tuple[Task, ...]
    levels: tuple[tuple[CellSpec, float, float], ...] = ()
    """Those of the cells there whose threshold is at another alpha than is asked for: cell, its alpha, the new one."""

    @property
    def waiting(self) -> int:
        """The number of cells that are to be run."""
        return sum(len(task.specs) for task in self.tasks)

    def level_changes(self) -> list[str]:
        """How many finished cells have their threshold set from which alpha to which, in words."""
        changes = Counter((before, after) for _, before, after in self.levels)
        return [
            f"{count(cells, 'finished cell')} from alpha {before:g} to {after:g}"
            for (before, after), cells in sorted(changes.items())
        ]


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
    there: list[CellSpec] = []
    levels: list[tuple[CellSpec, float, float]] = []
    tasks: dict[str, dict[str, list[CellSpec]]] = {}
    alphas: dict[Path, float] = {}
    shares: dict[Sharing, Share] = {}
    mine = (shard or Shard(1, 1)).part_of(
        {_sharing(line, category, seed) for line in lines for category, seed in line.groups}
    )
    with reporter.step("planning", sum(len(line.groups) for line in lines), "groups") as step:
        # First those that keep models: a cell that is asked for twice is planned once, and is to have its model then.
        for settings in sorted(lines, key=lambda line: not line.keep_models):
            for category, seed in settings.groups:
                step.advance()
                group = _sharing(settings, category, seed)
                if (other := shares.setdefault(group, settings.share)) != settings.share:
                    raise settings.refusal(
                        f"{settings.share}: {settings.dataset}/{category}, seed {seed} is asked for with {other} too; "
                        "a group is worked on in one place"
                    )
                if group not in mine:
                    continue
                waiting = []
                for spec in planner.specs(settings, category, seed):
                    path, alpha = spec.path, settings.alpha
                    if path in alphas:
                        if alpha != alphas[path]:
                            too = f"{spec} is asked for at alpha {alphas[path]:g} too"
                            raise settings.refusal(f"--alpha {alpha:g}: {too}; a cell has one threshold")
                        continue
                    alphas[path] = alpha
                    if store.has(spec, with_model=settings.keep_models):
                        there.append(spec)
                        if (before := read_head(store.root / path / RESULT).threshold.alpha) != alpha:
                            levels.append((spec, before, alpha))
                    else:
                        waiting.append(spec)
                if waiting:
                    tasks.setdefault(waiting[0].group_id, {}).setdefault(_way(settings), []).extend(waiting)
    ways = _ways(lines)
    return Plan(
        store,
        tuple(there),
        tuple(Task(tuple(Part(ways[way], tuple(specs)) for way, specs in of.items())) for of in tasks.values()),
        tuple(levels),
    )


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

    def part_of(self, groups: Iterable[Sharing]) -> set[Sharing]:
        """This shard's of the groups: they are dealt out in their order, so that shards differ by one at most."""
        return set(sorted(groups)[self.index - 1 :: self.count])


def _sharing(settings: RunSettings, category: str, seed: int) -> Sharing:
    """What tells groups apart in what was asked for: nothing that is found out on a machine, where it may be another.

    Groups that take about as long stand side by side in the order of these, so that each shard gets its share of them.
    """
    sizes = settings.image_size, settings.map_size or (), settings.epochs, settings.batch_size
    return settings.backbone, *sizes, settings.dataset, category, seed


class _Planner:
    """Makes specs, finding out what they depend on once: images, the teacher's weights, the number format."""

    def __init__(self, engine: Engine, reporter: Reporter) -> None:
        self._engine = engine
        self._reporter = reporter
        self._fingerprints: dict[tuple[str, str, Path | None], str] = {}
        self._teachers: dict[tuple[str, Path | str | None], tuple[str, str]] = {}
        self._precisions: dict[tuple[str, str, Share], Precision] = {}

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
        key = settings.precision, settings.device, settings.share
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
    """Import each method and make it with each choice of its options: what is wrong there shows before any work.

    Here and not in a process of its own, as planning is to say what an option's value is refused for. What a file
    changes in this process is put back; one that hangs when it is imported hangs here, and Ctrl-C ends it.
    """
    tried: set[tuple[str, tuple[tuple[str, OptionValue], ...]]] = set()
    for settings in lines:
        for name, method in settings.methods.items():
            try:
                for options in settings.options[name]:
                    key = str(method.path), tuple(options.items())
                    if key not in tried:
                        tried.add(key)
                        with guarded_call(name):
                            load_method(method, options)
            except BrokenMethod as error:
                reporter.line(f"method {name} cannot run: {error}")
            except InputError as error:
                raise settings.refusal(str(error)) from error


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
                raise line.refusal(
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
        place=None,
        root=root.absolute() if root is not None else None,
        weights=line.weights.absolute() if isinstance(line.weights, Path) else line.weights,
        out=line.out.absolute(),
    )

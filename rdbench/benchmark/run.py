"""Runs what is planned: group after group, leaving out the cells that are there already."""

from __future__ import annotations

from dataclasses import dataclass, field

from rdbench.benchmark.device import choose_device
from rdbench.benchmark.evaluate import evaluate_cell
from rdbench.benchmark.group import Bench, failed, run_group
from rdbench.benchmark.plan import RunSettings
from rdbench.benchmark.progress import Reporter
from rdbench.benchmark.provenance import provenance
from rdbench.benchmark.results import CLEAN, PROTOCOL_VERSION, CellFailure, CellResult, CellSpec, OptionValue
from rdbench.benchmark.store import Store, open_store
from rdbench.datasets import load_category
from rdbench.datasets.base import Category
from rdbench.errors import InputError
from rdbench.rd.precision import resolve_precision
from rdbench.rd.runtime import keep_freed_memory
from rdbench.rd.teacher import Teacher, load_teacher
from rdbench.registry import BrokenMethod, load_method


@dataclass
class Outcome:
    """What a run came to: every cell asked for is in one of the two lists."""

    results: list[CellResult] = field(default_factory=list)
    failures: list[CellFailure] = field(default_factory=list)
    reused: int = 0
    """How many of the results were there before."""
    bad_input: list[str] = field(default_factory=list)
    """Groups that could not start, and why."""


def run(settings: RunSettings, reporter: Reporter) -> Outcome:
    """Run every cell of the settings that has no result yet.

    All the input is looked at before anything is trained. Raises InputError if none of it can be used.
    """
    keep_freed_memory()
    store = open_store(settings.out, create=True)
    for name, method in settings.methods.items():
        try:
            for options in settings.options[name]:
                load_method(method, options)
        except BrokenMethod as error:
            reporter.line(f"method {name} cannot run: {error}")
    categories = {}
    with reporter.step("reading file by file, for the fingerprint", 0, "files") as step:
        for name, seed in settings.groups:
            categories[name, seed] = load_category(settings.dataset, name, settings.root, seed, step.reach)
    device = choose_device(settings.device)
    teacher = load_teacher(settings.backbone, settings.weights, device)
    bench = Bench(settings, teacher, device, provenance(device), store, reporter)
    precision = resolve_precision(settings.precision, device)
    outcome = Outcome()
    waiting: dict[tuple[str, int], list[CellSpec]] = {}
    for group, category in categories.items():
        specs = [
            _spec(settings, teacher, precision, category, method, options, group[1])
            for method in settings.methods
            for options in settings.options[method]
        ]
        waiting[group] = [spec for spec in specs if not store.has(spec, with_model=settings.keep_models)]
        outcome.results += [_reused(store, spec, settings.alpha) for spec in specs if spec not in waiting[group]]
    outcome.reused = done = len(outcome.results)
    cells = done + sum(map(len, waiting.values()))
    for (name, seed), specs in waiting.items():
        if not specs:
            continue
        what = f"{settings.dataset}/{name}, seed {seed}"
        reporter.line(f"cells {done + 1} to {done + len(specs)} of {cells}: {what}")
        try:
            for cell in run_group(bench, categories[name, seed], specs):
                (outcome.results if isinstance(cell, CellResult) else outcome.failures).append(cell)  # type: ignore[arg-type]
        except InputError as error:
            outcome.bad_input.append(f"{what}: {error}")
            reporter.line(f"  cannot run: {error}")
        except Exception as error:  # memory that ran out, say: the other groups are still to be run
            outcome.failures += [failed(bench, spec, "group", error) for spec in specs]
        done += len(specs)
    return outcome


def _reused(store: Store, spec: CellSpec, alpha: float) -> CellResult:
    """A finished cell; its threshold is set again if it was at another level, which needs no model."""
    result = store.load(spec)
    return result if result.threshold.alpha == alpha else evaluate_cell(store, store.root / spec.path, result, alpha)


def _spec(
    settings: RunSettings,
    teacher: Teacher,
    precision: str,
    category: Category,
    method: str,
    options: dict[str, OptionValue],
    seed: int,
) -> CellSpec:
    return CellSpec(
        protocol=PROTOCOL_VERSION,
        dataset=settings.dataset,
        category=category.name,
        method=method,
        options=options,
        method_sha256=settings.methods[method].sha256,
        seed=seed,
        backbone=settings.backbone,
        weights=teacher.weights_name,
        weights_sha256=teacher.weights_sha256,
        image_size=settings.image_size,
        map_size=settings.map_size,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        precision=precision,  # type: ignore[arg-type]
        conditions=(CLEAN, *map(str, settings.shifts)),
        fingerprint=category.fingerprint,
    )

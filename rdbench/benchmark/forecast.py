"""What a plan comes to, in words: cells, what they share, what is there, and about how long it will take."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from statistics import median

from rdbench.benchmark.engines.task import Part
from rdbench.benchmark.head import Head, read_head
from rdbench.benchmark.planning import Plan
from rdbench.benchmark.results import CellSpec, OptionValue, slug
from rdbench.benchmark.store import RESULT
from rdbench.words import count, duration

CELLS_READ = 5
"""How many finished cells of a kind tell what it costs."""

Fit = tuple[str, tuple[tuple[str, OptionValue], ...]]
"""A method and its options that fitting depends on."""
Alike = tuple[object, ...]
"""What cells of one kind have in common."""


def describe_plan(plan: Plan, workers: int = 1) -> Iterator[str]:
    """The plan, line by line."""
    there, waiting = len(plan.there), plan.waiting
    groups = count(len(plan.tasks), "group")
    yield f"{count(there + waiting, 'cell')}: {there} there already, {waiting} to run in {groups}"
    for change in plan.level_changes():
        yield f"  {change}: the threshold is set and the figures computed again, without the model"
    if not waiting:
        return
    cells = Counter(f"{spec.dataset}, {spec.backbone}" for task in plan.tasks for spec in task.specs)
    of_them = Counter(f"{task.specs[0].dataset}, {task.specs[0].backbone}" for task in plan.tasks)
    for name, number in cells.items():
        yield f"  {name}: {count(number, 'cell')} in {count(of_them[name], 'group')}"
    fits = sum(len({fit for _, fit in _fits(part)}) for task in plan.tasks for part in task.parts)
    shared = f"; {waiting - fits} of the cells differ from another in predicting alone" if fits < waiting else ""
    yield f"  {count(fits, 'fit')}{shared}; fits of a group that build on the plain student share its training"
    yield "  " + _expected(plan, workers)


def _fits(part: Part) -> Iterator[tuple[CellSpec, Fit]]:
    """Each cell and what it is fitted with: equal ones of a part are fitted once."""
    for spec in part.specs:
        predicting = part.settings.methods[spec.method].predicting
        yield spec, (spec.method, tuple(option for option in spec.options.items() if option[0] not in predicting))


def _expected(plan: Plan, workers: int) -> str:
    """The time that fitting and predicting take, from what finished cells of the same method and options have cost.

    Neither a bound nor the whole: a plain student that methods share is counted in the fit of each, and decoding,
    shifts, evaluation and what is measured about methods are not counted.
    """
    costs = _costs(plan)
    seconds, unknown = 0.0, 0
    for part in (part for task in plan.tasks for part in task.parts):
        fitted: set[Fit] = set()
        for spec, fit in _fits(part):
            if not (like := costs.get(_alike(spec))):
                unknown += 1
                continue
            seconds += median(_predicting(head, spec) for head in like)
            if fit not in fitted:
                fitted.add(fit)
                seconds += median(_fitting(head, spec) for head in like)
    if unknown == plan.waiting:
        return "time: not known yet, no cell like these is finished here"
    rest = f", and {count(unknown, 'cell')} of which none alike is finished" if unknown else ""
    busy = min(workers, len(plan.tasks))
    each = f" ({duration(seconds / busy)} with {busy} workers)" if busy > 1 else ""
    return (
        f"time: fitting and predicting alone take about {duration(seconds)}{each}, from measured costs; decoding, "
        f"shifts and evaluation come on top{rest}"
    )


def _costs(plan: Plan) -> dict[Alike, list[Head]]:
    """Finished cells in the store, some for each kind of cell that is to be run."""
    wanted: dict[tuple[str, str], set[Alike]] = defaultdict(set)
    for spec in (spec for task in plan.tasks for spec in task.specs):
        wanted[slug(spec.dataset), slug(spec.method)].add(_alike(spec))
    costs: dict[Alike, list[Head]] = defaultdict(list)
    for (dataset, method), kinds in wanted.items():
        missing = dict.fromkeys(kinds, CELLS_READ)
        for path in plan.store.root.glob(f"{dataset}/*/{method}-s*/{RESULT}"):
            if not missing:
                break
            head = read_head(path)
            if (kind := _alike(head.spec)) in missing:
                costs[kind].append(head)
                missing[kind] -= 1
                if not missing[kind]:
                    del missing[kind]
    return costs


def _alike(spec: CellSpec) -> Alike:
    """Cells that are equal in this cost the same per epoch, image and condition."""
    return (
        spec.dataset, spec.method, tuple(sorted(spec.options.items())), spec.backbone, spec.image_size, spec.precision,
    )  # fmt: skip


def _fitting(head: Head, spec: CellSpec) -> float:
    """Seconds that fitting `spec` will take, if it costs what `head` did per epoch."""
    return (head.cost["train_seconds"].value or 0.0) * spec.epochs / head.spec.epochs


def _predicting(head: Head, spec: CellSpec) -> float:
    """Seconds that predicting `spec` will take, if it costs what `head` did per image and condition."""
    images = head.split.calibration + head.split.test * len(spec.conditions)
    return (head.cost["inference_ms"].value or 0.0) / 1000 * images

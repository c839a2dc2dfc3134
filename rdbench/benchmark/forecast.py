"""What a plan comes to, in words: cells, what they share, what is there, and about how long it will take."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from statistics import median

from rdbench.benchmark.engines.task import Part
from rdbench.benchmark.planning import Plan
from rdbench.benchmark.results import CellResult, CellSpec, slug
from rdbench.benchmark.store import RESULT, read_result
from rdbench.words import count, duration

CELLS_READ = 5
"""How many finished cells of a method on a data set tell what it costs."""


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
    fits = sum(len({fit for part in task.parts for fit in _fits(part)}) for task in plan.tasks)
    shared = f"; {waiting - fits} of the cells differ from another in predicting alone" if fits < waiting else ""
    yield f"  images, teacher's features and plain students are shared within a group: {count(fits, 'fit')}{shared}"
    yield "  " + _expected(plan, workers)


def _fits(part: Part) -> Iterator[tuple[object, ...]]:
    """What each cell is fitted with: equal ones are fitted once."""
    for spec in part.specs:
        predicting = part.settings.methods[spec.method].predicting
        yield spec.method, tuple(option for option in spec.options.items() if option[0] not in predicting)


def _expected(plan: Plan, workers: int) -> str:
    """The time that fitting and predicting take, from what finished cells of the same method have cost.

    Neither a bound nor the whole: students that cells share are counted in each, decoding, shifts, evaluation and
    what is measured about methods are not counted.
    """
    costs: dict[tuple[object, ...], list[CellResult]] = defaultdict(list)
    names = {(slug(spec.dataset), slug(spec.method)) for task in plan.tasks for spec in task.specs}
    for dataset, method in sorted(names):
        for path, _ in zip(
            plan.store.root.glob(f"{dataset}/*/{method}-s*/{RESULT}"), range(CELLS_READ * 10), strict=False
        ):
            result = read_result(path)
            key = _alike(result.spec)
            if len(costs[key]) < CELLS_READ:
                costs[key].append(result)
    seconds, unknown = 0.0, 0
    for spec in (spec for task in plan.tasks for spec in task.specs):
        like = costs.get(_alike(spec))
        if like:
            seconds += median(_seconds(result, spec) for result in like)
        else:
            unknown += 1
    if unknown == plan.waiting:
        return "time: not known yet, no cell like these is finished here"
    rest = f", and {count(unknown, 'cell')} of which none alike is finished" if unknown else ""
    busy = min(workers, len(plan.tasks))
    each = f" ({duration(seconds / busy)} with {busy} workers)" if busy > 1 else ""
    return (
        f"time: fitting and predicting alone take about {duration(seconds)}{each}, from measured costs; decoding, "
        f"shifts and evaluation come on top{rest}"
    )


def _alike(spec: CellSpec) -> tuple[object, ...]:
    return spec.dataset, spec.method, spec.backbone, spec.image_size, spec.precision


def _seconds(result: CellResult, spec: CellSpec) -> float:
    """What `spec` will take, if it costs what `result` did per epoch, image and condition."""
    train, predict = (result.cost[name].value or 0.0 for name in ("train_seconds", "inference_ms"))
    images = result.split.calibration + result.split.test * len(spec.conditions)
    return train * spec.epochs / result.spec.epochs + predict / 1000 * images

"""Lets an engine work off a plan, and gathers what came of it."""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field

from rdbench.benchmark.engines import Engine
from rdbench.benchmark.engines.local import InProcess
from rdbench.benchmark.engines.task import Task, TaskOutcome, run_task
from rdbench.benchmark.evaluate import evaluate_cell
from rdbench.benchmark.locks import MERGE, RUN
from rdbench.benchmark.plan import RunSettings
from rdbench.benchmark.planning import Plan, Shard, make_plan
from rdbench.benchmark.progress import Reporter
from rdbench.benchmark.results import CellFailure, CellResult, CellSpec
from rdbench.benchmark.status import progress_words
from rdbench.benchmark.store import Store
from rdbench.errors import InputError


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


def run_plan(plan: Plan, reporter: Reporter, engine: Engine) -> Outcome:
    """Let the engine, which has been entered, work off the plan's tasks.

    Raises InputError if a merge is at work on the store.
    """
    store = plan.store
    outcome = Outcome(store, list(plan.there), reused=len(plan.there))
    cells = outcome.reused + plan.waiting

    def announced() -> Iterator[Task]:
        done = outcome.reused
        for task in plan.tasks:
            reporter.line(f"cells {done + 1} to {done + len(task.specs)} of {cells}: {task}")
            done += len(task.specs)
            yield task

    name = f"{RUN}{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"  # containers may share name and number
    with _own_lock(store, name, progress_words(outcome.reused, 0, cells)) as tell:
        store.locks.refuse_beside(MERGE)
        store.clear_up(name)
        outcome.bad_input += _set_levels(plan, reporter)
        with (
            reporter.step("cells", plan.waiting, "cells") as step,
            closing(engine.run(announced(), run_task, reporter)) as ended,
        ):
            for task, came in ended:
                _note(outcome, task, came)
                step.advance(len(task.specs), f"{len(outcome.failures)} failed" if outcome.failures else "")
                tell(progress_words(len(outcome.finished), len(outcome.failures), cells))
    return outcome


@contextmanager
def _own_lock(store: Store, name: str, what: str) -> Iterator[Callable[[str], None]]:
    """The run's lock, whose file nobody else ever asks for."""
    try:
        with store.locks.hold(name, what) as tell:
            yield tell
    finally:
        (store.locks.directory / name).unlink(missing_ok=True)


def _set_levels(plan: Plan, reporter: Reporter) -> list[str]:
    """Evaluate finished cells whose threshold is at another alpha anew, which needs no model; why some were not."""
    refused: list[str] = []
    for change in plan.level_changes():
        reporter.line(f"setting the threshold of {change}; their figures are computed again")
    with reporter.step("thresholds", len(plan.levels), "cells") as step:
        for spec, _, alpha in plan.levels:
            where = f"{spec.dataset}/{spec.category}, seed {spec.seed}"
            try:
                with plan.store.locks.hold(spec.group_id, where):
                    evaluate_cell(plan.store, plan.store.root / spec.path, plan.store.load(spec), alpha)
            except InputError as error:
                refused.append(f"{where}: {error}")
            step.advance()
    return list(dict.fromkeys(refused))


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

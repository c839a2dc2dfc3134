"""Groups made up in place of the work that takes long, for tests of all that surrounds it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from rdbench.benchmark.engines import Ended, Work
from rdbench.benchmark.engines.task import Task
from rdbench.benchmark.evaluate import NO_INTERVAL, evaluate_predictions
from rdbench.benchmark.group import Bench, GroupOutcome
from rdbench.benchmark.progress import Reporter
from rdbench.benchmark.results import CellSpec, Split
from rdbench.benchmark.store import sha256
from rdbench.datasets.base import Category
from rdbench.errors import InputError
from tests.made_up import make_cell, make_predictions

STUB = "not in this test"


def make_up_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan and store for real, in this process; make up what a group takes long for, and measure and check nothing."""
    monkeypatch.setattr("rdbench.benchmark.group.run_group", make_group)
    monkeypatch.setattr("rdbench.benchmark.engines.local.Workers.run", in_this_process)
    monkeypatch.setattr("rdbench.benchmark.speed.measure_machine", refuse)
    monkeypatch.setattr("rdbench.check.checks.check_method", refuse)


def in_this_process(_: object, tasks: Iterable[Task], work: Work, reporter: Reporter) -> Ended:
    """`Workers.run` without workers."""
    for task in tasks:
        yield task, work(task, reporter)


def refuse(*_: object, **__: object) -> None:
    """Stands for what is not to be called."""
    raise InputError(STUB)


def make_group(bench: Bench, category: Category, specs: Sequence[CellSpec], *, keep_work: bool) -> GroupOutcome:
    """Cells as `run_group` stores them, of drawn predictions of the category's test images."""
    for spec in specs:
        one = make_predictions(spec.method, spec.category, spec.seed, len(category.test))
        repeated = {
            name: np.repeat(getattr(one, name)[:1], len(spec.conditions), axis=0)
            for name in ("scores", "uncertainties", "member_scores")
        }
        predictions = replace(
            one,
            conditions=spec.conditions,
            images=tuple(image.key for image in category.test),
            parts=np.array([image.part for image in category.test]),
            labels=np.array([image.label for image in category.test], np.int8),
            defects=np.array([image.defect for image in category.test]),
            lightings=np.array([image.lighting for image in category.test]),
            **repeated,
        )
        threshold, image_figures = evaluate_predictions(predictions, bench.settings.alpha, resamples=0)
        path = bench.store.work_directory("made-up") / "predictions.npz"
        predictions.save(path)
        split = Split(
            train=len(category.train),
            calibration=len(predictions.calibration_scores),
            test=len(category.test),
            test_anomalous=int(predictions.labels.sum()),
            calibration_source=category.calibration_source,
            custom=category.custom,
        )
        made = {"spec": spec, "provenance": bench.provenance, "split": split, "threshold": threshold}
        made |= {"image": image_figures, "pixel": {}, "interval": NO_INTERVAL}
        bench.store.write(make_cell(predictions_sha256=sha256(path)).model_copy(update=made), path)
    return GroupOutcome()

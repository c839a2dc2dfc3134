"""Can a result be believed? Its figures are computed again from its predictions, and some cells are run again."""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rdbench.benchmark.plan import RunSettings
from rdbench.benchmark.progress import Reporter
from rdbench.benchmark.results import PROTOCOL_VERSION, CellResult, CellSpec, Predictions
from rdbench.benchmark.store import read_predictions
from rdbench.errors import InputError
from rdbench.registry import find_methods
from rdbench.report.entries import Source
from rdbench.report.validate import check_cell
from rdbench.shifts import parse_shift

TOLERANCE = 1e-5
"""Of scores, relative to their spread: what another thread count or library version may change."""
PIXEL_TOLERANCE = 1e-4
"""Of pixel figures of equal scores: what bins and ties may move."""

EXACT = ("conditions", "images", "parts", "labels", "defects", "lightings")
NUMBERS = (
    "scores", "uncertainties", "member_scores", "calibration_scores", "calibration_uncertainties",
    "calibration_members",
)  # fmt: skip
"""Of predictions: what must be equal, and what may move by `TOLERANCE`."""


@dataclass(frozen=True)
class Verdict:
    """What became of one cell."""

    spec: CellSpec
    kind: str
    """"recomputed" or "rerun"."""
    outcome: str
    """"reproduced", "differs" or "not possible"."""
    words: str

    @property
    def sound(self) -> bool:
        """Whether nothing speaks against the cell."""
        return self.outcome != "differs"


def recompute(sources: Sequence[Source], advance: Callable[[], None] = lambda: None) -> Iterator[Verdict]:
    """Every cell's figures from its stored predictions, which must be those that its result has the hash of."""
    for source in sources:
        spec = source.result.spec
        if source.predictions is None:
            yield Verdict(spec, "recomputed", "not possible", "its predictions are not there")
        else:
            try:
                problems = list(check_cell(source.result, source.predictions()))
            except (InputError, ValueError) as error:
                problems = [str(error)]
            words = "; ".join(problems) or "every image figure follows from the stored predictions"
            yield Verdict(spec, "recomputed", "differs" if problems else "reproduced", words)
        advance()


def rerun(
    sources: Sequence[Source],
    count: int,
    seed: int,
    *,
    root: Path | None,
    weights: Path | str | None,
    device: str,
    methods_dir: Path | None,
    reporter: Reporter,
) -> Iterator[Verdict]:
    """Run `count` cells, drawn by `seed`, once more from the images on, and hold them beside the stored.

    A cell whose method file, data or weights are not those of the result is not run: the reason is the verdict.
    """
    for source in random.Random(seed).sample(list(sources), min(count, len(sources))):
        spec = source.result.spec
        try:
            settings = _settings(source.result, root, weights, device, methods_dir)
            with tempfile.TemporaryDirectory(prefix="rdbench-verify-") as folder:
                again = _run(settings(Path(folder) / "runs"), spec, reporter)
            if source.predictions is None:
                raise InputError("its predictions are not there to be compared with")
            yield compare(source.result, source.predictions(), *again)
        except (InputError, ValueError) as error:
            yield Verdict(spec, "rerun", "not possible", str(error))


def _settings(
    result: CellResult, root: Path | None, weights: Path | str | None, device: str, methods_dir: Path | None
) -> Callable[[Path], RunSettings]:
    """What the cell was run with, given where to put its results."""
    spec = result.spec
    if spec.protocol != PROTOCOL_VERSION:
        raise InputError(f"it is of protocol {spec.protocol}, this rdbench has {PROTOCOL_VERSION}")
    file = find_methods(methods_dir).get(spec.method)
    if file is None:
        raise InputError(f"there is no method {spec.method} here")
    if file.sha256 != spec.method_sha256:
        raise InputError(f"{file.path} is not the file that it was run with (SHA-256 {spec.method_sha256[:12]})")
    if spec.weights == "random":
        weights = "random"
    elif weights is None and spec.weights.startswith("file/"):
        raise InputError(f"it was run with the weights {spec.weights[5:]}; name that file with --weights")
    return lambda out: RunSettings(
        dataset=spec.dataset, root=root, categories=(spec.category,), methods={spec.method: file},
        options={spec.method: [dict(spec.options)]}, seeds=(spec.seed,),
        shifts=tuple(shift for condition in spec.conditions[1:] for shift in parse_shift(condition)),
        backbone=spec.backbone, weights=weights, image_size=spec.image_size, map_size=spec.map_size,
        epochs=spec.epochs, batch_size=spec.batch_size, device=device, precision=spec.precision,
        alpha=result.threshold.alpha, out=out, keep_models=False, gallery=False,
    )  # fmt: skip


def _run(settings: RunSettings, spec: CellSpec, reporter: Reporter) -> tuple[CellResult, Predictions]:
    """The cell, made anew. Raises InputError if it cannot be run, or would not be the same cell."""
    from rdbench.benchmark.engines.local import InProcess
    from rdbench.benchmark.planning import make_plan
    from rdbench.benchmark.run import run_plan

    with InProcess() as engine:
        plan = make_plan([settings], reporter, engine)
        [now] = [spec for task in plan.tasks for spec in task.specs]
        for name, what in {"fingerprint": "the images are others", "weights_sha256": "the weights are others"}.items():
            if getattr(now, name) != getattr(spec, name):
                raise InputError(f"{what}: {name} is {getattr(now, name)[:12]}, was {getattr(spec, name)[:12]}")
        outcome = run_plan(plan, reporter, engine)
    if outcome.bad_input or outcome.failures:
        reasons = [*outcome.bad_input, *(failure.reason for failure in outcome.failures)]
        raise InputError(f"it could not be run again: {'; '.join(reasons)}")
    [(directory, result)] = outcome.store.results()
    return result, read_predictions(directory, result)


def compare(result: CellResult, stored: Predictions, again: CellResult, predictions: Predictions) -> Verdict:
    """Everything of a cell that was measured on images, but for times, beside what running it again gave."""
    spec = result.spec
    problems = [f"the {name} are others" for name in EXACT if not _equal(stored, predictions, name)]
    for name in NUMBERS:
        if np.shape(getattr(stored, name)) != np.shape(getattr(predictions, name)):
            problems.append(f"the {name} have another shape")
    if _counts(result) != _counts(again):
        problems.append("the numbers of images, or whether they are official, are others")
    if problems:
        return Verdict(spec, "rerun", "differs", "; ".join(problems))
    worst = max(
        _distance(*(np.asarray(getattr(each, name), np.float64) for each in (stored, predictions))) for name in NUMBERS
    )
    words = f"scores and uncertainties within {worst:.2g} of their standard deviation"
    if worst > TOLERANCE:
        return Verdict(spec, "rerun", "differs", words + _made_otherwise(result, again))
    if moved := [*_moved_pixels(result, again)]:
        return Verdict(spec, "rerun", "differs", "; ".join(moved) + _made_otherwise(result, again))
    if all(_equal(stored, predictions, name) for name in NUMBERS) and result.pixel == again.pixel:
        words = "bit for bit"
    return Verdict(spec, "rerun", "reproduced", words)


def _made_otherwise(result: CellResult, again: CellResult) -> str:
    """What alone may be why they differ, in words: nothing where both were made with the same."""
    said, found = (
        {
            "threads": str(each.provenance.threads),
            "device": each.provenance.device,
            "torch": each.provenance.packages.get("torch", "unknown"),
        }
        for each in (result, again)
    )
    others = [f"{name}: {said[name]}, here {found[name]}" for name in said if said[name] != found[name]]
    if not others:
        return ""
    how = f" (OMP_NUM_THREADS={result.provenance.threads})" if said["threads"] != found["threads"] else ""
    return f"; that may be of what it was made with ({'; '.join(others)}): verify it with the same{how}"


def _counts(result: CellResult) -> tuple[int | bool, ...]:
    split = result.split
    return split.train, split.calibration, split.test, split.test_anomalous, bool(split.custom)


def _equal(stored: Predictions, again: Predictions, name: str) -> bool:
    return np.array_equal(getattr(stored, name), getattr(again, name))


def _distance(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    """The largest difference over the standard deviation; infinity where either has a value that is no number."""
    if not before.size:
        return 0.0
    distance = float(np.abs(before - after).max()) / (float(before.std()) or 1.0)
    return distance if math.isfinite(distance) else math.inf


def _moved_pixels(result: CellResult, again: CellResult) -> Iterator[str]:
    """Pixel figures, which come of maps that are not stored, and so show when a cell is run again only."""
    for condition in sorted(result.pixel.keys() | again.pixel.keys()):
        said, found = result.pixel.get(condition, {}), again.pixel.get(condition, {})
        for name in sorted(said.keys() | found.keys()):
            before, after = (figures[name].value if name in figures else None for figures in (said, found))
            if before is None or after is None:
                same = before is after
            else:
                same = math.isclose(before, after, rel_tol=PIXEL_TOLERANCE, abs_tol=PIXEL_TOLERANCE)
            if not same:
                yield f"{condition}, {name}: {before}, but running it again gives {after}"

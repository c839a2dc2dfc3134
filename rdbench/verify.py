"""Can a result be believed? Its figures are computed again from its predictions, and some cells are run again."""

from __future__ import annotations

import math
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rdbench.benchmark.plan import RunSettings
from rdbench.benchmark.progress import Reporter
from rdbench.benchmark.results import PROTOCOL_VERSION, CellResult, CellSpec, Predictions
from rdbench.benchmark.store import RESULT, Store, read_predictions, read_result
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


OUTCOMES = ("reproduced", "differs", "damaged", "not comparable here", "not possible")
"""Of a cell. Not comparable: run again, with other threads, another device or another torch, which gives other bits."""


@dataclass(frozen=True)
class Verdict:
    """What became of one cell."""

    cell: CellSpec | Path
    """Its directory, if its result cannot be read."""
    kind: str
    """"recomputed" or "rerun"."""
    outcome: str
    """One of `OUTCOMES`."""
    words: str

    @property
    def sound(self) -> bool:
        """Whether nothing speaks against the cell."""
        return self.outcome not in ("differs", "damaged")


def gather(store: Store) -> tuple[list[Source], list[Verdict]]:
    """The store's cells, and what is to be said of those whose result cannot be read."""
    sources, damaged = [], []
    for directory in store.cells():
        try:
            result = read_result(directory / RESULT)
        except InputError as error:
            damaged.append(Verdict(directory.relative_to(store.root), "recomputed", "damaged", str(error)))
        else:
            sources.append(Source(result, str(directory), partial(read_predictions, directory, result), directory))
    return sources, damaged


def recompute(sources: Sequence[Source], advance: Callable[[], None] = lambda: None) -> Iterator[Verdict]:
    """Every cell's figures from its stored predictions, which must be those that its result has the hash of."""
    for source in sources:
        yield _recomputed(source)
        advance()


def _recomputed(source: Source) -> Verdict:
    spec = source.result.spec
    if source.predictions is None:
        return Verdict(spec, "recomputed", "not possible", "its predictions are not there")
    try:
        predictions = source.predictions()
    except InputError as error:
        return Verdict(spec, "recomputed", "damaged", str(error))
    try:
        problems = list(check_cell(source.result, predictions))
    except ValueError as error:
        problems = [str(error)]
    if source.directory is not None and source.directory.name != spec.path.name:
        problems.append(f"{source.directory.name} is not its name: the spec was changed, or is of another rdbench")
    words = "; ".join(problems) or "every image figure follows from the stored predictions"
    return Verdict(spec, "recomputed", "differs" if problems else "reproduced", words)


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
            if source.predictions is None:
                raise InputError("its predictions are not there to be compared with")
            stored = source.predictions()
            settings = _settings(source.result, root, weights, device, methods_dir)
            with tempfile.TemporaryDirectory(prefix="rdbench-verify-") as folder:
                again = _run(settings(Path(folder) / "runs"), spec, reporter)
            yield compare(source.result, stored, *again)
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
    """Everything of a cell that was measured on images, but for times, beside what running it again gave.

    Numbers that differ speak against the cell where both were made with the same threads, device and torch only.
    """
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
    moved = [words] if worst > TOLERANCE else [*_moved_pixels(result, again)]
    if moved and (other := result.provenance.unlike(again.provenance)):
        return Verdict(spec, "rerun", "not comparable here", "; ".join([*moved, _to_set(other)]))
    if moved:
        return Verdict(spec, "rerun", "differs", "; ".join(moved))
    if all(_equal(stored, predictions, name) for name in NUMBERS) and result.pixel == again.pixel:
        words = "bit for bit"
    return Verdict(spec, "rerun", "reproduced", words)


def _to_set(other: dict[str, tuple[str, str]]) -> str:
    """What a cell was made with that is otherwise here, and what to set."""
    how = {"threads": "OMP_NUM_THREADS={}", "device": "the device {} (--device)", "torch": "torch {}"}
    found = "; ".join(f"{name}: {said}, here {here}" for name, (said, here) in other.items())
    wanted = ", ".join(how[name].format(said) for name, (said, _) in other.items())
    return f"it was made otherwise ({found}), and bits differ between those: verify it with {wanted}"


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


def lines(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """What became of the cells, in words: how many of each outcome, and all but the cells that are sound."""
    said = {
        "recomputed": ("image figures", " from the stored predictions"),
        "rerun": ("run again", ""),
    }
    for kind, (what, how) in said.items():
        of_kind = [verdict for verdict in verdicts if verdict.kind == kind]
        numbers = Counter(verdict.outcome for verdict in of_kind)
        tally = [f"{numbers[o]} {o}{how if o == OUTCOMES[0] else ''}" for o in OUTCOMES if numbers[o]]
        yield f"{what}: {', '.join(tally) or 'none'}"
        for verdict in of_kind:
            if kind == "rerun" or verdict.outcome != "reproduced":
                yield f"  {verdict.cell}: {verdict.outcome}: {verdict.words}"
    yield "pixel figures are checked in the cells that are run again alone, costs never"

"""Can a result be believed? Its figures are computed again from its predictions, and some cells are run again."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rdbench.benchmark.plan import RunSettings
from rdbench.benchmark.progress import Reporter
from rdbench.benchmark.results import PROTOCOL_VERSION, CellResult, CellSpec, Predictions
from rdbench.benchmark.store import open_store, read_predictions
from rdbench.errors import InputError
from rdbench.registry import find_methods
from rdbench.report.entries import Source
from rdbench.report.validate import check_cell
from rdbench.shifts import parse_shift

TOLERANCE = 1e-5
"""Of scores, relative to their spread: what another thread count or library version may change."""


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
    """Run `count` cells, drawn by `seed`, once more from the images on, and hold their predictions beside the stored.

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
            yield _compare(source.result, source.predictions(), again)
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


def _run(settings: RunSettings, spec: CellSpec, reporter: Reporter) -> Predictions:
    """The cell's predictions, made anew. Raises InputError if it cannot be run, or would not be the same cell."""
    from rdbench.benchmark.run import run

    outcome = run([settings], reporter)
    if outcome.bad_input or outcome.failures:
        reasons = [*outcome.bad_input, *(failure.reason for failure in outcome.failures)]
        raise InputError(f"it could not be run again: {'; '.join(reasons)}")
    for directory, result in open_store(settings.out, create=False).results():
        for name, what in {"fingerprint": "the images are others", "weights_sha256": "the weights are others"}.items():
            if getattr(result.spec, name) != getattr(spec, name):
                raise InputError(f"{what}: {name} is {getattr(result.spec, name)[:12]}, was {getattr(spec, name)[:12]}")
        return read_predictions(directory, result)
    raise InputError("it could not be run again")


def _compare(result: CellResult, stored: Predictions, again: Predictions) -> Verdict:
    """Scores and uncertainties of calibration and test images, side by side."""
    spec = result.spec
    if stored.images != again.images or stored.conditions != again.conditions:
        return Verdict(spec, "rerun", "differs", "the images or conditions are others")
    if not np.array_equal(stored.labels, again.labels):
        return Verdict(spec, "rerun", "differs", "the labels are others")
    worst = 0.0
    equal = True
    for name in ("scores", "uncertainties", "calibration_scores", "calibration_uncertainties"):
        before, after = (np.asarray(getattr(each, name), np.float64) for each in (stored, again))
        equal = equal and np.array_equal(before, after)
        worst = max(worst, float(np.abs(before - after).max()) / (float(before.std()) or 1.0))
    if equal:
        return Verdict(spec, "rerun", "reproduced", "bit for bit")
    words = f"scores and uncertainties within {worst:.2g} of their standard deviation"
    return Verdict(spec, "rerun", "reproduced" if worst <= TOLERANCE else "differs", words)

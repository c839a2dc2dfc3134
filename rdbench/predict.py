"""Single images through a kept method: what an inspection engineer asks of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rdbench.benchmark.images import to_numpy
from rdbench.benchmark.kept import KeptMethod
from rdbench.benchmark.results import slug
from rdbench.benchmark.store import RESULT, read_predictions, read_result, refuse_within
from rdbench.datasets.base import ImageRecord
from rdbench.datasets.decode import resized
from rdbench.datasets.files import read_image
from rdbench.errors import InputError, reason
from rdbench.pictures import figure

MOST_NAMED = 200
"""Bytes of a figure's name that any file system takes; longer ones are cut, with a hash."""


@dataclass(frozen=True)
class Answer:
    """What a method says of one image."""

    path: Path
    score: float
    threshold: float
    uncertainty: float
    doubtful: float
    """Nine in ten normal calibration images (at alpha 0.10) are at most as uncertain as that."""
    unattained: str = ""
    """Which level the threshold keeps instead of alpha, in words, where the calibration images are too few for it."""

    @property
    def anomalous(self) -> bool:
        """The decision."""
        return self.score > self.threshold

    @property
    def review(self) -> bool:
        """Whether a person should look."""
        return self.uncertainty > self.doubtful

    def words(self) -> tuple[str, str]:
        """The decision, and whether to review it, each with the numbers it comes from."""
        return (
            f"{'anomalous' if self.anomalous else 'normal'} (score {self.score:.4g}, threshold {self.threshold:.4g}"
            f"{self.unattained})",
            f"{'review' if self.review else 'no review'} (uncertainty {self.uncertainty:.3g}, "
            f"review above {self.doubtful:.3g})",
        )


def predict_images(
    cell: Path,
    paths: Sequence[Path],
    out: Path | None,
    weights: str | None,
    device: str,
    methods_dir: Path | None,
    unreadable: Callable[[InputError], None],
) -> Iterator[Answer]:
    """What the cell's method says of each image; with `out`, a figure of each is drawn there.

    An image that cannot be read is told to `unreadable` and left out. Raises InputError for a cell without a kept
    model, or an `out` that cannot be written.
    """
    if out is not None:
        refuse_within(out)
    if not (cell / RESULT).is_file():
        example = next(iter(sorted(cell.glob(f"*/*/*/{RESULT}"))), None)
        such = f", such as {example.parent}" if example else ""
        raise InputError(f"{cell} is no cell's directory: it holds no {RESULT}; name a cell's{such}")
    result = read_result(cell / RESULT)
    model = KeptMethod(cell, result, weights, device, methods_dir)
    calibration = read_predictions(cell, result).calibration_uncertainties
    threshold = result.threshold
    # No conformal threshold: that of few images is their largest, which a bounded uncertainty never exceeds.
    doubtful = float(np.quantile(calibration, 1 - threshold.alpha, method="inverted_cdf"))
    unattained = "" if threshold.attained else f", which keeps {threshold.level:.3g} and not alpha {threshold.alpha:g}"
    for number, path in enumerate(paths):
        try:
            pixels = read_image(ImageRecord(key=path.stem, label=0, part="", path=path))
        except InputError as error:
            unreadable(error)
            continue
        prediction = model.predict(np.stack([resized(pixels, result.spec.image_size)]))
        score, uncertainty = float(prediction.anomaly_score[0]), float(prediction.uncertainty[0])
        answer = Answer(path, score, threshold.value, uncertainty, doubtful, unattained)
        if out is not None:
            unsure = prediction.uncertainty_map
            drawn = figure(
                pixels,
                to_numpy(prediction.anomaly_map[0]),
                answer.threshold,
                None if unsure is None else to_numpy(unsure[0]),
                [path.name, *answer.words()],
            )
            try:
                out.mkdir(parents=True, exist_ok=True)
                name = "-".join(filter(None, (f"{number:03}", path.parent.name, path.stem)))
                drawn.save(out / f"{name if len(os.fsencode(name)) <= MOST_NAMED else slug(name)}.png")
            except OSError as error:
                raise InputError(f"cannot write figures to {out}: {reason(error)}") from error
        yield answer

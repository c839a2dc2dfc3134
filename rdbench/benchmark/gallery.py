"""A cell's pictures: a few test images, chosen by rule, beside their maps. Imports no torch.

The directory `gallery/` of a cell holds the pictures and `gallery.json`, which says what each one shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from rdbench.benchmark.results import Predictions, Record
from rdbench.errors import InputError
from rdbench.pictures import draw

GALLERY = "gallery"
CONTENTS = "gallery.json"


@dataclass(frozen=True)
class Choice:
    """One test image and why it was chosen."""

    rule: str
    """"most certain, right", "most certain, wrong", "most uncertain, right" or "most uncertain, wrong"."""
    index: int
    """Of the test image."""


class Picture(Record):
    """One stored picture and what the method said of its image, taken from the stored predictions."""

    file: str
    rule: str
    image: str
    """The image's key."""
    label: int
    """0 for normal, 1 for anomalous."""
    defect: str
    score: float
    uncertainty: float
    anomalous: bool
    """The decision."""


class Gallery(Record):
    """What `gallery.json` holds."""

    threshold: float
    """With which the pictures were chosen. The middle of the anomaly maps' colour scale, whose end is twice that."""
    uncertainty_end: float | None
    """The end of the uncertainty maps' colour scale, the same in all pictures; None if there are no such maps."""
    pictures: tuple[Picture, ...]


def choose(predictions: Predictions, threshold: float) -> list[Choice]:
    """The most certain and the most uncertain of the right and of the wrong decisions on the clean test images.

    Equal uncertainties are taken in the images' order. A rule for which there is no image is left out.
    """
    scores, uncertainties = predictions.scores[0].astype(np.float64), predictions.uncertainties[0]
    wrong = (scores > threshold) != (predictions.labels == 1)
    choices = []
    for certainty, pick in (("most certain", np.argmin), ("most uncertain", np.argmax)):
        for outcome, among in (("right", ~wrong), ("wrong", wrong)):
            indices = np.flatnonzero(among)
            if len(indices):
                choices.append(Choice(f"{certainty}, {outcome}", int(indices[pick(uncertainties[indices])])))
    return choices


def write_gallery(
    directory: Path,
    choices: Sequence[Choice],
    images: NDArray[np.uint8],
    anomaly_maps: NDArray[np.float32],
    uncertainty_maps: NDArray[np.float32] | None,
    predictions: Predictions,
    threshold: float,
) -> None:
    """Draw n chosen images into `directory`, an existing one, and write what they are beside them.

    Args:
        images: (n, H, W, 3) uint8.
        anomaly_maps: (n, h, w), >= 0.
        uncertainty_maps: (n, h, w), >= 0.
        predictions: of all test images.
        threshold: the decision threshold.
    """
    end = None if uncertainty_maps is None else float(uncertainty_maps.max(initial=0.0))
    pictures = []
    for n, choice in enumerate(choices):
        i = choice.index
        name = choice.rule.replace(", ", "-").replace(" ", "-") + ".jpg"
        unsure = None if uncertainty_maps is None else uncertainty_maps[n]
        draw(images[n], anomaly_maps[n], 2 * threshold, unsure, end or 0.0).save(directory / name, quality=85)
        pictures.append(
            Picture(
                file=name,
                rule=choice.rule,
                image=predictions.images[i],
                label=int(predictions.labels[i]),
                defect=str(predictions.defects[i]),
                score=float(predictions.scores[0, i]),
                uncertainty=float(predictions.uncertainties[0, i]),
                anomalous=float(predictions.scores[0, i]) > threshold,
            )
        )
    gallery = Gallery(threshold=threshold, uncertainty_end=end, pictures=tuple(pictures))
    (directory / CONTENTS).write_text(gallery.model_dump_json(indent=1), encoding="utf-8")


def read_gallery(cell: Path) -> Gallery | None:
    """The pictures that the cell's run kept, if any. Raises InputError if what they are cannot be read."""
    path = cell / GALLERY / CONTENTS
    if not path.is_file():
        return None
    try:
        return Gallery.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        raise InputError(f"cannot read {path}; remove {path.parent} to go on without pictures") from error

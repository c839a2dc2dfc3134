"""Pictures of test images: which ones, chosen by rule, and how they are drawn beside their maps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rdbench.benchmark.results import Predictions
from rdbench.report.entries import Source

GALLERY = "gallery"
"""The directory of a cell that holds its pictures."""
PANEL = 256
"""Height of a picture in pixels."""
GAP = 4
COLOURS = np.array([(0, 34, 78), (60, 77, 110), (124, 123, 120), (190, 174, 105), (255, 234, 70)], dtype=np.float64)
"""Five stops of cividis (Nunez et al. 2018), made for colour-blind readers."""


@dataclass(frozen=True)
class Choice:
    """One test image and why it was chosen."""

    role: str
    """"most certain, right", "most certain, wrong", "most uncertain, right" or "most uncertain, wrong"."""
    index: int
    """Of the test image."""

    @property
    def file(self) -> str:
        """The picture's file name."""
        return self.role.replace(", ", "-").replace(" ", "-") + ".jpg"


def choose(predictions: Predictions, threshold: float) -> list[Choice]:
    """The most certain and the most uncertain of the right and of the wrong decisions on the clean test images.

    Equal uncertainties are taken in the images' order. A role for which there is no image is left out.
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


def draw(
    image: NDArray[np.uint8],
    anomaly_map: NDArray[np.floating],
    threshold: float,
    uncertainty_map: NDArray[np.floating] | None = None,
    most_uncertain: float | None = None,
) -> Image.Image:
    """The image, its anomaly map and, if there is one, its uncertainty map, side by side.

    Args:
        image: (H, W, 3) uint8 RGB, of any size.
        anomaly_map: (h, w), >= 0. The middle of the colour scale is the decision threshold, its end twice that.
        threshold: the decision threshold, > 0.
        uncertainty_map: (h, w), >= 0.
        most_uncertain: the end of the uncertainty's colour scale; by default this map's own maximum.
    """
    width = round(PANEL * image.shape[1] / image.shape[0])
    panels = [Image.fromarray(image).resize((width, PANEL), Image.Resampling.LANCZOS)]
    panels.append(_coloured(anomaly_map, 2 * threshold, width))
    if uncertainty_map is not None:
        end = float(uncertainty_map.max()) if most_uncertain is None else most_uncertain
        panels.append(_coloured(uncertainty_map, end, width))
    strip = Image.new("RGB", (len(panels) * (width + GAP) - GAP, PANEL), "white")
    for i, panel in enumerate(panels):
        strip.paste(panel, (i * (width + GAP), 0))
    return strip


def _coloured(values: NDArray[np.floating], end: float, width: int) -> Image.Image:
    place = np.clip(values / end, 0, 1) if end > 0 else np.zeros(values.shape)
    stops = np.linspace(0, 1, len(COLOURS))
    coloured = np.stack([np.interp(place, stops, channel) for channel in COLOURS.T], axis=-1)
    return Image.fromarray(coloured.astype(np.uint8)).resize((width, PANEL), Image.Resampling.BILINEAR)


@dataclass(frozen=True)
class Picture:
    """One stored picture of a cell."""

    path: Path
    category: str
    choice: Choice
    text: str
    """What it shows and what the method said, in words."""


def pictures(source: Source) -> list[Picture]:
    """The pictures that the cell's run has kept, if any; `draw` made them, one per `choose`."""
    if source.directory is None or source.predictions is None or not (source.directory / GALLERY).is_dir():
        return []
    predictions, threshold = source.predictions(), source.result.threshold.value
    found = []
    for choice in choose(predictions, threshold):
        path = source.directory / GALLERY / choice.file
        if path.is_file():
            i = choice.index
            score = float(predictions.scores[0, i])
            truth = "normal" if predictions.labels[i] == 0 else f"defect: {predictions.defects[i]}"
            decision = "anomalous" if score > threshold else "normal"
            text = (
                f"{predictions.images[i]} ({truth}), called {decision}: score {score:.3g}, threshold {threshold:.3g}, "
                f"uncertainty {float(predictions.uncertainties[0, i]):.3g}"
            )
            found.append(Picture(path, source.result.spec.category, choice, text))
    return found

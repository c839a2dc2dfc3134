"""The pictures that runs kept, as a method's page shows them. Published entries have none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rdbench.benchmark.gallery import GALLERY, read_gallery
from rdbench.report.entries import Source


@dataclass(frozen=True)
class Shown:
    """One picture of a cell, in words."""

    path: Path
    category: str
    rule: str
    text: str
    """What it shows and what the method said."""
    scales: tuple[str, ...]
    """The end of the colour scale of the anomaly map and, if there is one, of the uncertainty map."""


def pictures(source: Source) -> list[Shown]:
    """The pictures that the cell's run kept, if any; none once the threshold they were chosen with is another."""
    gallery = None if source.directory is None else read_gallery(source.directory)
    if source.directory is None or gallery is None or gallery.threshold != source.result.threshold.value:
        return []
    ends = (2 * gallery.threshold, gallery.uncertainty_end)
    scales = tuple(f"{end:.3g}" for end in ends if end is not None)
    found = []
    for picture in gallery.pictures:
        path = source.directory / GALLERY / Path(picture.file).name
        if path.is_file():
            truth = "normal" if picture.label == 0 else f"defect: {picture.defect}"
            decision = "anomalous" if picture.anomalous else "normal"
            text = (
                f"{picture.image} ({truth}), called {decision}: score {picture.score:.3g}, "
                f"threshold {gallery.threshold:.3g}, uncertainty {picture.uncertainty:.3g}"
            )
            found.append(Shown(path, source.result.spec.category, picture.rule, text, scales))
    return found

"""Pictures of an image beside its maps: a strip for pages, and a figure with titles and scales that stands alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

PANEL = 256
"""Height of a picture in pixels."""
GAP = 4
COLOURS = np.array([(0, 34, 78), (60, 77, 110), (124, 123, 120), (190, 174, 105), (255, 234, 70)], dtype=np.float64)
"""Five stops of cividis (Nunez et al. 2018), made for colour-blind readers."""
TEXT, LINE, BAR, MARGIN = 14, 22, 10, 16
"""Sizes in a figure: letters, lines of text, colour bars, and the rim, which is the gap between panels too."""


def draw(
    image: NDArray[np.uint8],
    anomaly_map: NDArray[np.floating],
    anomaly_end: float,
    uncertainty_map: NDArray[np.floating] | None = None,
    uncertainty_end: float = 0.0,
    gap: int = GAP,
) -> Image.Image:
    """The image, its anomaly map and, if there is one, its uncertainty map, side by side.

    Args:
        image: (H, W, 3) uint8 RGB, of any size.
        anomaly_map: (h, w), >= 0.
        anomaly_end: the end of the map's colour scale, which starts at 0; all of a map with an end of 0 is dark.
        uncertainty_map: (h, w), >= 0.
        uncertainty_end: the end of its colour scale.
        gap: pixels between the panels.
    """
    width = _width(image)
    panels = [Image.fromarray(image).resize((width, PANEL), Image.Resampling.LANCZOS)]
    panels.append(_coloured(anomaly_map, anomaly_end).resize((width, PANEL), Image.Resampling.BILINEAR))
    if uncertainty_map is not None:
        panels.append(_coloured(uncertainty_map, uncertainty_end).resize((width, PANEL), Image.Resampling.BILINEAR))
    strip = Image.new("RGB", (len(panels) * (width + gap) - gap, PANEL), "white")
    for i, panel in enumerate(panels):
        strip.paste(panel, (i * (width + gap), 0))
    return strip


def figure(
    image: NDArray[np.uint8],
    anomaly_map: NDArray[np.floating],
    threshold: float,
    uncertainty_map: NDArray[np.floating] | None,
    words: Sequence[str],
) -> Image.Image:
    """The strip of `draw` with lines of `words` above, a title over each panel and a scale under each map.

    The anomaly map's scale ends at twice the decision threshold, the uncertainty map's at its own maximum.
    """
    most = 0.0 if uncertainty_map is None else float(uncertainty_map.max())
    words = [" ".join(line.split()) for line in words]
    strip = draw(image, anomaly_map, 2 * threshold, uncertainty_map, most, gap=MARGIN)
    panel = _width(image)
    titles = ["Image", "Anomaly map", *([] if uncertainty_map is None else ["Uncertainty map"])]
    scales = [[], ["0", f"threshold {threshold:.3g}", f"{2 * threshold:.3g}"], ["0", f"{most:.3g}"]]
    font = ImageFont.load_default(TEXT)
    width = max(strip.width, *(round(font.getlength(line)) for line in words)) + 2 * MARGIN
    top = MARGIN + LINE * len(words) + LINE // 2
    canvas = Image.new("RGB", (width, top + LINE + PANEL + GAP + BAR + LINE + MARGIN), "white")
    pen = ImageDraw.Draw(canvas)
    for i, line in enumerate(words):
        pen.text((MARGIN, MARGIN + LINE * i), line, "black", font)
    canvas.paste(strip, (MARGIN, top + LINE))
    bar = _coloured(np.linspace(0, 1, panel)[None].repeat(BAR, axis=0), 1.0)
    for i, (title, ticks) in enumerate(zip(titles, scales, strict=False)):
        left, under = MARGIN + i * (panel + MARGIN), top + LINE + PANEL + GAP
        pen.text((left, top), title, "black", font)
        if ticks:
            canvas.paste(bar, (left, under))
        for tick, place, anchor in zip(ticks, np.linspace(0, panel, len(ticks)), _anchors(ticks), strict=True):
            pen.text((left + round(place), under + BAR + 2), tick, "black", font, anchor=anchor)
    return canvas


def _anchors(ticks: Sequence[str]) -> list[str]:
    """Where a tick's text hangs: the first at its left, the last at its right, those between in the middle."""
    return ["la", *["ma"] * (len(ticks) - 2), "ra"] if ticks else []


def _width(image: NDArray[np.uint8]) -> int:
    return max(1, round(PANEL * float(image.shape[1] / image.shape[0])))


def _coloured(values: NDArray[np.floating], end: float) -> Image.Image:
    place = np.clip(values / end, 0, 1) if end > 0 else np.zeros(values.shape)
    stops = np.linspace(0, 1, len(COLOURS))
    coloured = np.stack([np.interp(place, stops, channel) for channel in COLOURS.T], axis=-1)
    return Image.fromarray(coloured.astype(np.uint8))

"""A contact sheet: one image under kinds x severities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from rdbench.datasets import ImageRecord
from rdbench.datasets.files import read_image
from rdbench.shifts import KINDS, SEVERITIES, Condition, apply_shift

_MARGIN, _LABEL = 6, 18


def contact_sheet(image: Path, kinds: Sequence[str], seed: int = 0, side: int = 256, tile: int = 220) -> Image.Image:
    """The image, shifted as a model sees it, one row per kind: clean, then severities 1 to 5, each with its level.

    Args:
        kinds: names of :data:`rdbench.shifts.KINDS`.
        side: the shorter side of the image that is shifted, in pixels.
        tile: the longer side of each picture on the sheet, in pixels.

    Raises InputError if the image cannot be read.
    """
    pixels = Image.fromarray(read_image(ImageRecord(key=image.stem, label=0, part="", path=image)))
    scale = side / min(pixels.size)
    pixels = pixels.resize((round(pixels.width * scale), round(pixels.height * scale)), Image.Resampling.BILINEAR)
    clean = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255
    shrink = tile / max(pixels.size)
    width, height = max(round(pixels.width * shrink), 1), max(round(pixels.height * shrink), 1)
    step_x, step_y = max(width, tile) + _MARGIN, height + 2 * _LABEL + _MARGIN
    sheet = Image.new("RGB", (step_x * (1 + len(SEVERITIES)) + _MARGIN, step_y * len(kinds) + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    for row, name in enumerate(kinds):
        top = _MARGIN + row * step_y
        for severity in (0, *SEVERITIES):
            left = _MARGIN + severity * step_x
            shown = apply_shift(clean, Condition(name, severity), seed, [image.stem]) if severity else clean
            array = (shown[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            sheet.paste(Image.fromarray(array).resize((width, height), Image.Resampling.BILINEAR), (left, top))
            title = f"{name}:{severity}" if severity else "clean"
            draw.text((left, top + height + 2), title, fill="black", font=font)
            if severity:
                draw.text((left, top + height + _LABEL), KINDS[name].levels[severity - 1], fill="gray", font=font)
    return sheet

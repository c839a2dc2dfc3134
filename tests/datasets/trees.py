"""Small trees in the official layouts, drawn by the tests; the real tiles where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(os.environ.get("RDBENCH_SHARED") or Path(__file__).parents[3] / "shared")
LIGHTINGS = ("regular", "overexposed", "underexposed", "shift_1", "shift_2", "shift_3")


def tiles(dataset: str) -> Path:
    """The root of the real tiles laid out as `dataset`; skips where they are absent."""
    root = SHARED / "data" / dataset
    if not root.is_dir():
        pytest.skip(f"the real tiles are not at {root} (set RDBENCH_SHARED)")
    return root


def draw(path: Path, size: tuple[int, int] = (12, 8), seed: int | None = None) -> Path:
    """An RGB image of noise, `size` = (width, height); a function of the seed, by default of the path's end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list("/".join(path.parts[-4:]).encode()) if seed is None else seed)
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return path


def draw_mask(path: Path, size: tuple[int, int] = (12, 8)) -> Path:
    """A mask whose upper left quarter is white."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0]), np.uint8)
    pixels[: size[1] // 2, : size[0] // 2] = 255
    Image.fromarray(pixels).save(path)
    return path


def mvtec_ad(root: Path, category: str = "bottle", train: int = 20) -> Path:
    """`train` training images, 3 good test images, 2 cracks, 1 dent; returns the category's folder."""
    folder = root / category
    for number in range(train):
        draw(folder / f"train/good/{number:03d}.png")
    for defect, count in {"good": 3, "crack": 2, "dent": 1}.items():
        for number in range(count):
            draw(folder / f"test/{defect}/{number:03d}.png")
            if defect != "good":
                draw_mask(folder / f"ground_truth/{defect}/{number:03d}_mask.png")
    return folder


def mvtec_ad2(root: Path, category: str = "vial") -> Path:
    """4 training, 10 validation, 2 good and 2 bad parts under six lightings, 2 images in either private folder."""
    folder = root / category
    for split, count in {"train": 4, "validation": 10}.items():
        for number in range(count):
            draw(folder / f"{split}/good/{number:03d}_regular.png")
    for kind in ("good", "bad"):
        for number in range(2):
            for lighting in LIGHTINGS:
                draw(folder / f"test_public/{kind}/{number:03d}_{lighting}.png")
                if kind == "bad":
                    draw_mask(folder / f"test_public/ground_truth/bad/{number:03d}_{lighting}_mask.png")
    for number in range(2):
        draw(folder / f"test_private/{number:03d}_regular.png")
        draw(folder / f"test_private_mixed/{number:03d}_mixed.png")
    return folder


def visa(root: Path, category: str = "candle", train: int = 14) -> Path:
    """`train` training images, 2 normal and 2 anomalous test images, and the table; returns the table."""
    rows = ["object,split,label,image,mask"]
    for number in range(train + 2):
        image = draw(root / f"{category}/Data/Images/Normal/{number:04d}.JPG")
        rows.append(f"{category},{'train' if number < train else 'test'},normal,{image.relative_to(root)},")
    for number in range(2):
        image = draw(root / f"{category}/Data/Images/Anomaly/{number:03d}.JPG")
        mask = draw_mask(root / f"{category}/Data/Masks/Anomaly/{number:03d}.png")
        rows.append(f"{category},test,anomaly,{image.relative_to(root)},{mask.relative_to(root)}")
    table = root / "split_csv/1cls.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text("\n".join(rows) + "\n")
    return table

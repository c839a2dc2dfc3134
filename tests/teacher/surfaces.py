"""Photographed surfaces with planted defects, as MVTec AD folders: what a teacher is worth beyond one data set.

    pip install scikit-image
    python tests/teacher/surfaces.py DIR
    rdbench run --dataset mvtec_ad --root DIR --method deterministic --epochs 10 --precision fp32 \\
        --seed 0 --backbone resnet18 --weights resnet18.pth        # and again: --backbone embedded, --weights random

Six photographs that come with scikit-image. Training, validation and test images are crops of their left and of their
right half, so no test pixel was seen in training. Each defect lies inside its crop, with graded contrast.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

SURFACES = {
    "brick": "brick",
    "grass": "grass",
    "gravel": "gravel",
    "ihc": "immunohistochemistry",
    "moon": "moon",
    "page": "page",
}
"""By category, what skimage.data calls it."""
UPRIGHT = ("brick", "page")
"""Those that have an up and a down, and are not turned."""
SIDE, SIZE = 160, 256
NORMAL, NORMAL_TEST, EACH = 80, 100, 20
Pixels = NDArray[np.float64]


def crop(photo: Pixels, rng: np.random.Generator, right: bool, upright: bool) -> Pixels:
    """(256, 256, 3) in [0, 1]: a random window of one half, mirrored, and turned unless the surface stands upright."""
    height, width = photo.shape[:2]
    top = rng.integers(height - SIDE + 1)
    left = rng.integers(width // 2 - SIDE + 1) + (width // 2 if right else 0)
    window = photo[top : top + SIDE, left : left + SIDE]
    window = window[:, ::-1] if rng.random() < 0.5 else window
    window = window if upright else np.rot90(window, rng.integers(4))
    resized = Image.fromarray((255 * window).astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    light = rng.uniform(0.92, 1.08)
    return np.clip(np.asarray(resized) / 255 * light, 0, 1)


def place(rng: np.random.Generator, radius: float, stretch: float) -> Pixels:
    """(256, 256) in [0, 1]: a soft ellipse somewhere inside, turned at random."""
    y, x = rng.uniform(60, SIZE - 60, 2)
    angle = rng.uniform(0, np.pi)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    along = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
    across = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
    distance = np.hypot(along / (radius * stretch), across / (radius / stretch))
    return np.asarray(gaussian_filter((distance < 1).astype(float), 1.5))


def spoil(image: Pixels, kind: str, strength: float, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """The image with a defect of `strength` in [0, 1], and where it is, (256, 256)."""
    where = place(rng, *{"scratch": (14.0, 3.5)}.get(kind, (rng.uniform(16, 30), rng.uniform(1, 1.4))))
    tone = {
        "blob": np.full_like(image, rng.choice([0.1, 0.9])),
        "scratch": np.full_like(image, rng.choice([0.05, 0.95])),
        "blur": gaussian_filter(image, (5, 5, 0)),
        "turned": np.rot90(image, 1 + 2 * int(rng.integers(2))).copy(),
        "tint": image * rng.permutation([1.35, 1.0, 0.65]),
        "sharpened": image + 2.5 * (image - gaussian_filter(image, (2, 2, 0))),
    }[kind]
    share = strength * where[..., None]
    return np.clip(image * (1 - share) + share * tone, 0, 1), where > 0.5


def save(pixels: Pixels, path: Path) -> None:
    """Write an image, or a mask, as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((255 * pixels).round().astype(np.uint8)).save(path)


def main() -> None:
    """Write every surface below the folder that is named."""
    import skimage.data

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    root = parser.parse_args().root
    for seed, (name, read) in enumerate(SURFACES.items()):
        rng = np.random.default_rng(seed)
        photo = np.atleast_3d(getattr(skimage.data, read)())[..., :3] / 255 * np.ones(3)
        upright = name in UPRIGHT
        for i in range(NORMAL):
            save(crop(photo, rng, False, upright), root / f"{name}/train/good/{i:03d}.png")
        for i in range(NORMAL_TEST):
            save(crop(photo, rng, True, upright), root / f"{name}/test/good/{i:03d}.png")
        for kind in ("blob", "scratch", "blur", "turned", "tint", "sharpened"):
            for i, strength in enumerate(np.linspace(0.25, 1, EACH)):
                spoilt, mask = spoil(crop(photo, rng, True, upright), kind, float(strength), rng)
                save(spoilt, root / f"{name}/test/{kind}/{i:03d}.png")
                save(mask.astype(float), root / f"{name}/ground_truth/{kind}/{i:03d}_mask.png")


if __name__ == "__main__":
    main()

"""A small world to fit and predict in: drawn images, the embedded teacher, one epoch, and a decoy of a data set."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from rdbench.benchmark.fitting import make_context
from rdbench.benchmark.images import FeatureBank, normalise, to_unit
from rdbench.benchmark.progress import Reporter
from rdbench.benchmark.results import CLEAN, PROTOCOL_VERSION, CellSpec
from rdbench.protocol import Batch
from rdbench.rd.teacher import load_teacher

SIDE = 64
TRAIN, CALIBRATION, TEST = 24, 12, 4
EPOCHS = 2
WILD = TEST
"""Index of a test image that is like no other: noise from black to white."""


class World:
    """Images, teacher, context and shared students, below a scratch directory."""

    def __init__(self, scratch: Path, seed: int = 0) -> None:
        device = torch.device("cpu")
        self.scratch = scratch
        self.teacher = load_teacher("embedded", None, device)
        draw = np.random.default_rng(0)
        wild = draw.integers(0, 2, (1, SIDE, SIDE, 3), dtype=np.uint8) * np.uint8(255)
        self._test = np.concatenate([_stripes(draw, TEST), wild])
        banks = [
            FeatureBank(_stripes(draw, count), self.teacher, device, "fp32", 8, scratch)
            for count in (TRAIN, CALIBRATION)
        ]
        self.train, self.calibration = banks
        self.spec = CellSpec(
            protocol=PROTOCOL_VERSION,
            dataset="check",
            category="check",
            method="check",
            options={},
            method_sha256="",
            seed=seed,
            backbone="embedded",
            weights=self.teacher.weights_name,
            weights_sha256=self.teacher.weights_sha256,
            image_size=(SIDE, SIDE),
            map_size=None,
            epochs=EPOCHS,
            batch_size=8,
            precision="fp32",
            conditions=(CLEAN,),
            fingerprint="",
        )
        self.context, self.shared = make_context(
            teacher=self.teacher,
            train=self.train,
            calibration=self.calibration,
            spec=self.spec,
            device=device,
            directory=scratch,
            reporter=Reporter(Console(file=io.StringIO())),
        )

    def batch(self, indices: list[int]) -> Batch:
        """Those test images, with their features computed."""
        images = normalise(to_unit(self._test[indices], self.context.device))
        batch = Batch(images, lambda: self.teacher(images))
        with torch.inference_mode():
            _ = batch.features
        return batch

    @contextmanager
    def decoy(self) -> Iterator[None]:
        """Lay a data set where a run's would be named, in the arguments and in the environment, for who looks there."""
        root = self.scratch / "data"
        for defect in ("good", "crack"):
            folder = root / "bottle" / "test" / defect
            folder.mkdir(parents=True, exist_ok=True)
            for index, pixels in enumerate(self._test):
                Image.fromarray(pixels).save(folder / f"{index:03d}.png")
        command = ["rdbench", "run", "--dataset", "mvtec_ad", "--root", str(root), "--category", "bottle"]
        with patch("sys.argv", command), patch.dict("os.environ", RDBENCH_DATA=str(root)):
            yield


def _stripes(draw: np.random.Generator, count: int) -> NDArray[np.uint8]:
    """(count, SIDE, SIDE, 3): stripes, each image with its own phase, brightness and grain."""
    phase, light = draw.uniform(0, 6.28, (count, 1, 1, 1)), draw.uniform(0.8, 1.2, (count, 1, 1, 1))
    wave = np.sin(np.arange(SIDE)[None, None, :, None] / 3 + phase) * np.ones((1, SIDE, 1, 3))
    grain = draw.normal(0, 0.05, (count, SIDE, SIDE, 3))
    return np.asarray(np.clip((0.5 + 0.3 * wave + grain) * light, 0, 1) * 255, np.uint8)

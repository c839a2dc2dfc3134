"""Figures of docs/methods.md that were measured on the toy data set with the embedded teacher.

    OMP_NUM_THREADS=1 python -m tests.figures.on_toy    # two minutes

They change with the teacher's weights and with what toy draws.
"""

from __future__ import annotations

import io
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.func import functional_call

from rdbench.benchmark.fitting import make_context
from rdbench.benchmark.images import FeatureBank
from rdbench.benchmark.progress import Reporter
from rdbench.benchmark.results import CLEAN, PROTOCOL_VERSION, CellSpec
from rdbench.datasets import load_category
from rdbench.datasets.decode import DecodedImages
from rdbench.protocol import FitContext
from rdbench.rd.anomaly import distillation_loss, scale_maps
from rdbench.rd.teacher import load_teacher
from rdbench.registry import find_methods, load_method

SEEDS = (0, 1, 2)


def main() -> None:
    """Print each figure."""
    with tempfile.TemporaryDirectory() as scratch:
        for seed in SEEDS:
            world = World("twill", 64, 8, seed, Path(scratch))
            own, least, most = laplace_losses(world)
            print(f"twill, seed {seed}")
            print(f"  mc_batchnorm: standard deviation over the samples' score {mc_batchnorm_spread(world):.3%}")
            print(f"  laplace: loss of the student {own:.3f}, of samples {least:.3f} to {most:.3f}", flush=True)
        world = World("tablets", 128, 10, 0, Path(scratch))
        for share in (1.0, 4.0):
            correlations, ratios = noise_fit(world, share)
            print(f"tablets, heteroscedastic heads trained for {share:g} times the epochs, by scale")
            print("  correlation of predicted log error and error", *(f"{figure:.3f}" for figure in correlations))
            print("  mean error / mean prediction", *(f"{figure:.3f}" for figure in ratios), flush=True)


class World:
    """Normal images of a category, and the context that a run would fit a method with."""

    def __init__(self, category: str, side: int, epochs: int, seed: int, scratch: Path) -> None:
        device = torch.device("cpu")
        self.directory = Path(tempfile.mkdtemp(dir=scratch))
        teacher = load_teacher("embedded", None, device)
        images = load_category("toy", category, None, seed)
        with ThreadPoolExecutor(1) as pool:
            self.train, self.calibration = (
                FeatureBank(
                    DecodedImages(images, records, (side, side), pool)[:], teacher, device, "fp32", 16, self.directory
                )
                for records in (images.train, images.calibration)
            )
        spec = CellSpec(
            protocol=PROTOCOL_VERSION, dataset="toy", category=category, method="", options={}, method_sha256="",
            seed=seed, backbone="embedded", weights=teacher.weights_name, weights_sha256=teacher.weights_sha256,
            image_size=(side, side), map_size=None, epochs=epochs, batch_size=16, precision="fp32",
            conditions=(CLEAN,), fingerprint="",
        )  # fmt: skip
        self.context: FitContext = make_context(
            teacher=teacher, train=self.train, calibration=self.calibration, spec=spec, device=device,
            directory=self.directory, reporter=Reporter(Console(file=io.StringIO())),
        )[0]  # fmt: skip

    def fitted(self, name: str, context: FitContext | None = None) -> Any:
        """The method with its defaults, fitted, saved and loaded."""
        found = find_methods()[name]
        method = load_method(found, found.defaults())
        method.fit(self.train, context or self.context)
        directory = Path(tempfile.mkdtemp(dir=self.directory))
        method.save(directory)
        method.load(directory, self.context)
        return method


def mc_batchnorm_spread(world: World) -> float:
    """Mean over the calibration images: standard deviation of the samples' scores, as a share of their mean."""
    method = world.fitted("mc_batchnorm")
    with torch.inference_mode():
        prediction = method.predict(world.calibration.batch(range(len(world.calibration))))
    return float((prediction.uncertainty / prediction.anomaly_score).mean())


def laplace_losses(world: World) -> tuple[float, float, float]:
    """RD's loss on the calibration images: of the student, and the least and the most of the samples."""
    method = world.fitted("laplace")
    features = world.calibration.batch(range(len(world.calibration))).features
    decoder: nn.Module = method.student.decoder
    with torch.inference_mode():
        embedding: Tensor = method.student.bottleneck(features)
        own = distillation_loss(features, decoder(embedding)).item()
        drawn = [
            distillation_loss(features, functional_call(decoder, weights, (embedding,))).item()
            for weights in method.weights
        ]
    return own, min(drawn), max(drawn)


def noise_fit(world: World, share: float) -> tuple[list[float], list[float]]:
    """Over the calibration images' positions: correlation of predicted log error and error, mean error / prediction."""
    context = replace(world.context, train=partial(world.context.train, epochs=share))
    method = world.fitted("heteroscedastic", context)
    features = world.calibration.batch(range(len(world.calibration))).features
    with torch.inference_mode():
        pyramid = method.student(features)
        errors, logs = scale_maps(features, pyramid), method.heads(pyramid)
    pairs = list(zip(errors, logs, strict=True))
    correlations = [float(torch.corrcoef(torch.stack([e.flatten(), log.flatten()]))[0, 1]) for e, log in pairs]
    return correlations, [float(e.mean() / log.exp().mean()) for e, log in pairs]


if __name__ == "__main__":
    main()

"""The deterministic student; its three scales disagree about an image where it is unsure.

Deng and Li's map ("Anomaly Detection via Reverse Distillation from One-Class Embedding", CVPR 2022) is the sum of one
map per stride of the teacher: 4, 8 and 16. Read as three detectors they make an ensemble that costs nothing, in the
spirit of multi-head ensembles (Lee et al., "Why M Heads are Better than One", 2015); the method is this benchmark's
own. Anomaly map and score are the deterministic ones.

The scales must be made comparable first: on normal images their scores differ in level and in spread, and a spread of
raw values would show nothing but the noisiest scale. So each scale's score, the maximum of its map, is standardised by
mean and standard deviation of that scale's scores on the calibration images (their pixels' for the map). The training
images would not do: the student was fitted to them. The uncertainty is the standard deviation of the three standardised
values. It grows with the score itself: where all scales see a defect, they see it unequally strongly.
E + B + D per image, 1 training, which is the deterministic one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rdbench.protocol import Batch, FitContext, NormalImages, Prediction
from rdbench.rd.anomaly import anomaly_score, enlarge_and_smooth, scale_maps
from rdbench.uq.checkpoints import load_student, save_student


@dataclass
class ScaleDisagreement:
    def fit(self, train: NormalImages, context: FitContext) -> None:
        self.student = context.deterministic()
        with torch.no_grad():
            scales = [self._scales(batch) for batch in context.calibration.batches(16)]
        self.scores = _mean_and_std(torch.cat([maps.amax(dim=(2, 3)) for maps in scales], dim=1))
        self.pixels = _mean_and_std(torch.cat([maps.flatten(1) for maps in scales], dim=1))

    def predict(self, batch: Batch) -> Prediction:
        scales = self._scales(batch)
        maps = scales.sum(dim=0)
        scores = _standardised(scales.amax(dim=(2, 3)), self.scores)
        pixels = _standardised(scales, self.pixels)
        return Prediction(maps, anomaly_score(maps), _spread(scores), _spread(pixels))

    def save(self, directory: Path) -> None:
        save_student(self.student, directory / "student.safetensors")
        (directory / "scales.json").write_text(json.dumps({"scores": self.scores, "pixels": self.pixels}))

    def load(self, directory: Path, context: FitContext) -> None:
        self.student = load_student(directory / "student.safetensors", context)
        statistics = json.loads((directory / "scales.json").read_text())
        self.scores, self.pixels = statistics["scores"], statistics["pixels"]

    def _scales(self, batch: Batch) -> Tensor:
        """(3, B, H, W): what each scale adds to the anomaly map."""
        maps = scale_maps(batch.features, self.student(batch.features))
        return enlarge_and_smooth(maps, batch.images.shape[-2:])


def _mean_and_std(values: Tensor) -> list[list[float]]:
    """[mean, standard deviation] of each of the rows of (3, n)."""
    return [[float(row.mean()), float(row.std(correction=0)) or 1.0] for row in values]


def _standardised(values: Tensor, statistics: list[list[float]]) -> Tensor:
    mean, std = values.new_tensor(statistics).T.view(2, 3, *[1] * (values.ndim - 1))
    return values.sub(mean).div(std)


def _spread(values: Tensor) -> Tensor:
    """Standard deviation over the three scales; `std(dim=0)` takes fifty times as long on whole maps."""
    return (values - values.mean(dim=0)).square().sum(dim=0).div(2).sqrt()

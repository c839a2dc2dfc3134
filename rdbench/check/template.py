"""The deterministic student on features with added noise; the samples disagree where it is unsure.

The first line is what `rdbench methods` shows. Name the paper here, and what was adapted to Reverse Distillation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rdbench.protocol import Batch, FitContext, NormalImages, Prediction
from rdbench.rd.anomaly import anomaly_map
from rdbench.uq.checkpoints import load_student, save_student
from rdbench.uq.sampling import predict_from_samples
from rdbench.uq.seeds import derive_seed


@dataclass
class MyMethod:
    # The fields are the options (`-o samples=5`): name, type, default, and one line of help.
    samples: int = 10
    "how many times the noise is drawn"
    scale: float = 0.1
    "standard deviation of the noise, relative to the features'"

    # Options that fitting does not depend on: a sweep over them is fitted once.
    predicting = ("samples", "scale")

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")

    def fit(self, train: NormalImages, context: FitContext) -> None:
        # A student of one's own: context.train(context.new_student(context.seed), train, context.seed)
        self.student = context.deterministic()

    def predict(self, batch: Batch) -> Prediction:
        return predict_from_samples(self._noisy_map(batch, seed) for seed in self.seeds)

    def save(self, directory: Path) -> None:
        save_student(self.student, directory / "student.safetensors")

    def load(self, directory: Path, context: FitContext) -> None:
        self.student = load_student(directory / "student.safetensors", context)
        self.seeds = [derive_seed(context.seed, sample) for sample in range(self.samples)]

    def _noisy_map(self, batch: Batch, seed: int) -> Tensor:
        """One anomaly map (B, H, W). The noise is the same for every image, whatever batch it comes in."""
        draw = torch.Generator().manual_seed(seed)
        noisy = []
        for features in batch.features:
            noise = torch.randn(features.shape[1:], generator=draw).to(features)
            noisy.append(features + self.scale * features.std(dim=(1, 2, 3), keepdim=True) * noise)
        # Compared with the features without noise: noise that no student can foresee would count as anomaly.
        return anomaly_map(batch.features, self.student(noisy), batch.images.shape[-2:])

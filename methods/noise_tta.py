"""The deterministic student on noisy features of each image; it disagrees with itself where it is unsure.

Noise on a network's input as test-time augmentation: Ayhan and Berens, "Test-time Data Augmentation for Estimation of
Heteroscedastic Aleatoric Uncertainty in Deep Neural Networks", MIDL 2018, and Wang et al., Neurocomputing 2019.
Adapted: the noise is Gaussian and goes on the teacher's features as they enter the bottleneck, RD's input, so that the
teacher runs once; it is relative to each channel's standard deviation over the training images. The student's pyramid
is compared with the features without noise: noise that no student can foresee would count as anomaly there. A sample is
one noise pattern, drawn from (seed, sample) on the CPU, the same for all images.

Cost: E + S (B + D); 1 training, the deterministic student's. Readout: standard deviation of the samples' scores, as
both papers have the spread over augmentations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rdbench.protocol import Batch, FitContext, NormalImages, Prediction
from rdbench.rd.anomaly import anomaly_map
from rdbench.uq.checkpoints import load_student, load_tensors, save_student, save_tensors
from rdbench.uq.sampling import predict_from_samples
from rdbench.uq.seeds import derive_seed


@dataclass
class NoiseTTA:
    noise: float = 0.1
    "standard deviation of the noise, relative to that of each channel over the training images"
    samples: int = 20
    "noise patterns per prediction"

    predicting = ("noise", "samples")

    def __post_init__(self) -> None:
        if not self.noise >= 0:
            raise ValueError(f"noise must be at least 0, got {self.noise:g}")
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")

    def fit(self, train: NormalImages, context: FitContext) -> None:
        self.student = context.deterministic()
        self.deviations = channel_deviations(train)

    def predict(self, batch: Batch) -> Prediction:
        return predict_from_samples(self._maps(batch))

    def save(self, directory: Path) -> None:
        save_student(self.student, directory / "student.safetensors")
        save_tensors({str(scale): std for scale, std in enumerate(self.deviations)}, directory / "noise.safetensors")

    def load(self, directory: Path, context: FitContext) -> None:
        self.student = load_student(directory / "student.safetensors", context)
        kept = load_tensors(directory / "noise.safetensors", context)
        self.deviations = [kept[str(scale)] for scale in range(len(kept))]
        self.seeds = [derive_seed(context.seed, index) for index in range(self.samples)]

    def _maps(self, batch: Batch) -> Iterator[Tensor]:
        for seed in self.seeds:
            generator = torch.Generator().manual_seed(seed)
            noisy = []
            for scale, std in zip(batch.features, self.deviations, strict=True):
                pattern = torch.randn(scale.shape[1:], generator=generator).to(scale)
                noisy.append(scale + self.noise * std.to(scale).view(-1, 1, 1) * pattern)
            yield anomaly_map(batch.features, self.student(noisy), batch.images.shape[-2:])


def channel_deviations(images: NormalImages) -> list[Tensor]:
    """Each channel's standard deviation over all images and positions, (C_i,) float32 for each scale."""
    totals: list[Tensor] = []  # per scale (3, C_i): how many values, their sum, their squares' sum
    with torch.no_grad():
        for batch in images.batches(16):
            values = [scale.double().transpose(0, 1).flatten(1) for scale in batch.features]
            found = [torch.stack([torch.ones_like(x).sum(1), x.sum(1), x.square().sum(1)]) for x in values]
            totals = [a + b for a, b in zip(totals, found, strict=True)] if totals else found
    return [(total[2] / total[0] - (total[1] / total[0]).square()).clamp_min(0).sqrt().float() for total in totals]

"""Several students, each trained on images drawn from the training set with replacement; they disagree where unsure.

Breiman, "Bagging Predictors", Machine Learning 1996. Adapted: members also differ in initialisation and order of the
images, by the very seeds of deep_ensemble, so the two differ in the resampling alone; RD has no likelihood, so scores
and maps are averaged. Each member draws as many images as there are and sees 63 % of them, on average.

Cost: E + M (B + D) per image; M trainings.
Uncertainty: standard deviation of the members' scores, the bootstrap's own estimate of a score's standard error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from rdbench.protocol import Batch, FitContext, NormalImages, Prediction
from rdbench.rd.anomaly import anomaly_map
from rdbench.uq.checkpoints import load_members, save_members
from rdbench.uq.sampling import predict_from_samples
from rdbench.uq.seeds import derive_seed, member_seeds
from rdbench.uq.subsets import Subset


@dataclass
class BootstrapEnsemble:
    members: int = 5
    "students, each from a seed and a resample of its own"

    def __post_init__(self) -> None:
        if self.members < 1:
            raise ValueError(f"members must be at least 1, got {self.members}")

    def fit(self, train: NormalImages, context: FitContext) -> None:
        self.students: Sequence[nn.Module] = [
            context.train(context.new_student(seed), resampled(train, derive_seed(seed, 0)), seed)
            for seed in member_seeds(context.seed, self.members)
        ]

    def predict(self, batch: Batch) -> Prediction:
        size = batch.images.shape[-2:]
        return predict_from_samples(
            anomaly_map(batch.features, student(batch.features), size) for student in self.students
        )

    def save(self, directory: Path) -> None:
        save_members(self.students, directory)

    def load(self, directory: Path, context: FitContext) -> None:
        self.students = load_members(self.members, directory, context)


def resampled(images: NormalImages, seed: int) -> Subset:
    """As many of the images as there are, drawn with replacement by `seed`."""
    generator = torch.Generator().manual_seed(seed)
    return Subset(images, torch.randint(len(images), (len(images),), generator=generator))

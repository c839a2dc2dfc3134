"""Several students trained from different initialisations and orders of the images; they disagree where unsure.

Lakshminarayanan, Pritzel and Blundell, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles",
NeurIPS 2017. Adapted: the frozen teacher is shared, so members differ in bottleneck and decoder alone; RD has no
likelihood, so members' scores and maps are averaged and their standard deviation is the uncertainty; no adversarial
training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rdbench.protocol import Batch, FitContext, NormalImages, Prediction
from rdbench.rd.anomaly import anomaly_map
from rdbench.uq.checkpoints import load_members, save_members
from rdbench.uq.sampling import predict_from_samples
from rdbench.uq.seeds import member_seeds


@dataclass
class DeepEnsemble:
    members: int = 5
    "students, each from a seed of its own; the first is the deterministic one"

    def __post_init__(self) -> None:
        if self.members < 1:
            raise ValueError(f"members must be at least 1, got {self.members}")

    def fit(self, train: NormalImages, context: FitContext) -> None:
        self.students = [context.trained(seed) for seed in member_seeds(context.seed, self.members)]

    def predict(self, batch: Batch) -> Prediction:
        size = batch.images.shape[-2:]
        return predict_from_samples(
            anomaly_map(batch.features, student(batch.features), size) for student in self.students
        )

    def save(self, directory: Path) -> None:
        save_members(self.students, directory)

    def load(self, directory: Path, context: FitContext) -> None:
        self.students = load_members(self.members, directory, context)

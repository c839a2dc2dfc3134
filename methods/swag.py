"""Students drawn from a Gaussian around the iterates of further training; they disagree where it is unsure.

Maddox, Izmailov, Garipov, Vetrov and Wilson, "A Simple Baseline for Bayesian Uncertainty in Deep Learning" (SWAG),
NeurIPS 2019. A copy of the deterministic student is trained on at a constant rate; it and what it is after each further
epoch are the iterates, whose mean, diagonal variance and last `rank` deviations make the Gaussian (rdbench.uq.swag).
Adapted: the optimiser is RD's Adam, not SGD. Every sample's batch norm is refitted on all training features, in batches
of 16, when fitting, and the samples are kept as the networks they are: another number of samples is another fit.

Cost: E + S (B + D); 1 + `epochs` trainings, and S passes of the training images to refit batch norm. Disk and memory: S
students. Readout: standard deviation of the samples' scores, the spread of the Bayesian model average of the paper.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

from torch.optim.swa_utils import update_bn

from rdbench.protocol import Batch, FitContext, NormalImages, Prediction
from rdbench.rd.anomaly import anomaly_map
from rdbench.uq.checkpoints import load_members, save_members
from rdbench.uq.sampling import predict_from_samples
from rdbench.uq.seeds import derive_seed
from rdbench.uq.swag import WeightMoments, set_weights


@dataclass
class SWAG:
    epochs: float = 0.5
    "epochs that the iterates are taken from, as a share of the run's"
    rate: float = 1.0
    "their learning rate, as a factor on the released one"
    rank: int = 20
    "deviations kept, from the last epochs; 0 for the diagonal alone"
    samples: int = 20
    "networks sampled"

    def __post_init__(self) -> None:
        for name in ("epochs", "rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name):g}")
        if self.rank < 0 or self.rank == 1:
            raise ValueError(f"rank must be 0 or at least 2, got {self.rank}")
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")

    def fit(self, train: NormalImages, context: FitContext) -> None:
        student = copy.deepcopy(context.deterministic()).requires_grad_(True)
        moments = WeightMoments(self.rank)
        moments.add(student)
        context.train(
            student,
            train,
            derive_seed(context.seed, 0),
            epochs=self.epochs,
            rate=lambda _: self.rate,
            after_epoch=lambda *_: moments.add(student),
        )
        self.students = []
        for index in range(self.samples):
            set_weights(student, moments.sample(derive_seed(context.seed, 1 + index)))
            update_bn(((batch.features,) for batch in train.batches(16)), student)
            self.students.append(copy.deepcopy(student))

    def predict(self, batch: Batch) -> Prediction:
        size = batch.images.shape[-2:]
        return predict_from_samples(
            anomaly_map(batch.features, student(batch.features), size) for student in self.students
        )

    def save(self, directory: Path) -> None:
        save_members(self.students, directory)

    def load(self, directory: Path, context: FitContext) -> None:
        self.students = load_members(self.samples, directory, context)

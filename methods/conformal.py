"""Students each trained without one fold of the images; how near the image's p-value is to the false-alarm level.

Vovk, "Cross-conformal predictors", Annals of Mathematics and Artificial Intelligence, 2015. The training images are
dealt out to K folds; student k is trained on the others and scores its own fold. An image's p-value is the share of
those scores that are at least its own, each pair by one student, the image itself counted in. All training images serve
for training and for the p-value alike: no calibration image is used.

    uncertainty = 1 / (1 + |log p - log alpha|)

is 1 where the p-value is alpha, so that a little more or less would change the decision. On a logarithmic scale,
since p-values compare as ratios: every anomalous decision has a p-value within alpha of alpha, so a plain difference
would call nearly all of them less sure than nearly all normal ones, whatever the evidence. Anomaly map and score are
the mean over the K students, the uncertainty map their standard deviation.
Adapted: RD's score is the nonconformity. On n exchangeable images P(p <= a) is at most 2 a + 2 (1 - a) (K - 1) /
(n + K) (see rdbench.uq.conformal), 0.31 for a = 0.10, n = 60, K = 5, and near a in simulation; photos of one part in
several folds are not exchangeable and make p too small.
E + K (B + D) per image; K trainings on (K - 1) / K of the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log
from pathlib import Path

import torch
from torch import Tensor, nn

from rdbench.errors import InputError
from rdbench.protocol import Batch, FitContext, NormalImages, Prediction
from rdbench.rd.anomaly import anomaly_map
from rdbench.uq.calibration import image_scores
from rdbench.uq.checkpoints import load_members, load_tensors, save_members, save_tensors
from rdbench.uq.conformal import cross_conformal_p_values, folds
from rdbench.uq.sampling import predict_from_samples
from rdbench.uq.seeds import member_seeds
from rdbench.uq.subsets import Subset


@dataclass
class Conformal:
    folds: int = 5
    "folds of the training images, and students"
    alpha: float = 0.10
    "false-alarm level that p-values are compared with, as the benchmark's --alpha"

    predicting = ("alpha",)

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ValueError(f"folds must be at least 2, got {self.folds}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must be in (0, 1), got {self.alpha:g}")

    def fit(self, train: NormalImages, context: FitContext) -> None:
        if len(train) < self.folds:
            raise InputError(
                f"folds is {self.folds}, but there are only {len(train)} training images; take fewer folds"
            )
        self.students: Sequence[nn.Module] = []
        self.out_of_fold: list[Tensor] = []
        parts = folds(len(train), self.folds, context.seed)
        for left_out, seed in enumerate(member_seeds(context.seed, self.folds)):
            others = torch.cat([part for index, part in enumerate(parts) if index != left_out])
            student = context.train(context.new_student(seed), Subset(train, others), seed)
            self.students = [*self.students, student]
            self.out_of_fold.append(image_scores(student, Subset(train, parts[left_out])))

    def predict(self, batch: Batch) -> Prediction:
        size = batch.images.shape[-2:]
        prediction = predict_from_samples(
            anomaly_map(batch.features, student(batch.features), size) for student in self.students
        )
        assert prediction.member_scores is not None
        p = cross_conformal_p_values(self.out_of_fold, prediction.member_scores)
        return replace(prediction, uncertainty=1 / (1 + (p.log() - log(self.alpha)).abs()))

    def save(self, directory: Path) -> None:
        save_members(self.students, directory)
        save_tensors({str(index): s for index, s in enumerate(self.out_of_fold)}, directory / "scores.safetensors")

    def load(self, directory: Path, context: FitContext) -> None:
        self.students = load_members(self.folds, directory, context)
        scores = load_tensors(directory / "scores.safetensors", context)
        self.out_of_fold = [scores[str(index)] for index in range(self.folds)]

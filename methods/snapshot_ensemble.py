"""One training whose learning rate falls and restarts; the students at the ends of its cycles disagree where unsure.

Huang et al., "Snapshot Ensembles: Train 1, Get M for Free", ICLR 2017. The run's epochs are divided into M cycles; in
each the rate falls from the released one to 0 along half a cosine, and the student at its end is a member. Adapted: RD
trains with Adam, not SGD, and Adam's moments restart with the rate; RD has no likelihood, so scores and maps are
averaged; all M snapshots are members.

A cycle is the run's epochs / M, rounded, and at least one epoch: best give a multiple of M epochs. Member m has had
m / M of the training that a deep ensemble's members have.

Cost: E + M (B + D) per image; one training.
Uncertainty: standard deviation of the members' scores, the spread of the outputs that the paper averages.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from rdbench.protocol import Batch, FitContext, NormalImages, Prediction
from rdbench.rd.anomaly import anomaly_map
from rdbench.uq.checkpoints import load_members, save_members
from rdbench.uq.sampling import predict_from_samples
from rdbench.uq.seeds import member_seeds


@dataclass
class SnapshotEnsemble:
    members: int = 5
    "cycles of the learning rate, each of which ends in a snapshot"

    def __post_init__(self) -> None:
        if self.members < 1:
            raise ValueError(f"members must be at least 1, got {self.members}")

    def fit(self, train: NormalImages, context: FitContext) -> None:
        student = context.new_student(context.seed)
        self.students = []
        for seed in member_seeds(context.seed, self.members):
            context.train(student, train, seed, epochs=1 / self.members, rate=half_cosine)
            self.students.append(deepcopy(student))

    def predict(self, batch: Batch) -> Prediction:
        size = batch.images.shape[-2:]
        return predict_from_samples(
            anomaly_map(batch.features, student(batch.features), size) for student in self.students
        )

    def save(self, directory: Path) -> None:
        save_members(self.students, directory)

    def load(self, directory: Path, context: FitContext) -> None:
        self.students = load_members(self.members, directory, context)


def half_cosine(done: float) -> float:
    """Share of a cycle that is done, in [0, 1) -> factor on the learning rate, from 1 down to 0."""
    return (1 + math.cos(math.pi * done)) / 2

"""The deterministic student; how far an image's embedding lies from its k-th nearest training image's.

Sun, Ming, Zhu and Li, "Out-of-Distribution Detection with Deep Nearest Neighbors", ICML 2022. Adapted: RD's own
one-class embedding, averaged over positions, in place of a classifier's features, at unit length as there; all training
images are kept. The uncertainty is the distance itself, in [0, 2]: where no training image is near, neither decision is
backed by data. k is 5, not the paper's 50 and more for 50,000 images: here some categories have 60 in all, and the
nearest alone would hang on one image. It has no map: a position of the embedding (stride 32) sees most of the image.
Anomaly map and score are the deterministic ones. E + B + D per image, 1 training, which is the deterministic one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from rdbench.errors import InputError
from rdbench.protocol import Batch, FitContext, NormalImages, Prediction
from rdbench.rd.anomaly import anomaly_score
from rdbench.uq.checkpoints import load_student, load_tensors, save_student, save_tensors
from rdbench.uq.embeddings import embedding_and_map, embeddings


@dataclass
class KNN:
    k: int = 5
    "which nearest training image's distance is taken"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k}")

    def fit(self, train: NormalImages, context: FitContext) -> None:
        if len(train) < self.k:
            raise InputError(f"k is {self.k}, but there are only {len(train)} training images; take a smaller k")
        self.student = context.deterministic()
        self.embeddings = F.normalize(embeddings(self.student, train))

    def predict(self, batch: Batch) -> Prediction:
        embedding, maps = embedding_and_map(self.student, batch)
        # Differences, not the faster |a|^2 + |b|^2 - 2ab, which has no digits left for near neighbours.
        distances = torch.cdist(F.normalize(embedding), self.embeddings, compute_mode="donot_use_mm_for_euclid_dist")
        return Prediction(maps, anomaly_score(maps), distances.kthvalue(self.k).values)

    def save(self, directory: Path) -> None:
        save_student(self.student, directory / "student.safetensors")
        save_tensors({"embeddings": self.embeddings}, directory / "embeddings.safetensors")

    def load(self, directory: Path, context: FitContext) -> None:
        self.student = load_student(directory / "student.safetensors", context)
        self.embeddings = load_tensors(directory / "embeddings.safetensors", context)["embeddings"]

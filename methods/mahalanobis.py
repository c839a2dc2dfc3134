"""The deterministic student; how far an image's embedding lies from those of the training images.

Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", NeurIPS
2018; covariance by Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", 2004.
Adapted: one class, the normal one; RD's own one-class embedding, averaged over positions, in place of a classifier's
features. Shrinkage is needed: there are 256 (embedded teacher) to 2048 dimensions and some hundred images, and its
strength follows from the data. The uncertainty is the distance itself: far from all that was trained on, neither
decision is backed by data. It has no map: a position of the embedding (stride 32) sees most of the image.
Anomaly map and score are the deterministic ones. E + B + D per image, 1 training, which is the deterministic one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.covariance import LedoitWolf

from rdbench.errors import InputError
from rdbench.protocol import Batch, FitContext, NormalImages, Prediction
from rdbench.rd.anomaly import anomaly_score
from rdbench.uq.checkpoints import load_student, load_tensors, save_student, save_tensors
from rdbench.uq.embeddings import embedding_and_map, embeddings


@dataclass
class Mahalanobis:
    def fit(self, train: NormalImages, context: FitContext) -> None:
        self.student = context.deterministic()
        gaussian = LedoitWolf().fit(embeddings(self.student, train).double().cpu().numpy())
        variances, axes = np.linalg.eigh(gaussian.covariance_)
        if not variances[-1] > 0:
            raise InputError("the training images' embeddings are all the same: images that differ are needed")
        # Units that are dead on every image may leave a variance of 0, or of a rounding error below it.
        whitening = axes / np.sqrt(np.maximum(variances, 1e-12 * variances[-1]))
        self.mean, self.whitening = (torch.from_numpy(a).to(context.device) for a in (gaussian.location_, whitening))

    def predict(self, batch: Batch) -> Prediction:
        embedding, maps = embedding_and_map(self.student, batch)
        # In float64: a distance is a sum over directions whose variances differ by many orders of magnitude.
        distance = torch.linalg.vector_norm((embedding.double() - self.mean) @ self.whitening, dim=1)
        return Prediction(maps, anomaly_score(maps), distance.float())

    def save(self, directory: Path) -> None:
        save_student(self.student, directory / "student.safetensors")
        save_tensors({"mean": self.mean, "whitening": self.whitening}, directory / "gaussian.safetensors")

    def load(self, directory: Path, context: FitContext) -> None:
        self.student = load_student(directory / "student.safetensors", context)
        gaussian = load_tensors(directory / "gaussian.safetensors", context)
        self.mean, self.whitening = gaussian["mean"], gaussian["whitening"]

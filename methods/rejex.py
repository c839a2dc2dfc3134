"""The deterministic student; how stable its decision is if the calibration images were drawn again.

ExCeeD's stability (Perini, Vercruyssen and Davis, "Quantifying the Confidence of Anomaly Detectors in Their
Example-Wise Predictions", ECML PKDD 2020) with RejEx's rejection (Perini and Davis, "Unsupervised Anomaly Detection
with Rejection", NeurIPS 2023): an image is rejected if its stability is at most 1 - 2 exp(-T). The formula is in
rdbench.uq.stability.

    uncertainty = T / (log 2 - log(1 - stability))

It ranks images as 1 - stability does, without running out of digits where that is nearly 0, and is at least 1 exactly
where RejEx rejects. T scales it and changes no ranking. Stability needs many calibration images: with 18 or fewer
(alpha 0.10) every anomalous decision is less stable than every normal one, whatever its score; with 48, T can be at
most 4.1 if any anomalous decision is to be kept. The default is 4.
Adapted: both papers count the detector's training scores. A network's own training images score too low, so the
calibration scores stand in. They are normal, so alpha, the share of them above the threshold, takes the place of the
contamination, and the threshold's rank is the conformal one: rank n - floor((n + 1) alpha) + 1 in place of
n - floor(n alpha) + 1. The stability is a step function of the score: all images above every calibration score tie.
E + B + D per image, 1 training, which is the deterministic one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from rdbench.metrics.detection import conformal_threshold
from rdbench.protocol import Batch, FitContext, NormalImages, Prediction
from rdbench.rd.anomaly import anomaly_score
from rdbench.uq.calibration import image_scores, student_map
from rdbench.uq.checkpoints import load_student, load_tensors, save_student, save_tensors
from rdbench.uq.stability import log_instability


@dataclass
class RejEx:
    alpha: float = 0.10
    "share of normal images above the threshold, as the benchmark's --alpha"
    tolerance: float = 4.0
    "RejEx's T: rejected, uncertainty >= 1, is what is at most 1 - 2 exp(-T) stable"

    predicting = ("alpha", "tolerance")

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must be in (0, 1), got {self.alpha:g}")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance must be above 0, got {self.tolerance:g}")

    def fit(self, train: NormalImages, context: FitContext) -> None:
        self.student = context.deterministic()
        self.calibration = image_scores(self.student, context.calibration)

    def predict(self, batch: Batch) -> Prediction:
        maps = student_map(self.student, batch)
        scores = anomaly_score(maps)
        below = torch.searchsorted(self.calibration, scores, right=True)
        return Prediction(maps, scores, self.uncertainties[below])

    def save(self, directory: Path) -> None:
        save_student(self.student, directory / "student.safetensors")
        save_tensors({"scores": self.calibration}, directory / "calibration.safetensors")

    def load(self, directory: Path, context: FitContext) -> None:
        self.student = load_student(directory / "student.safetensors", context)
        self.calibration = load_tensors(directory / "calibration.safetensors", context)["scores"]
        rank = conformal_threshold(self.calibration.cpu().numpy(), self.alpha).rank
        unstable = torch.from_numpy(log_instability(len(self.calibration), rank))
        uncertainties = self.tolerance / (torch.log(torch.tensor(2.0)) - unstable)
        self.uncertainties = uncertainties.float().to(context.device)

"""Reverse Distillation as released, with the closeness of its score to the threshold as the uncertainty.

The baseline: Deng and Li, "Anomaly Detection via Reverse Distillation from One-Class Embedding", CVPR 2022. RD gives no
uncertainty. What comes free with any detector is that a score near the threshold makes a doubtful decision, so

    uncertainty = 1 / (1 + |score - threshold| / scale)

with the conformal threshold (alpha = 0.10) of the calibration scores, and their standard deviation as the scale. It
ranks images as the benchmark's margin control -|score - threshold| does, and never runs out of digits far from the
threshold, as an exponential would.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rdbench.metrics.detection import conformal_threshold
from rdbench.protocol import Batch, FitContext, NormalImages, Prediction
from rdbench.rd.anomaly import anomaly_score
from rdbench.uq.calibration import image_scores, student_map
from rdbench.uq.checkpoints import load_student, save_student


@dataclass
class Deterministic:
    def fit(self, train: NormalImages, context: FitContext) -> None:
        self.student = context.deterministic()
        scores = image_scores(self.student, context.calibration).double().cpu()
        self.threshold = conformal_threshold(scores.numpy(), alpha=0.10).value
        self.scale = float(scores.std(correction=0)) or 1.0  # equal scores: any scale ranks alike

    def predict(self, batch: Batch) -> Prediction:
        maps = student_map(self.student, batch)
        scores = anomaly_score(maps)
        return Prediction(maps, scores, 1 / (1 + (scores - self.threshold).abs() / self.scale))

    def save(self, directory: Path) -> None:
        save_student(self.student, directory / "student.safetensors")
        (directory / "threshold.json").write_text(json.dumps([self.threshold, self.scale]))

    def load(self, directory: Path, context: FitContext) -> None:
        self.student = load_student(directory / "student.safetensors", context)
        self.threshold, self.scale = json.loads((directory / "threshold.json").read_text())

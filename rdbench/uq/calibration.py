"""Scores of the calibration images, to which a method may compare those of a test image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rdbench.protocol import Batch, NormalImages
from rdbench.rd.anomaly import anomaly_map, anomaly_score


def student_map(student: nn.Module, batch: Batch) -> Tensor:
    """The anomaly map (B, H, W) of plain Reverse Distillation."""
    return anomaly_map(batch.features, student(batch.features), batch.images.shape[-2:])


@torch.no_grad()
def image_scores(student: nn.Module, images: NormalImages) -> Tensor:
    """(N,) float32: the anomaly score of each image under `student`, ascending."""
    scores = [anomaly_score(student_map(student, batch)) for batch in images.batches(16)]
    return torch.cat(scores).sort().values

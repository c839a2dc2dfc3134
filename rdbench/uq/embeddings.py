"""An image's place in the one-class embedding of Reverse Distillation, which only normal images should fill."""

from __future__ import annotations

import torch
from torch import Tensor

from rdbench.protocol import Batch, NormalImages
from rdbench.rd.anomaly import anomaly_map
from rdbench.rd.student import Student


def embedding_and_map(student: Student, batch: Batch) -> tuple[Tensor, Tensor]:
    """(B, 2 C_3) float32, the bottleneck's output averaged over positions, and the plain anomaly map (B, H, W).

    Both from one pass: the decoder reads the same bottleneck's output.
    """
    embedding = student.bottleneck(batch.features)
    maps = anomaly_map(batch.features, student.decoder(embedding), batch.images.shape[-2:])
    return _pooled(embedding), maps


@torch.no_grad()
def embeddings(student: Student, images: NormalImages) -> Tensor:
    """(N, 2 C_3) float32: the pooled embedding of each image."""
    return torch.cat([_pooled(student.bottleneck(batch.features)) for batch in images.batches(16)])


def _pooled(embedding: Tensor) -> Tensor:
    return embedding.float().mean(dim=(2, 3))

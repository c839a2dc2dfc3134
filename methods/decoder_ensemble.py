"""One bottleneck and several decoders trained on its embedding; they disagree where unsure.

Lee et al., "Why M Heads are Better than One: Training a Diverse Ensemble of Deep Networks", 2015: an ensemble of heads
on a shared trunk. Adapted: the trunk is not trained with all heads but is the deterministic student's bottleneck,
frozen, its batch norm too; each further decoder is trained by itself, with RD's loss, from a seed of its own. What the
bottleneck does not pass on, no decoder can disagree about.

Cost: E + B + M D per image; one training of a student and M - 1 of a decoder, which run the bottleneck forward alone.
Uncertainty: standard deviation of the members' scores, the spread of a deep ensemble's outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rdbench.protocol import Batch, FitContext, NormalImages, Prediction
from rdbench.rd.anomaly import anomaly_map
from rdbench.rd.student import Decoder, OneClassBottleneck, Pyramid
from rdbench.uq.checkpoints import load_network, load_student, save_student
from rdbench.uq.sampling import predict_from_samples
from rdbench.uq.seeds import member_seeds


@dataclass
class DecoderEnsemble:
    members: int = 5
    "decoders, each from a seed of its own; the first is the deterministic student's"

    def __post_init__(self) -> None:
        if self.members < 1:
            raise ValueError(f"members must be at least 1, got {self.members}")

    def fit(self, train: NormalImages, context: FitContext) -> None:
        self.student = context.deterministic()
        self.further: list[Decoder] = []
        for seed in member_seeds(context.seed, self.members)[1:]:
            decoder = context.new_student(seed).decoder
            context.train(_OnFrozen(self.student.bottleneck, decoder), train, seed)
            self.further.append(decoder)

    def predict(self, batch: Batch) -> Prediction:
        size = batch.images.shape[-2:]
        embedding = self.student.bottleneck(batch.features)
        decoders = [self.student.decoder, *self.further]
        return predict_from_samples(anomaly_map(batch.features, decoder(embedding), size) for decoder in decoders)

    def save(self, directory: Path) -> None:
        save_student(self.student, directory / "student.safetensors")
        for index, decoder in enumerate(self.further, 1):
            save_student(decoder, directory / f"decoder_{index}.safetensors")

    def load(self, directory: Path, context: FitContext) -> None:
        self.student = load_student(directory / "student.safetensors", context)
        with torch.device("meta"):
            self.further = [Decoder(context.teacher.backbone) for _ in range(1, self.members)]
        for index, decoder in enumerate(self.further, 1):
            load_network(decoder, directory / f"decoder_{index}.safetensors", context)


class _OnFrozen(nn.Module):
    """A decoder in training on a bottleneck that stays as it is."""

    def __init__(self, bottleneck: OneClassBottleneck, decoder: Decoder) -> None:
        super().__init__()
        self.bottleneck = bottleneck.requires_grad_(False)
        self.decoder = decoder

    def train(self, mode: bool = True) -> _OnFrozen:
        super().train(mode)
        self.bottleneck.eval()  # else its batch norm would move
        return self

    def forward(self, features: Sequence[Tensor]) -> Pyramid:
        pyramid: Pyramid = self.decoder(self.bottleneck(features))
        return pyramid

"""One student trained with dropout; samples of it with dropout still on disagree where it is unsure.

Gal and Ghahramani, "Dropout as a Bayesian Approximation: Representing Model Uncertainty in Deep Learning", ICML 2016.
Adapted: RD has no dropout layer, so whole channels are dropped where `placement` says (see rdbench.uq.dropout) and the
student is trained with it. When predicting, dropout is on and batch norm in eval mode; a sample is one network, the
same for all images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rdbench.protocol import Batch, FitContext, NormalImages, Prediction
from rdbench.rd.anomaly import anomaly_map
from rdbench.uq.checkpoints import load_student, save_student
from rdbench.uq.dropout import ChannelDropout
from rdbench.uq.sampling import predict_from_samples
from rdbench.uq.seeds import derive_seed


@dataclass
class MCDropout:
    placement: Literal["features", "bottleneck", "embedding", "decoder", "all"] = "decoder"
    "where channels are dropped; after the bottleneck (embedding, decoder) a sample costs a decoder pass alone"
    p: float = 0.2
    "probability that a channel is dropped"
    samples: int = 20
    "networks sampled per prediction"

    predicting = ("samples",)

    def __post_init__(self) -> None:
        if not 0 <= self.p < 1:
            raise ValueError(f"p must be in [0, 1), got {self.p:g}")
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")

    def fit(self, train: NormalImages, context: FitContext) -> None:
        self.student = context.new_student(context.seed)
        ChannelDropout(self.student, self.placement, self.p)
        context.train(self.student, train, context.seed)

    def predict(self, batch: Batch) -> Prediction:
        pyramids = self.dropout.samples(batch.features, self.seeds)
        size = batch.images.shape[-2:]
        return predict_from_samples(anomaly_map(batch.features, pyramid, size) for pyramid in pyramids)

    def save(self, directory: Path) -> None:
        save_student(self.student, directory / "student.safetensors")

    def load(self, directory: Path, context: FitContext) -> None:
        self.student = load_student(directory / "student.safetensors", context)
        self.dropout = ChannelDropout(self.student, self.placement, self.p)
        self.seeds = [derive_seed(context.seed, index) for index in range(self.samples)]

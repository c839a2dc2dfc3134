"""One student trained with dropout; samples of it with dropout still on disagree where it is unsure.

Gal and Ghahramani, "Dropout as a Bayesian Approximation: Representing Model Uncertainty in Deep Learning", ICML 2016;
blocks: Ghiasi, Lin and Le, "DropBlock", NeurIPS 2018; learned p: Gal, Hron and Kendall, "Concrete Dropout", NeurIPS
2017. Adapted: RD has no dropout layer, so features are dropped where `placement` says (see rdbench.uq.dropout, also for
the scale of concrete dropout's regulariser) and the student is trained with it. When predicting, dropout is on and
batch norm in eval mode; a sample is one network, the same for all images. DropBlock's p is constant, not raised during
training, and concrete dropout's samples are drawn from the Bernoulli distribution that was relaxed for training.

Cost: E + B + S D for the placements embedding and decoder, E + S (B + D) for the others; 1 training. Readout: standard
deviation of the samples' scores, the spread of the posterior predictive that the paper takes for the model's
uncertainty.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rdbench.protocol import Batch, FitContext, NormalImages, Prediction
from rdbench.rd.anomaly import anomaly_map
from rdbench.uq.checkpoints import load_student, load_tensors, save_student, save_tensors
from rdbench.uq.dropout import Dropout
from rdbench.uq.sampling import predict_from_samples
from rdbench.uq.seeds import derive_seed


@dataclass
class MCDropout:
    placement: Literal["features", "bottleneck", "embedding", "decoder", "all"] = "decoder"
    "where features are dropped; after the bottleneck (embedding, decoder) a sample costs a decoder pass alone"
    kind: Literal["element", "channel", "block"] = "channel"
    "what is dropped at once: single elements, whole channels, or squares of block_size positions in a channel"
    p: float = 0.2
    "probability of being dropped; with concrete, where it starts"
    concrete: bool = False
    "learn p, one for each place"
    block_size: int = 7
    "side of a block, in positions; kind block alone"
    samples: int = 20
    "networks sampled per prediction"

    predicting = ("samples",)

    def __post_init__(self) -> None:
        if not 0 <= self.p < 1:
            raise ValueError(f"p must be in [0, 1), got {self.p:g}")
        if self.concrete and self.p == 0:
            raise ValueError("p must be above 0 where concrete starts from it")
        for name in ("block_size", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def fit(self, train: NormalImages, context: FitContext) -> None:
        student = context.new_student(context.seed)
        self.dropout = Dropout(student, self.placement, self.p, self.kind, self.block_size, self.concrete)
        loss = self.dropout.concrete_loss(len(train)) if self.concrete else None
        context.train(self.dropout, train, context.seed, loss=loss)

    def predict(self, batch: Batch) -> Prediction:
        pyramids = self.dropout.samples(batch.features, self.seeds)
        size = batch.images.shape[-2:]
        return predict_from_samples(anomaly_map(batch.features, pyramid, size) for pyramid in pyramids)

    def save(self, directory: Path) -> None:
        save_student(self.dropout.student, directory / "student.safetensors")
        save_tensors({"p": self.dropout.rates()}, directory / "rates.safetensors")

    def load(self, directory: Path, context: FitContext) -> None:
        student = load_student(directory / "student.safetensors", context)
        rates = load_tensors(directory / "rates.safetensors", context)["p"].tolist()
        self.dropout = Dropout(student, self.placement, rates, self.kind, self.block_size)
        self.seeds = [derive_seed(context.seed, index) for index in range(self.samples)]

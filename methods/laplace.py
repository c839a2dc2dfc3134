"""The deterministic student under a Laplace posterior of the decoder's last weights; samples disagree where unsure.

Daxberger et al., "Laplace Redux: Effortless Bayesian Deep Learning", NeurIPS 2021, after MacKay, "A Practical Bayesian
Framework for Backpropagation Networks", Neural Computation 1992. The posterior is a Gaussian over the weights of three
convolutions, the last one before each scale's output: the second convolution of the last block of each decoder stage,
or the third where blocks have three. Its mean is the deterministic student's weights, its precision the diagonal of the
generalised Gauss-Newton matrix (here the Fisher information) on the training images plus a prior precision for each
convolution, which maximises the marginal likelihood of the training images.

Adapted: RD has no likelihood. The error model, under which RD's loss is one, is Gaussian on the features of a scale,
flattened and scaled to unit norm, with one variance for each scale, its likeliest on the training images
(rdbench.uq.laplace). It takes errors of neighbouring features for independent, which they are not, and so overstates
what the images tell. The diagonal is estimated by random signs, and sampled networks are run as they are, not
linearised.

Cost: E + B + S D; 1 training, the deterministic student's, and `draws` backward passes of the decoder for each training
image. Readout: standard deviation of the samples' scores, as the spread of the posterior predictive.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call

from rdbench.protocol import Batch, FitContext, NormalImages, Prediction
from rdbench.rd.anomaly import anomaly_map
from rdbench.uq.checkpoints import load_student, load_tensors, save_student, save_tensors
from rdbench.uq.laplace import (
    Weights,
    draw_weights,
    error_variances,
    fisher_diagonal,
    last_convolutions,
    posterior_deviation,
    prior_precision,
    unit_norm,
)
from rdbench.uq.sampling import predict_from_samples
from rdbench.uq.seeds import derive_seed


@dataclass
class Laplace:
    draws: int = 10
    "random signs for each training image in the estimate of the curvature"
    samples: int = 20
    "networks sampled per prediction"

    predicting = ("samples",)

    def __post_init__(self) -> None:
        for name in ("draws", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def fit(self, train: NormalImages, context: FitContext) -> None:
        self.student = context.deterministic()
        decoder = self.student.decoder
        with torch.no_grad():
            pairs = ((unit_norm(b.features), unit_norm(self.student(b.features))) for b in train.batches(16))
            variances = error_variances(pairs)
        mean = {name: decoder.get_parameter(name) for name in last_convolutions(decoder)}

        def outputs(weights: Weights, batch: Batch) -> list[Tensor]:
            return unit_norm(functional_call(decoder, dict(weights), (self.student.bottleneck(batch.features),)))

        fisher = fisher_diagonal(outputs, mean, train.batches(16), variances, self.draws, context.seed)
        self.deviation = {
            name: posterior_deviation(fisher[name], prior_precision(fisher[name], mean[name])) for name in mean
        }

    def predict(self, batch: Batch) -> Prediction:
        return predict_from_samples(self._maps(batch))

    def save(self, directory: Path) -> None:
        save_student(self.student, directory / "student.safetensors")
        save_tensors(self.deviation, directory / "deviation.safetensors")

    def load(self, directory: Path, context: FitContext) -> None:
        self.student = load_student(directory / "student.safetensors", context).requires_grad_(False)
        deviation = load_tensors(directory / "deviation.safetensors", context)
        mean = {name: self.student.decoder.get_parameter(name) for name in deviation}
        self.weights = [
            draw_weights(mean, deviation, derive_seed(context.seed, index)) for index in range(self.samples)
        ]

    def _maps(self, batch: Batch) -> Iterator[Tensor]:
        embedding = self.student.bottleneck(batch.features)
        for weights in self.weights:
            pyramid = functional_call(self.student.decoder, weights, (embedding,))
            yield anomaly_map(batch.features, pyramid, batch.images.shape[-2:])

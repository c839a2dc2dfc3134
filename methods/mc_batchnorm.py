"""The deterministic student with batch-norm statistics of random training batches; they disagree where it is unsure.

Teye, Azizpour and Smith, "Bayesian Uncertainty Estimation for Batch Normalized Deep Networks", ICML 2018. A sample's
statistics are those of a random batch of training images, as in the authors' code for regression; their code for
segmentation adds the test image to the batch. Adapted: the batches are drawn when fitting and kept, so a sample is one
network, the same for all images. With all training images as the batch there is one possible sample: the deterministic
student whose running averages are replaced by the training set's exact statistics.

Statistics need the training images, which only `fit` has: another number of samples is another fit.
Cost: E + S (B + D); 1 training, the deterministic student's, and S passes of `batch` training images. Readout: standard
deviation of the samples' scores, the spread of the posterior predictive that the paper takes for the model's
uncertainty.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call

from rdbench.errors import InputError
from rdbench.protocol import Batch, FitContext, NormalImages, Prediction
from rdbench.rd.anomaly import anomaly_map
from rdbench.uq.batchnorm import batch_statistics
from rdbench.uq.checkpoints import load_student, load_tensors, save_student, save_tensors
from rdbench.uq.sampling import predict_from_samples
from rdbench.uq.seeds import derive_seed


@dataclass
class MCBatchNorm:
    batch: int = 16
    "training images whose statistics make one sample; 16 is the batch that the released recipe trains with"
    samples: int = 20
    "networks sampled per prediction"

    def __post_init__(self) -> None:
        for name in ("batch", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def fit(self, train: NormalImages, context: FitContext) -> None:
        if self.batch > len(train):
            raise InputError(f"mc_batchnorm: batch {self.batch} is more than the {len(train)} training images")
        self.student = context.deterministic()
        with torch.no_grad():
            drawn = [self._statistics(train, derive_seed(context.seed, index)) for index in range(self.samples)]
        self.statistics = {name: torch.stack([each[name] for each in drawn]) for name in drawn[0]}

    def predict(self, batch: Batch) -> Prediction:
        return predict_from_samples(self._maps(batch))

    def save(self, directory: Path) -> None:
        save_student(self.student, directory / "student.safetensors")
        save_tensors(self.statistics, directory / "statistics.safetensors")

    def load(self, directory: Path, context: FitContext) -> None:
        self.student = load_student(directory / "student.safetensors", context)
        self.statistics = load_tensors(directory / "statistics.safetensors", context)

    def _statistics(self, train: NormalImages, seed: int) -> dict[str, Tensor]:
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        # Sorted, so that the same images in another order are the same sample, to the last bit.
        return batch_statistics(self.student, train.batch(order[: self.batch].sort().values).features)

    def _maps(self, batch: Batch) -> Iterator[Tensor]:
        for index in range(self.samples):
            statistics = {name: values[index] for name, values in self.statistics.items()}
            pyramid = functional_call(self.student, statistics, (batch.features,))
            yield anomaly_map(batch.features, pyramid, batch.images.shape[-2:])

"""The deterministic student on changed views of each image; its views disagree where it is unsure.

Wang et al., "Aleatoric uncertainty estimation with test-time augmentation for medical image segmentation with
convolutional neural networks", Neurocomputing 2019. Adapted: a fixed set of views instead of random ones; maps of
geometric views are mapped back, and a view does not count for pixels that it does not show or has at its border.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from rdbench.protocol import Batch, FitContext, NormalImages, Prediction
from rdbench.rd.anomaly import anomaly_map
from rdbench.uq.checkpoints import load_student, save_student
from rdbench.uq.sampling import predict_from_samples
from rdbench.uq.views import brightness, contrast, flip, rotation, shift


@dataclass
class TTA:
    flips: bool = True
    "the image mirrored left to right, and upside down"
    rotation: float = 5.0
    "degrees by which it is rotated, to either side; 0 for none"
    shift: float = 0.03
    "fraction of its sides by which it is shifted, to either side along both diagonals; 0 for none"
    brightness: float = 0.1
    "relative change of brightness, up and down; 0 for none"
    contrast: float = 0.1
    "relative change of contrast, up and down; 0 for none"

    def __post_init__(self) -> None:
        for name, limit in {"rotation": 45, "shift": 0.5, "brightness": 1, "contrast": 1}.items():
            if not 0 <= getattr(self, name) < limit:
                raise ValueError(f"{name} must be in [0, {limit:g}), got {getattr(self, name):g}")
        self.views = [flip(-1), flip(-2)] if self.flips else []
        if self.rotation:
            self.views += [rotation(self.rotation), rotation(-self.rotation)]
        if (s := self.shift) > 0:
            self.views += [shift(s, s), shift(-s, -s), shift(s, -s), shift(-s, s)]
        if self.brightness:
            self.views += [brightness(1 - self.brightness), brightness(1 + self.brightness)]
        if self.contrast:
            self.views += [contrast(1 - self.contrast), contrast(1 + self.contrast)]

    def fit(self, train: NormalImages, context: FitContext) -> None:
        self.student = context.deterministic()

    def predict(self, batch: Batch) -> Prediction:
        return predict_from_samples(self._maps(batch))

    def save(self, directory: Path) -> None:
        save_student(self.student, directory / "student.safetensors")

    def load(self, directory: Path, context: FitContext) -> None:
        self.student = load_student(directory / "student.safetensors", context)
        self.teacher = context.teacher

    def _maps(self, batch: Batch) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
        """The map of the image as it is, then of each view, mapped back and with the pixels that count."""
        size = batch.images.shape[-2:]
        yield anomaly_map(batch.features, self.student(batch.features), size)
        for view in self.views:
            features = self.teacher(view.transform(batch.images))
            yield view.restore(anomaly_map(features, self.student(features), size))

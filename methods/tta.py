"""The deterministic student on changed views of each image; its views disagree where it is unsure.

Wang et al., "Aleatoric uncertainty estimation with test-time augmentation for medical image segmentation with
convolutional neural networks", Neurocomputing 2019. Adapted: a fixed set of views instead of random ones; maps of
geometric views are mapped back, and a view does not count for pixels that it does not show or has at its border.
With V views, the image itself among them: V (E + B + D) per image, 1 training, which is the deterministic one.
Readout: standard deviation of the views' scores, since the paper takes the spread over augmentations (for a continuous
output, its variance) for the aleatoric uncertainty.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rdbench.protocol import Batch, FitContext, NormalImages, Prediction
from rdbench.uq.checkpoints import load_student, save_student
from rdbench.uq.sampling import predict_from_samples
from rdbench.uq.views import geometric_views, photometric_views, view_maps


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
        self.views = geometric_views(self.flips, self.rotation, self.shift)
        self.views += photometric_views(self.brightness, self.contrast)

    def fit(self, train: NormalImages, context: FitContext) -> None:
        self.student = context.deterministic()

    def predict(self, batch: Batch) -> Prediction:
        return predict_from_samples(view_maps(batch, self.teacher, self.student, self.views))

    def save(self, directory: Path) -> None:
        save_student(self.student, directory / "student.safetensors")

    def load(self, directory: Path, context: FitContext) -> None:
        self.student = load_student(directory / "student.safetensors", context)
        self.teacher = context.teacher

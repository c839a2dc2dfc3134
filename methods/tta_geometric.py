"""The deterministic student on mirrored, rotated and shifted views of each image.

The geometric half of `tta`, which see for reference and adaptations: it asks whether a score hangs on where in the
frame a part lies. With V views, the image itself among them: V (E + B + D) per image, 1 training, which is the
deterministic one. Readout: standard deviation of the views' scores, for the reason given there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rdbench.protocol import Batch, FitContext, NormalImages, Prediction
from rdbench.uq.checkpoints import load_student, save_student
from rdbench.uq.sampling import predict_from_samples
from rdbench.uq.views import geometric_views, view_maps


@dataclass
class GeometricTTA:
    flips: bool = True
    "the image mirrored left to right, and upside down"
    rotation: float = 5.0
    "degrees by which it is rotated, to either side; 0 for none"
    shift: float = 0.03
    "fraction of its sides by which it is shifted, to either side along both diagonals; 0 for none"

    def __post_init__(self) -> None:
        self.views = geometric_views(self.flips, self.rotation, self.shift)

    def fit(self, train: NormalImages, context: FitContext) -> None:
        self.student = context.deterministic()

    def predict(self, batch: Batch) -> Prediction:
        return predict_from_samples(view_maps(batch, self.teacher, self.student, self.views))

    def save(self, directory: Path) -> None:
        save_student(self.student, directory / "student.safetensors")

    def load(self, directory: Path, context: FitContext) -> None:
        self.student = load_student(directory / "student.safetensors", context)
        self.teacher = context.teacher

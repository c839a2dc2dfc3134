"""The deterministic student on darker, brighter, flatter and steeper views of each image.

The photometric half of `tta`, which see for reference and adaptations: it asks whether a score hangs on the light.
No map needs mapping back. With V views, the image itself among them: V (E + B + D) per image, 1 training, which is the
deterministic one. Readout: standard deviation of the views' scores, for the reason given there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rdbench.protocol import Batch, FitContext, NormalImages, Prediction
from rdbench.uq.checkpoints import load_student, save_student
from rdbench.uq.sampling import predict_from_samples
from rdbench.uq.views import photometric_views, view_maps


@dataclass
class PhotometricTTA:
    brightness: float = 0.1
    "relative change of brightness, up and down; 0 for none"
    contrast: float = 0.1
    "relative change of contrast, up and down; 0 for none"

    def __post_init__(self) -> None:
        self.views = photometric_views(self.brightness, self.contrast)

    def fit(self, train: NormalImages, context: FitContext) -> None:
        self.student = context.deterministic()

    def predict(self, batch: Batch) -> Prediction:
        return predict_from_samples(view_maps(batch, self.teacher, self.student, self.views))

    def save(self, directory: Path) -> None:
        save_student(self.student, directory / "student.safetensors")

    def load(self, directory: Path, context: FitContext) -> None:
        self.student = load_student(directory / "student.safetensors", context)
        self.teacher = context.teacher

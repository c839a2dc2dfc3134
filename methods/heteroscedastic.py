"""The deterministic student with heads that predict its error on normal images: the noise that is in the data.

The aleatoric one: Kendall and Gal, "What Uncertainties Do We Need in Bayesian Deep Learning for Computer Vision?",
NeurIPS 2017. Adapted: a Gaussian on features at unit length makes the cosine error e half a squared distance, so the
heads minimise exp(-l) e + l with l the log mean error (derived in rdbench.uq.noise); they read the decoder's features
at each scale and are trained after the student, which stays as it is, so that map and score equal the deterministic
ones. The uncertainty map is the anomaly map that the heads expect of a normal image, made from exp(l) as the anomaly
map is from e; for the exponential law of the loss it is also its standard deviation where errors go together. The
uncertainty of an image is its value where the anomaly map has its maximum: there the score comes from. The heads
learn from the training images, which the student was fitted to: where its errors are smaller there than on others,
levels are too low, by a factor that changes no ranking if it is the same everywhere.
E + B + D per image; 1 training, the deterministic one, and as many epochs for the heads, without a backward pass
through the student.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from rdbench.protocol import Batch, FitContext, NormalImages, Prediction
from rdbench.rd.anomaly import anomaly_map, anomaly_score, enlarge_and_smooth
from rdbench.uq.checkpoints import load_network, load_student, save_student
from rdbench.uq.noise import NoiseHeads, WithNoiseHeads, mean_errors, noise_loss


@dataclass
class Heteroscedastic:
    def fit(self, train: NormalImages, context: FitContext) -> None:
        self.student = context.deterministic()
        self.heads = NoiseHeads(context.teacher.backbone.channels).to(context.device)
        self.heads.start.copy_(mean_errors(self.student, train).log())
        context.train(WithNoiseHeads(self.student, self.heads), train, context.seed, loss=noise_loss)

    def predict(self, batch: Batch) -> Prediction:
        size = batch.images.shape[-2:]
        pyramid = self.student(batch.features)
        maps = anomaly_map(batch.features, pyramid, size)
        noise = enlarge_and_smooth([log.exp() for log in self.heads(pyramid)], size).sum(dim=0)
        return Prediction(maps, anomaly_score(maps), _at_maximum(noise, maps), noise)

    def save(self, directory: Path) -> None:
        save_student(self.student, directory / "student.safetensors")
        save_student(self.heads, directory / "heads.safetensors")

    def load(self, directory: Path, context: FitContext) -> None:
        self.student = load_student(directory / "student.safetensors", context)
        heads = NoiseHeads(context.teacher.backbone.channels)
        self.heads = load_network(heads, directory / "heads.safetensors", context)


def _at_maximum(values: Tensor, maps: Tensor) -> Tensor:
    """Each map's value where the anomaly map (B, H, W) has its maximum: (B,)."""
    return values.flatten(1).gather(1, maps.flatten(1).argmax(dim=1, keepdim=True))[:, 0]

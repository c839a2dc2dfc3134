"""Heads that predict from a student's features how large its cosine error is there on normal images.

Nix and Weigend, "Estimating the mean and variance of the target probability distribution", 1994; Kendall and Gal, "What
Uncertainties Do We Need in Bayesian Deep Learning for Computer Vision?", NeurIPS 2017.

At one position let t and s be teacher's and student's features at unit length, in d dimensions. Then the cosine error
is half a squared distance, e = 1 - t.s = |t - s|^2 / 2. If t is s plus Gaussian noise of variance v in every dimension,
the negative log likelihood is, but for a constant,

    e / v + (d / 2) log v = (d / 2) (exp(-l) e + l) + constant,    l = log(v d / 2)

and that is least where exp(l) is the mean of e. The same loss follows from an exponential law of e with mean exp(l), so
l is both, the log variance up to a constant and the log mean error; mean and standard deviation of that law are one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdbench.protocol import NormalImages
from rdbench.rd.anomaly import scale_maps

Pyramid = tuple[Tensor, ...]


class NoiseHeads(nn.Module):
    """One 1x1 convolution per scale of a student that stays as it is: student's features -> log mean error.

    It reads the features' direction alone, as the cosine does, and starts at the log of the mean error over all
    images and positions, with which it would be a model of equal noise everywhere.
    """

    start: Tensor

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, kernel_size=1) for width in channels)
        for head in self.heads.parameters():
            nn.init.zeros_(head)
        self.register_buffer("start", torch.zeros(len(channels)))

    def forward(self, student: Pyramid) -> Pyramid:
        """Pyramid of (B, C_i, h_i, w_i) -> log mean error (B, h_i, w_i) float32 per scale."""
        directions = (F.normalize(scale.float()) for scale in student)
        with torch.autocast(self.start.device.type, enabled=False):  # bf16 would tie positions
            return tuple(
                head(direction)[:, 0] + start
                for head, direction, start in zip(self.heads, directions, self.start, strict=True)
            )


class WithNoiseHeads(nn.Module):
    """A frozen student with heads, for training them: the student stays in eval mode and gets no gradient."""

    def __init__(self, student: nn.Module, heads: NoiseHeads) -> None:
        super().__init__()
        self.student, self.heads = student, heads

    def train(self, mode: bool = True) -> WithNoiseHeads:
        super().train(mode)
        self.student.eval()
        return self

    def forward(self, features: Pyramid) -> tuple[Pyramid, Pyramid]:
        """Teacher's pyramid -> student's pyramid, log mean errors."""
        with torch.no_grad():
            student = self.student(features)
        return student, self.heads(student)


def noise_loss(teacher: Pyramid, output: tuple[Pyramid, Pyramid]) -> Tensor:
    """exp(-l) e + l, mean over images and positions, summed over scales: a scalar."""
    student, logs = output
    errors = scale_maps(teacher, student)
    return torch.stack([((-log).exp() * e + log).mean() for e, log in zip(errors, logs, strict=True)]).sum()


@torch.no_grad()
def mean_errors(student: nn.Module, images: NormalImages) -> Tensor:
    """(scales,): the mean cosine error over all images and positions, above 0."""
    sums = [
        len(batch.features[0]) * torch.stack([e.mean() for e in scale_maps(batch.features, student(batch.features))])
        for batch in images.batches(16)
    ]
    return (torch.stack(sums).sum(dim=0) / len(images)).clamp_min(1e-8)

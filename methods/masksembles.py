"""One student with a few fixed masks over its channels; the networks that the masks leave disagree where unsure.

Durasov et al., "Masksembles for Uncertainty Estimation", CVPR 2021. Between a deep ensemble (masks that overlap little)
and dropout (very many masks): M masks are drawn before training and kept. Each keeps the same number of channels;
`scale` says how little they overlap. As in the paper, each image of a training batch goes under one mask, and what is
kept is not scaled up: training and prediction use the same networks.

Adapted: RD has no dropout layer to replace, so masks stand where mc_dropout's `decoder` and `bottleneck` placements
drop channels, before the second convolution of each residual block. The masks are drawn from the seed and saved; the
library's draw from no seed. They need 10 channels at least; every backbone has more there.

Cost: E + B + M D per image, or E + M (B + D) with masks in the bottleneck; one training.
Uncertainty: standard deviation of the members' scores, the paper's choice where the output is a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from rdbench.errors import InputError
from rdbench.protocol import Batch, FitContext, NormalImages, Prediction
from rdbench.rd.anomaly import anomaly_map
from rdbench.rd.student import Student
from rdbench.uq.checkpoints import load_network, save_student
from rdbench.uq.sampling import predict_from_samples

DRAWS = 10_000


@dataclass
class Masksembles:
    members: int = 4
    "masks"
    scale: float = 2.0
    "from 1, every mask keeps every channel, to 6, they share few"
    placement: Literal["bottleneck", "decoder", "all"] = "decoder"
    "where channels are masked; in the decoder alone, a member costs a decoder pass alone"

    def __post_init__(self) -> None:
        if self.members < 1:
            raise ValueError(f"members must be at least 1, got {self.members}")
        if not 1 <= self.scale <= 6:
            raise ValueError(f"scale must be in [1, 6], got {self.scale:g}")

    def fit(self, train: NormalImages, context: FitContext) -> None:
        self._place_masks(context.new_student(context.seed))
        rng = np.random.default_rng(context.seed)
        for place in self.places:
            place.masks = torch.from_numpy(draw_masks(place.masks.shape[1], self.members, self.scale, rng))
        context.train(self.student, train, context.seed)

    def predict(self, batch: Batch) -> Prediction:
        return predict_from_samples(self._maps(batch))

    def save(self, directory: Path) -> None:
        save_student(self.student, directory / "student.safetensors")

    def load(self, directory: Path, context: FitContext) -> None:
        with torch.device("meta"):
            self._place_masks(Student(context.teacher.backbone))
        load_network(self.student, directory / "student.safetensors", context)

    def _place_masks(self, student: Student) -> None:
        self.student, self.places = student, []
        part = student if self.placement == "all" else getattr(student, self.placement)
        for block in list(part.modules()):
            if isinstance(block, BasicBlock | Bottleneck):
                self.places.append(ChannelMasks(self.members, block.conv2.in_channels))
                block.conv2 = nn.Sequential(self.places[-1], block.conv2)

    def _maps(self, batch: Batch) -> Iterator[Tensor]:
        embedding = self.student.bottleneck(batch.features) if self.placement == "decoder" else None
        for member in range(self.members):
            for place in self.places:
                place.member = member
            own = self.student.bottleneck(batch.features) if embedding is None else embedding
            yield anomaly_map(batch.features, self.student.decoder(own), batch.images.shape[-2:])


class ChannelMasks(nn.Module):
    """Switches channels off: in training by another mask for each image of the batch, else by that of one member."""

    masks: Tensor
    """(M, C) bool, True for channels that are kept."""

    def __init__(self, members: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("masks", torch.ones(members, channels, dtype=torch.bool))
        self.member = 0

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        images = torch.arange(len(x), device=x.device)
        chosen = self.masks[images % len(self.masks)] if self.training else self.masks[self.member]
        return x * chosen.to(x).view(-1, x.shape[1], 1, 1)


def draw_masks(channels: int, members: int, scale: float, rng: np.random.Generator) -> np.ndarray:
    """(M, C) bool: masks with equally many ones, drawn at random from `scale` times as many positions.

    Positions that no mask keeps are dropped. As many positions are taken as leave `channels` of them on average (the
    paper's formula, solved for the number of ones), at least `channels`, and drawn again until that many are left.
    Raises InputError if that does not come about in `DRAWS` draws.
    """
    ones = round(channels / (scale * (1 - (1 - 1 / scale) ** members)))
    positions = max(round(ones * scale), channels)
    for _ in range(DRAWS):
        order = rng.permuted(np.tile(np.arange(positions), (members, 1)), axis=1)
        masks = order < ones
        if (kept := masks.any(axis=0)).sum() == channels:
            return np.asarray(masks[:, kept])
    raise InputError(
        f"masksembles: no {members} masks of scale {scale:g} over {channels} channels were found in {DRAWS} draws; "
        "change members or scale"
    )

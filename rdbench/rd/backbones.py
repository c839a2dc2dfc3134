"""The backbones of the frozen teacher, and what a student needs to know of them. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rdbench.errors import unknown

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""What is subtracted from, and then divides, an image's RGB values in [0, 1] before the teacher sees it."""


@dataclass(frozen=True)
class Backbone:
    """A residual network whose first three stages are the teacher."""

    name: str
    block: Literal["basic", "bottleneck"]
    blocks: tuple[int, int, int]
    """Residual blocks of the three stages."""
    base: int
    """Channels of the first stage before the block's expansion."""
    width_per_group: int
    """Inner width of a bottleneck block, 64 = that of a plain ResNet."""
    bottleneck_blocks: int
    """Residual blocks of the student's one-class embedding."""
    weights_file: str
    """File name of the pretrained weights, torchvision's or our own."""

    @property
    def expansion(self) -> int:
        """Channels that a block puts out, in units of its planes."""
        return 1 if self.block == "basic" else 4

    @property
    def channels(self) -> tuple[int, int, int]:
        """Channels of the pyramid at strides 4, 8 and 16."""
        first = self.base * self.expansion
        return first, 2 * first, 4 * first


BACKBONES: dict[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        Backbone("embedded", "basic", (2, 2, 2), 32, 64, 2, "embedded.safetensors"),
        Backbone("resnet18", "basic", (2, 2, 2), 64, 64, 2, "resnet18-f37072fd.pth"),
        Backbone("resnet34", "basic", (3, 4, 6), 64, 64, 3, "resnet34-b627a593.pth"),
        Backbone("resnet50", "bottleneck", (3, 4, 6), 64, 64, 3, "resnet50-0676ba61.pth"),
        Backbone("wide_resnet50_2", "bottleneck", (3, 4, 6), 64, 128, 3, "wide_resnet50_2-95faca4d.pth"),
    )
}


def get_backbone(name: str) -> Backbone:
    """The backbone called `name`; a misspelt one raises an InputError that offers the nearest names."""
    if name not in BACKBONES:
        raise unknown("backbone", name, BACKBONES)
    return BACKBONES[name]

"""The student of Reverse Distillation: the one-class bottleneck and the decoder that mirrors the teacher.

Structure and initialisation are those of the code released with Deng and Li, "Anomaly Detection via Reverse
Distillation from One-Class Embedding", CVPR 2022, without its layers that no output depends on.

Notation: B images of H x W pixels; C_i the teacher's channels at strides 4, 8, 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rdbench.rd.backbones import Backbone

if TYPE_CHECKING:
    from torchvision.models.resnet import BasicBlock
    from torchvision.models.resnet import Bottleneck as BottleneckBlock

Pyramid = tuple[Tensor, ...]


class OneClassBottleneck(nn.Module):
    """Fuses the teacher's pyramid to its coarsest scale and embeds it in a space that only normal images fill."""

    role = "bottleneck"

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        fine, middle, coarse = backbone.channels
        self.fuse_fine = nn.Sequential(*_halve(fine, middle), *_halve(middle, coarse))
        self.fuse_middle = nn.Sequential(*_halve(middle, coarse))
        self.embed = _down_stage(backbone)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Pyramid of (B, C_i, H / s, W / s), s = 4, 8, 16 -> embedding (B, 2 C_3, H / 32, W / 32)."""
        fine, middle, coarse = features
        fused = torch.cat([self.fuse_fine(fine), self.fuse_middle(middle), coarse], dim=1)
        embedding: Tensor = self.embed(fused)
        return embedding


class Decoder(nn.Module):
    """The teacher's stages in reverse: from the embedding back to the pyramid, coarse to fine."""

    role = "decoder"

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        _, middle, coarse = backbone.channels
        # The released decoder gives its coarse stage the first stage's number of blocks: it does not mirror them.
        self.coarse = _up_stage(backbone, 2 * coarse, 4 * backbone.base, backbone.blocks[0])
        self.middle = _up_stage(backbone, coarse, 2 * backbone.base, backbone.blocks[1])
        self.fine = _up_stage(backbone, middle, backbone.base, backbone.blocks[2])

    def forward(self, embedding: Tensor) -> Pyramid:
        """Embedding (B, 2 C_3, H / 32, W / 32) -> pyramid in the teacher's order: strides 4, 8, 16."""
        coarse = self.coarse(embedding)
        middle = self.middle(coarse)
        return self.fine(middle), middle, coarse


class Student(nn.Module):
    """The trained part: teacher's pyramid -> embedding -> the pyramid as normal images have it."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.bottleneck = OneClassBottleneck(backbone)
        self.decoder = Decoder(backbone)
        for module in self.modules():
            # Transposed convolutions keep torch's own initialisation, as in the released code.
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, features: Sequence[Tensor]) -> Pyramid:
        """Pyramid of (B, C_i, H / s, W / s), s = 4, 8, 16 -> pyramid of the same shapes."""
        pyramid: Pyramid = self.decoder(self.bottleneck(features))
        return pyramid


def build_student(backbone: Backbone, seed: int, device: torch.device | str = "cpu") -> Student:
    """An untrained student on `device`, in channels_last; the same for one `seed`, wherever it is.

    The global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        student = Student(backbone)
    student.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return student


def _halve(channels_in: int, channels_out: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=2, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)


def _residual_block(
    backbone: Backbone, channels_in: int, planes: int, stride: int = 1, shortcut: nn.Module | None = None
) -> BasicBlock | BottleneckBlock:
    from torchvision.models.resnet import BasicBlock
    from torchvision.models.resnet import Bottleneck as BottleneckBlock

    block = BasicBlock if backbone.block == "basic" else BottleneckBlock
    return block(channels_in, planes, stride, shortcut, base_width=backbone.width_per_group)


def _down_stage(backbone: Backbone) -> nn.Sequential:
    """The one-class embedding: three fused scales (B, 3 C_3, h, w) -> (B, 2 C_3, h / 2, w / 2)."""
    channels_in, planes = 3 * backbone.channels[2], 8 * backbone.base
    channels = planes * backbone.expansion
    shortcut = nn.Sequential(
        nn.Conv2d(channels_in, channels, kernel_size=1, stride=2, bias=False), nn.BatchNorm2d(channels)
    )
    first = _residual_block(backbone, channels_in, planes, stride=2, shortcut=shortcut)
    rest = (_residual_block(backbone, channels, planes) for _ in range(1, backbone.bottleneck_blocks))
    return nn.Sequential(first, *rest)


def _up_stage(backbone: Backbone, channels_in: int, planes: int, blocks: int) -> nn.Sequential:
    """A decoder stage (B, channels_in, h, w) -> (B, planes * expansion, 2 h, 2 w)."""
    channels = planes * backbone.expansion
    shortcut = nn.Sequential(_double(channels_in, channels), nn.BatchNorm2d(channels))
    first = _residual_block(backbone, channels_in, planes, shortcut=shortcut)
    # Where a ResNet stage strides, the decoder doubles the resolution by a transposed convolution.
    if backbone.block == "basic":
        first.conv1 = _double(channels_in, planes)
    else:
        width = first.conv2.in_channels
        first.conv2 = _double(width, width)
    rest = (_residual_block(backbone, channels, planes) for _ in range(1, blocks))
    return nn.Sequential(first, *rest)


def _double(channels_in: int, channels_out: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels_in, channels_out, kernel_size=2, stride=2, bias=False)

"""The teacher that ships with the package: a slim residual network distilled from ImageNet's ResNet18.

How it was trained, on what, and what it is worth beside ResNet18: docs/embedded_teacher.md.
"""

from __future__ import annotations

from importlib.resources import files

import safetensors.torch
from torch import Tensor, nn

WEIGHTS = files("rdbench.rd") / "embedded.safetensors"


class EmbeddedNet(nn.Module):
    """Half of ResNet18's width over three stages, and a stem of 5 x 5: less than a quarter of its FLOPs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 24, kernel_size=5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        self.fine = _stage(24, 32, stride=1)
        self.middle = _stage(32, 64, stride=2)
        self.coarse = _stage(64, 128, stride=2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised images (B, 3, H, W) -> (B, 32, H / 4, W / 4), (B, 64, H / 8, ...), (B, 128, H / 16, ...)."""
        fine = self.fine(self.stem(images))
        middle = self.middle(fine)
        return fine, middle, self.coarse(middle)

    @classmethod
    def load(cls) -> EmbeddedNet:
        """The packaged network, float32, frozen in eval mode, on the CPU."""
        network = cls()
        network.load_state_dict(safetensors.torch.load(WEIGHTS.read_bytes()))
        return network.eval().requires_grad_(False)


def _stage(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    from torchvision.models.resnet import BasicBlock

    shortcut = nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(channels_out)
    )
    return nn.Sequential(
        BasicBlock(channels_in, channels_out, stride, shortcut), BasicBlock(channels_out, channels_out)
    )

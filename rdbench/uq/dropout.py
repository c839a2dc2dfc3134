"""Dropout in a student, which has none of its own, and samples of the networks that it spans."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from rdbench.rd.student import Pyramid, Student

Placement = Literal["features", "bottleneck", "embedding", "decoder", "all"]


class ChannelDropout:
    """Dropout of whole channels, on what enters some modules of a student.

    Channels, not elements: a convolution uses one filter at every position, so dropping a channel is a Bernoulli draw
    over the network's weights, as Gal and Ghahramani's derivation asks for, and neighbouring elements are too alike for
    dropping them one by one to matter (Tompson et al., "Efficient Object Localization Using Convolutional Networks",
    CVPR 2015).

    Placements: "features", the teacher's features as they enter the bottleneck; "bottleneck" and "decoder", the second
    convolution of each of its residual blocks (the place of dropout in wide ResNets: Zagoruyko and Komodakis, BMVC
    2016), so that no channel of a reconstructed feature is ever dropped itself; "embedding", the embedding as it enters
    the decoder; "all", all of these.

    The student's parameters and their names stay as they are. While it trains, each image has its own channels dropped;
    in eval mode nothing is, except in :meth:`samples`.
    """

    def __init__(self, student: Student, placement: Placement, p: float) -> None:
        self.p = p
        self.student = student
        self.shared_embedding = placement in ("embedding", "decoder")
        self._generator: torch.Generator | None = None
        places: dict[str, list[nn.Module]] = {
            "features": [student.bottleneck],
            "bottleneck": _second_convolutions(student.bottleneck),
            "embedding": [student.decoder],
            "decoder": _second_convolutions(student.decoder),
        }
        for name, modules in places.items():
            if placement in (name, "all"):
                for module in modules:
                    module.register_forward_pre_hook(self._drop_input)

    def samples(self, features: Sequence[Tensor], seeds: Iterable[int]) -> Iterator[Pyramid]:
        """The student's pyramid for teacher `features` under one draw of dropped channels per seed.

        A draw is one network: all images see the same channels dropped, in whatever batch they come. What lies before
        the first dropout is computed once.
        """
        embedding = self.student.bottleneck(features) if self.shared_embedding else None
        for seed in seeds:
            self._generator = torch.Generator().manual_seed(seed)
            yield self.student.decoder(self.student.bottleneck(features) if embedding is None else embedding)
        self._generator = None

    def _drop_input(self, module: nn.Module, inputs: tuple[Tensor | Sequence[Tensor]]) -> tuple[Tensor | Pyramid]:
        (x,) = inputs
        if isinstance(x, Tensor):
            return (self._drop(x, module.training),)
        return (tuple(self._drop(scale, module.training) for scale in x),)

    def _drop(self, x: Tensor, training: bool) -> Tensor:
        if training:
            return F.dropout2d(x, self.p)
        if self._generator is None:
            return x
        # Drawn on the CPU, so that a sample is the same network on every device.
        kept = torch.empty(x.shape[1]).bernoulli_(1 - self.p, generator=self._generator) / (1 - self.p)
        return x * kept.to(x).view(1, -1, 1, 1)


def _second_convolutions(module: nn.Module) -> list[nn.Module]:
    return [block.conv2 for block in module.modules() if isinstance(block, BasicBlock | Bottleneck)]

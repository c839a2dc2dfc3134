"""Dropout in a student, which has none of its own, and samples of the networks that it spans."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from rdbench.rd.anomaly import distillation_loss
from rdbench.rd.student import Decoder, Pyramid, Student

if TYPE_CHECKING:
    from torchvision.models.resnet import BasicBlock, Bottleneck

    from rdbench.protocol import Loss

Placement = Literal["features", "bottleneck", "embedding", "decoder", "all"]
Kind = Literal["element", "channel", "block"]

TEMPERATURE = 0.1
"""Of the concrete distribution, as in the paper's code."""


class Dropout(nn.Module):
    """A student with dropout on what enters some of its modules.

    Placements: "features", the teacher's features as they enter the bottleneck; "bottleneck" and "decoder", the second
    convolution of each of its residual blocks (the place of dropout in wide ResNets: Zagoruyko and Komodakis, BMVC
    2016), so that no channel of a reconstructed feature is ever dropped itself; "embedding", the embedding as it enters
    the decoder; "all", all of these.

    The student's parameters and their names stay as they are. While it trains, each image has its own draw; in eval
    mode nothing is dropped, except in :meth:`samples`.

    Args:
        p: probability of being dropped, one for all places or one for each.
        kind: what is dropped at once, see :func:`dropout_mask`.
        block_size: side of a block, in positions; kind "block" alone.
        concrete: `p` is where training starts from, not where it stays (Gal, Hron and Kendall, "Concrete Dropout",
            NeurIPS 2017): each place learns its own. Train under :meth:`concrete_loss`.
    """

    def __init__(
        self,
        student: Student,
        placement: Placement,
        p: float | Sequence[float],
        kind: Kind = "channel",
        block_size: int = 7,
        concrete: bool = False,
    ) -> None:
        super().__init__()
        self.student = student
        self.shared_embedding = placement in ("embedding", "decoder")
        self._mask = partial(dropout_mask, kind=kind, block_size=block_size)
        self._generator: torch.Generator | None = None
        channels = student.backbone.channels
        blocks = {"bottleneck": _residual_blocks(student.bottleneck), "decoder": _residual_blocks(student.decoder)}
        inside = {name: [(block.conv2, block.conv2.in_channels) for block in own] for name, own in blocks.items()}
        places: dict[str, list[tuple[nn.Module, int]]] = {
            "features": [(student.bottleneck, sum(channels))],
            "bottleneck": inside["bottleneck"],
            "embedding": [(student.decoder, 2 * channels[2])],
            "decoder": inside["decoder"],
        }
        chosen = [place for name, modules in places.items() if placement in (name, "all") for place in modules]
        names = {module: name for name, module in self._sampled().named_modules()}
        self._norms = {names[block.bn1]: block.bn1 for block in blocks.get(placement, [])} if kind == "channel" else {}
        """The batch norm before each place, by its name in the network that is sampled; none if the kind is another or
        any place lies outside a block."""
        self.widths = [width for _, width in chosen]
        """Channels that enter each place."""
        self._fixed = [p] * len(chosen) if isinstance(p, float | int) else list(p)
        self.logits = nn.Parameter(torch.tensor(self._fixed).logit()) if concrete else None
        for index, (module, _) in enumerate(chosen):
            module.register_forward_pre_hook(partial(self._drop_input, index))

    def forward(self, features: Sequence[Tensor]) -> Pyramid:
        """Pyramid of (B, C_i, H / s, W / s), s = 4, 8, 16 -> pyramid of the same shapes."""
        pyramid: Pyramid = self.student(features)
        return pyramid

    def rates(self) -> Tensor:
        """Each place's probability of being dropped, on the CPU."""
        return torch.tensor(self._fixed) if self.logits is None else self.logits.detach().sigmoid().cpu()

    def samples(self, features: Sequence[Tensor], seeds: Iterable[int]) -> Iterator[Pyramid]:
        """The student's pyramid for teacher `features` under one draw per seed.

        A draw is one network: all images have the same dropped, in whatever batch they come. What lies before the first
        dropout is computed once.
        """
        network = self._sampled()
        inputs = self.student.bottleneck(features) if self.shared_embedding else features
        try:
            for seed in seeds:
                if self._norms and not network.training:
                    yield functional_call(network, self._scaled_norms(seed), (inputs,))
                else:
                    self._generator = torch.Generator().manual_seed(seed)
                    yield network(inputs)
        finally:  # also where the caller does not ask for all of them
            self._generator = None

    def concrete_loss(self, images: int) -> Loss:
        """RD's loss and the paper's regulariser of p, for a training on that many images.

            loss - variance / images * sum over places of channels * entropy(p)

        The paper's objective is the mean of -log p(y | x) and KL / N. RD's loss 1 - cosine is half the squared distance
        of unit-normalised features, so -log p is loss / variance under a Gaussian error model; the above is that times
        the variance. The variance is the likeliest one, twice the batch's mean loss at a scale, with a scale of an
        image as one observation: as many as it has components would be right if neighbouring features were
        independent, and would drive every p to 0.

        Left out is the paper's other term, which shrinks weights: batch norm makes their norm of no effect, and RD's
        recipe has no weight decay.
        """

        def loss(teacher: Pyramid, student: Pyramid) -> Tensor:
            assert self.logits is not None
            distillation = distillation_loss(teacher, student)
            variance = 2 * distillation.detach() / len(teacher)
            p = self.logits.sigmoid()
            # H(p) by the logits, finite however close to 0 or 1 they bring p.
            entropy = p * F.softplus(-self.logits) + (1 - p) * F.softplus(self.logits)
            return distillation - variance / images * (p.new_tensor(self.widths) * entropy).sum()

        return loss

    def _sampled(self) -> Student | Decoder:
        """What runs once for each sample."""
        return self.student.decoder if self.shared_embedding else self.student

    def _scaled_norms(self, seed: int) -> dict[str, Tensor]:
        """Parameters with which the batch norms drop the channels of that draw themselves.

        m relu(w x + b) = relu(m w x + m b) for a mask m >= 0: no pass over the features, one copy to the device.
        """
        draw = partial(_bernoulli, generator=torch.Generator().manual_seed(seed), device=None)
        masks = [self._mask((1, c, 1, 1), p, draw) for c, p in zip(self.widths, self._fixed, strict=True)]
        mask = torch.cat(masks, dim=1).flatten().to(next(iter(self._norms.values())).weight)
        scaled: dict[str, Tensor] = {}
        for (name, norm), kept in zip(self._norms.items(), torch.split(mask, self.widths), strict=True):
            scaled |= {f"{name}.weight": norm.weight * kept, f"{name}.bias": norm.bias * kept}
        return scaled

    def _drop_input(
        self, index: int, module: nn.Module, inputs: tuple[Tensor | Sequence[Tensor]]
    ) -> tuple[Tensor | Pyramid]:
        (x,) = inputs
        if isinstance(x, Tensor):
            return (self._drop(x, index, module.training),)
        return (tuple(self._drop(scale, index, module.training) for scale in x),)

    def _drop(self, x: Tensor, index: int, training: bool) -> Tensor:
        if not training and self._generator is None:
            return x
        if training and self.logits is not None:
            p = self.logits[index].sigmoid()
            return x * self._mask(x.shape, p, _relaxed).to(x)
        # A sample is drawn on the CPU, so that it is the same network on every device.
        shape = x.shape if training else (1, *x.shape[1:])
        draw = partial(_bernoulli, generator=self._generator, device=x.device if training else None)
        return x * self._mask(shape, self._fixed[index], draw).to(x)


def dropout_mask(
    shape: Sequence[int],
    p: float | Tensor,
    draw: Callable[[Sequence[int], float | Tensor], Tensor],
    kind: Kind,
    block_size: int,
) -> Tensor:
    """What features of `shape` (B, C, h, w) are multiplied by: 0 where dropped, and what keeps the mean elsewhere.

    "element": every element by itself. "channel": whole channels: a convolution uses one filter at every position, so
    dropping a channel is a Bernoulli draw over the network's weights, as Gal and Ghahramani's derivation asks for, and
    neighbouring elements are too alike for dropping them one by one to matter (Tompson et al., "Efficient Object
    Localization Using Convolutional Networks", CVPR 2015). "block": squares of `block_size` positions in each channel,
    wholly within the map (Ghiasi, Lin and Le, "DropBlock: A Regularization Method for Convolutional Networks", NeurIPS
    2018); a map smaller than a block is dropped whole. As there, blocks may overlap, so slightly less than `p` is
    dropped, and what is kept is scaled by the share that was.

    `draw(shape, p)` gives 1 with probability p, else 0. torchvision's drop_block2d fails for blocks of even size.
    """
    batch, channels, height, width = shape
    if kind == "block":
        size = min(block_size, height, width)
        corners = batch, channels, height - size + 1, width - size + 1
        rate = p * height * width / (size**2 * corners[2] * corners[3])
        kept = 1 - F.max_pool2d(F.pad(draw(corners, rate), [size - 1] * 4), size, stride=1)
        return kept / kept.mean(dim=(1, 2, 3), keepdim=True).clamp_min(1 / kept[0].numel())
    return (1 - draw(shape if kind == "element" else (batch, channels, 1, 1), p)) / (1 - p)


def _bernoulli(
    shape: Sequence[int], p: float | Tensor, generator: torch.Generator | None, device: torch.device | None
) -> Tensor:
    return (torch.rand(shape, generator=generator, device=device) < p).float()


def _relaxed(shape: Sequence[int], p: float | Tensor) -> Tensor:
    """The concrete distribution: nearly Bernoulli, and differentiable in p."""
    assert isinstance(p, Tensor)
    uniform = torch.rand(shape, device=p.device)
    return ((p.logit(1e-6) + uniform.logit(1e-6)) / TEMPERATURE).sigmoid()


def _residual_blocks(module: nn.Module) -> list[BasicBlock | Bottleneck]:
    from torchvision.models.resnet import BasicBlock, Bottleneck

    return [block for block in module.modules() if isinstance(block, BasicBlock | Bottleneck)]

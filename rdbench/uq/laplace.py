"""A diagonal Laplace approximation: how far weights can move before a Gaussian error model minds.

Error model: at every scale the teacher's features of an image, flattened and scaled to unit norm, are the student's,
flattened and scaled likewise, plus independent Gaussian noise of that scale's variance. Half the squared distance of
two unit vectors is 1 - cosine, so RD's loss is that model's negative log-likelihood with a common variance of 1.

Its generalised Gauss-Newton matrix is its Fisher information, sum over images and scales of J^T J / variance, with J
the derivative of the unit-norm output by the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from scipy.optimize import brentq
from torch import Tensor
from torchvision.models.resnet import BasicBlock

from rdbench.rd.student import Decoder

Weights = Mapping[str, Tensor]
Input = TypeVar("Input")


def last_convolutions(decoder: Decoder) -> list[str]:
    """Names of the decoder's weights that come last before each scale's output: coarse, middle, fine.

    That is the second convolution of a stage's last block, or the third where blocks have three.
    """
    stages = {"coarse": decoder.coarse, "middle": decoder.middle, "fine": decoder.fine}
    return [
        f"{name}.{len(stage) - 1}.{'conv2' if isinstance(stage[-1], BasicBlock) else 'conv3'}.weight"
        for name, stage in stages.items()
    ]


def unit_norm(pyramid: Sequence[Tensor]) -> list[Tensor]:
    """Each scale (B, C, h, w) as unit vectors (B, C h w), float32."""
    return [F.normalize(scale.float().flatten(1), dim=1) for scale in pyramid]


def error_variances(pairs: Iterable[tuple[Sequence[Tensor], Sequence[Tensor]]]) -> list[float]:
    """Each scale's likeliest variance: the mean square of teacher less student, both (B, D) of unit norm."""
    means = [
        torch.stack([(t - s).square().mean(dim=1) for t, s in zip(teacher, student, strict=True)])
        for teacher, student in pairs
    ]
    variances: list[float] = torch.cat(means, dim=1).mean(dim=1).tolist()
    return variances


def fisher_diagonal(
    outputs: Callable[[Weights, Input], Sequence[Tensor]],
    weights: Weights,
    inputs: Iterable[Input],
    variances: Sequence[float],
    draws: int,
    seed: int,
) -> dict[str, Tensor]:
    """The Fisher information's diagonal, shaped as the weights: an unbiased estimate.

    The square of J^T e has the diagonal of J^T J as its mean if the elements of e are independent signs. Images have
    signs of their own, so a batch takes one backward pass for each draw; they must not act on each other.

    Args:
        outputs: (weights, one of the inputs) -> each scale's (B, D).
        variances: of the error at each scale.
        draws: signs drawn for each image.
    """
    leaves = {name: weight.detach().clone().requires_grad_() for name, weight in weights.items()}
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    device = next(iter(leaves.values())).device
    generator = torch.Generator(device).manual_seed(seed)
    for each in inputs:
        scales = [scale / math.sqrt(variance) for scale, variance in zip(outputs(leaves, each), variances, strict=True)]
        for draw in range(draws):
            signs = [2 * torch.randint(2, scale.shape, generator=generator, device=device) - 1 for scale in scales]
            projected = torch.stack([(scale * sign).sum() for scale, sign in zip(scales, signs, strict=True)]).sum()
            gradients = torch.autograd.grad(projected, list(leaves.values()), retain_graph=draw + 1 < draws)
            for name, gradient in zip(leaves, gradients, strict=True):
                total[name] += gradient.square() / draws
    return total


def prior_precision(fisher: Tensor, weights: Tensor) -> float:
    """The precision L of the prior N(0, 1 / L) under which Laplace's marginal likelihood of the data is largest.

    Its logarithm is, up to what does not depend on L, half of

        sum log L - sum log(fisher + L) - L * sum weights^2

    whose derivative by log L falls from the number of weights that matter to minus infinity: it has one root.
    """
    f, size = fisher.double().flatten().cpu(), weights.double().square().sum().item()
    most = math.log(f.numel() / size)

    def slope(log_precision: float) -> float:
        precision = math.exp(log_precision)
        return float((f / (f + precision)).sum()) - precision * size

    return math.exp(float(brentq(slope, most - 100, most)))


def posterior_deviation(fisher: Tensor, precision: float) -> Tensor:
    """Standard deviation of each weight under the posterior, shaped as `fisher`."""
    return (fisher + precision).rsqrt()


def draw_weights(mean: Weights, deviation: Weights, seed: int) -> dict[str, Tensor]:
    """One draw from the posterior, made on the CPU so that it is the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: weight + deviation[name] * torch.randn(weight.shape, generator=generator).to(weight)
        for name, weight in mean.items()
    }

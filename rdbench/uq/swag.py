"""SWAG: a Gaussian over a student's weights from the iterates that training passes through.

Maddox, Izmailov, Garipov, Vetrov and Wilson, "A Simple Baseline for Bayesian Uncertainty in Deep Learning", NeurIPS
2019. torch-uncertainty's is not used: it samples and averages batch-norm buffers with the weights.

Notation: P trained parameters, n iterates theta, at most R deviations kept.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor, nn

from rdbench.uq.sampling import RunningMoments


class WeightMoments:
    """Mean, diagonal variance and the last `rank` deviations of a network's trained parameters, on the CPU.

    A deviation is an iterate less the mean of the iterates up to it, itself included. Buffers, such as batch norm's
    averages, have no part in it.
    """

    def __init__(self, rank: int) -> None:
        self._moments = RunningMoments()
        self.deviations: deque[Tensor] = deque(maxlen=rank)
        """(P,) each."""

    def add(self, network: nn.Module) -> None:
        """Take in the network's parameters as they are now."""
        iterate = torch.cat([parameter.detach().reshape(-1).cpu() for parameter in network.parameters()])
        self._moments.add(iterate)
        self.deviations.append(iterate - self.mean)

    @property
    def mean(self) -> Tensor:
        """(P,) mean of the iterates."""
        return self._moments.mean

    def variance(self) -> Tensor:
        """(P,) variance of the iterates, n in the denominator as in the paper."""
        count = self._moments.count
        return self._moments.std().square() * (count - 1) / count

    def sample(self, seed: int) -> Tensor:
        """(P,) weights drawn from N(mean, (diagonal + low rank) / 2), the low rank being D D^T / (K - 1).

        D are the K kept deviations. With K < 2 there is no low rank, and the draw is from N(mean, diagonal), the
        paper's SWAG-Diagonal.
        """
        generator = torch.Generator().manual_seed(seed)
        drawn = self.variance().sqrt() * torch.randn(self.mean.shape, generator=generator)
        if (kept := len(self.deviations)) >= 2:
            drawn /= 2**0.5
            for factor, deviation in zip(torch.randn(kept, generator=generator), self.deviations, strict=True):
                drawn += deviation * (factor / (2 * (kept - 1)) ** 0.5)
        return self.mean + drawn


def set_weights(network: nn.Module, weights: Tensor) -> None:
    """Put weights (P,) into the network's parameters."""
    parameters = list(network.parameters())
    with torch.no_grad():
        for parameter, values in zip(parameters, torch.split(weights, [p.numel() for p in parameters]), strict=True):
            parameter.copy_(values.view(parameter.shape))

"""Where the embedded teacher's training starts: each layer fitted to ResNet18's by least squares, on drawn images.

As networks are pruned channel by channel (He, Zhang and Sun, "Channel Pruning for Accelerating Very Deep Neural
Networks", ICCV 2017): of each layer those channels are kept that explain the others best, and the small network's
convolution is the linear map that comes nearest to their values in ResNet18, from what the small network itself has
computed so far, so that each layer makes up for the errors before it. Without one gradient step it is worth about what
80 minutes of them from random weights were (docs/embedded_teacher.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rdbench.rd.embedded import EmbeddedNet

AT_ONCE = 32
"""Images that pass through a layer together."""
PLACES = 180_000
"""Places, over all images, on which a layer is fitted."""
RIDGE = 1e-4
"""Of the mean square of a layer's inputs, the bias's ones among them; keeps weights of nearly equal inputs small."""


@torch.no_grad()
def fit_layers(network: EmbeddedNet, resnet: Any, images: Tensor) -> None:
    """Set every weight of `network`, in eval mode, from ResNet18's activations on normalised `images` (N, 3, H, W).

    `resnet` is the :class:`~rdbench.rd.teacher.ResNetPyramid` of ResNet18 (torchvision's layers have no types).
    """
    convolution, norm, *_ = stem = cast("Any", network.stem)
    wanted = _over(lambda x: resnet.bn1(resnet.conv1(x)), images)
    kept = _spanning(wanted.relu(), convolution.out_channels)
    kernels, bias = _least_squares([(images, convolution)], wanted[:, kept])
    _set(convolution, norm, kernels[0], bias, images)
    wanted = _over(lambda x: resnet.maxpool(x.relu()), wanted)
    features = _over(stem, images)
    layers = (resnet.layer1, resnet.layer2, resnet.layer3)
    stages: tuple[Any, ...] = (network.fine, network.middle, network.coarse)
    for stage, layer in zip(stages, layers, strict=True):
        kept = _spanning(_over(layer, wanted), stage[-1].conv2.out_channels)
        for block, its in zip(stage, layer, strict=True):
            wanted = _fit_block(block, its, features, wanted, kept)
            features = _over(block, features)


def linear_map(features: Tensor, wanted: Tensor) -> Tensor:
    """(C, k, 1, 1): the 1 x 1 convolution that brings features (N, k, h, w) nearest to wanted (N, C, h, w)."""
    point = nn.Conv2d(features.shape[1], wanted.shape[1], 1)
    return _least_squares([(features, point)], wanted, with_bias=False)[0][0]


def _fit_block(block: Any, its: Any, features: Tensor, wanted: Tensor, kept: Tensor) -> Tensor:
    """Fit a residual block, which gets `features`, to the channels `kept` of ResNet18's, which gets `wanted`.

    Returns what ResNet18's puts out.
    """
    inner = _over(lambda x: its.bn1(its.conv1(x)), wanted)
    weight = its.conv2.weight.square().sum((0, 2, 3)).sqrt()
    chosen = _spanning(inner.relu() * weight.view(-1, 1, 1), block.conv1.out_channels)
    kernels, bias = _least_squares([(features, block.conv1)], inner[:, chosen])
    _set(block.conv1, block.bn1, kernels[0], bias, features)
    hidden = _over(lambda x: block.bn1(block.conv1(x)).relu(), features)
    shortcut = its.downsample or nn.Identity()
    total = _over(lambda x: its.bn2(its.conv2(x.relu())), inner).add_(_over(shortcut, wanted))
    asked = total[:, kept]
    if block.downsample is None:
        kernels, bias = _least_squares([(hidden, block.conv2)], asked - features)
    else:
        convolution, norm = block.downsample
        kernels, bias = _least_squares([(hidden, block.conv2), (features, convolution)], asked)
        _set(convolution, norm, kernels[1], torch.zeros_like(bias), features)
    _set(block.conv2, block.bn2, kernels[0], bias, hidden)
    return total.relu_()


def _over(layer: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """What a layer makes of inputs (N, ...), a few at a time."""
    return torch.cat([layer(inputs[i : i + AT_ONCE]) for i in range(0, len(inputs), AT_ONCE)])


def _spanning(activations: Tensor, count: int) -> Tensor:
    """The `count` channels of activations (N, C, h, w) from which all are rebuilt best, chosen one after another."""
    rows = activations.permute(0, 2, 3, 1).flatten(0, 2)
    left = torch.cov(rows[:: max(1, len(rows) // 20_000)].double().T).cpu()
    chosen: list[int] = []
    for _ in range(count):
        gain = left.square().sum(0) / left.diagonal().clamp_min(1e-12)
        gain[chosen] = -1
        best = int(gain.argmax())
        chosen.append(best)
        left -= torch.outer(left[:, best], left[best]) / left[best, best].clamp_min(1e-12)
    return torch.tensor(sorted(chosen), device=activations.device)


def _least_squares(
    inputs: Sequence[tuple[Tensor, nn.Conv2d]], target: Tensor, with_bias: bool = True
) -> tuple[list[Tensor], Tensor]:
    """Kernels, one for each input (N, c, h, w), and the bias that bring the sum of the convolutions nearest to target.

    The target is (N, C, h', w'), as the convolutions of that size, stride and padding put out.
    """
    places = target.shape[2] * target.shape[3]
    some = torch.linspace(0, places - 1, max(1, min(places, PLACES // len(target))), device=target.device).long()
    products, moments = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for start in range(0, len(target), AT_ONCE):
        columns = [_patches(x[start : start + AT_ONCE], convolution)[:, :, some] for x, convolution in inputs]
        columns.append(torch.full_like(columns[0][:, :1], float(with_bias)))
        rows = torch.cat(columns, 1).transpose(1, 2).flatten(0, 1).double()
        values = target[start : start + AT_ONCE].flatten(2)[:, :, some].transpose(1, 2).flatten(0, 1).double()
        products = products.to(rows) + rows.T @ rows
        moments = moments.to(rows) + rows.T @ values
    ridge = RIDGE * products.diagonal().mean() * torch.eye(len(products), dtype=products.dtype, device=products.device)
    solution = torch.linalg.solve(products + ridge, moments).float()
    sizes = [convolution.weight[0].numel() for _, convolution in inputs]
    *weights, bias = torch.split(solution, [*sizes, 1])
    shapes = [convolution.weight.shape[1:] for _, convolution in inputs]
    return [w.T.reshape(-1, *shape) for w, shape in zip(weights, shapes, strict=True)], bias[0]


def _patches(inputs: Tensor, convolution: nn.Conv2d) -> Tensor:
    """(N, c k k, places): what each place of a convolution's output sees."""
    padding, stride = convolution.padding, convolution.stride
    assert not isinstance(padding, str)
    return F.unfold(inputs, convolution.kernel_size, padding=padding, stride=stride)


def _set(convolution: nn.Conv2d, norm: nn.BatchNorm2d, kernel: Tensor, bias: Tensor, inputs: Tensor) -> None:
    """Let a convolution and its batch norm compute kernel and bias, with the statistics of these inputs."""
    convolution.weight.copy_(kernel)
    values = _over(convolution, inputs)
    mean, variance = values.mean((0, 2, 3)), values.var((0, 2, 3))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_((variance + norm.eps).sqrt())
    norm.bias.copy_(bias + mean)

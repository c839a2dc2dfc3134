"""Convolutions in bf16 on a CPU, trained as matrix products where oneDNN's own way is slower.

oneDNN 3.13 takes 1.0 to 1.7 times as long for a 1 x 1 convolution or its inputs' gradient as for the matrix product
that it is. Where positions are few and channels many, other layers too are slower than products of patches, weights'
gradients above all: for WideResNet50-2's 3 x 3 convolution of 1024 channels with stride 2 oneDNN reaches 75 GFLOP/s,
the product 435. Where positions are many, patches cost more than they save.

Notation: B images; a layer from C channels of H x W positions to O channels of h x w.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW_POSITIONS = 4096
"""B h w up to which a weight's gradient was faster as a product in every layer of RD's students; B H W up to which a
transposed layer was as a whole."""
VERY_FEW_POSITIONS = 1024
"""B h w up to which a convolution's outputs were faster, too."""
Pair = tuple[int, ...]
Convolution = nn.Conv2d | nn.ConvTranspose2d


@contextmanager
def products_where_faster(student: nn.Module) -> Iterator[None]:
    """In here `student`'s plain convolutions are computed in whichever way trains faster, under autocast to bf16.

    Outputs and gradients are the same up to bf16's rounding. Layers that are not trained compute as ever.
    """
    layers = [layer for layer in student.modules() if isinstance(layer, Convolution) and _is_plain(layer)]
    for layer in layers:
        vars(layer)["forward"] = partial(_convolve, layer)
    try:
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _is_plain(layer: Convolution) -> bool:
    """Whether it is as RD's students have it; a transposed one, whether its patches do not overlap."""
    if type(layer) not in (nn.Conv2d, nn.ConvTranspose2d) or "forward" in vars(layer):
        return False
    plain = layer.groups == 1 and layer.bias is None and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    if isinstance(layer, nn.ConvTranspose2d):
        return plain and layer.kernel_size == layer.stride and layer.padding == layer.output_padding == (0, 0)
    return plain and not isinstance(layer.padding, str)


def _convolve(layer: Convolution, inputs: Tensor, *rest: Any, **named: Any) -> Tensor:
    trained = layer.weight.requires_grad and torch.is_grad_enabled()
    if not (torch.is_autocast_enabled("cpu") and trained) or inputs.dim() != 4 or rest or named:
        return type(layer).forward(layer, inputs, *rest, **named)  # type: ignore[arg-type]
    half, weight = inputs.to(torch.bfloat16), layer.weight.to(torch.bfloat16)
    if isinstance(layer, nn.ConvTranspose2d):
        if half[:, 0].numel() <= FEW_POSITIONS:
            return _convolve_transposed(half, weight)
        return F.conv_transpose2d(half, weight, None, layer.stride)
    if layer.kernel_size == (1, 1) and layer.padding == (0, 0):
        return _convolve_pointwise(half, weight, layer.stride)
    outputs: Tensor = _Convolution.apply(half, weight, layer.stride, layer.padding)
    return outputs


def _convolve_pointwise(inputs: Tensor, weight: Tensor, stride: Pair) -> Tensor:
    """`F.conv2d` with a kernel of one position."""
    seen = inputs.permute(0, 2, 3, 1)[:, :: stride[0], :: stride[1]]
    outputs = seen.flatten(0, 2) @ _rows(weight).T
    return outputs.view(*seen.shape[:3], len(weight)).permute(0, 3, 1, 2)


def _convolve_transposed(inputs: Tensor, weight: Tensor) -> Tensor:
    """`F.conv_transpose2d` with a kernel as large as its stride: each position fills a patch of its own."""
    images, _, height, width = inputs.shape
    channels, *kernel = weight.shape[1:]
    patches = (_rows(inputs) @ weight.permute(0, 2, 3, 1).flatten(1)).view(images, height, width, *kernel, channels)
    whole = patches.transpose(2, 3).reshape(images, height * kernel[0], width * kernel[1], channels)
    return whole.permute(0, 3, 1, 2)


class _Convolution(torch.autograd.Function):
    """`F.conv2d`, with products of patches where positions are few."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.stride, ctx.padding = stride, padding
        kernel, size = weight.shape[2:], inputs.shape[2:]
        places = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(size, padding, kernel, stride, strict=True)]
        if len(inputs) * places[0] * places[1] > VERY_FEW_POSITIONS:
            return F.conv2d(inputs, weight, None, stride, padding)
        # In this order: oneDNN takes 1.6 times as long for the product of 1,024 patches and 512 kernels transposed.
        product = weight.permute(0, 2, 3, 1).flatten(1) @ _patches(inputs, kernel, stride, padding).T
        shape = (len(inputs), len(weight), *places)
        # A view could not be changed in place by what comes next.
        outputs = torch.empty(shape, dtype=inputs.dtype, device=inputs.device, memory_format=torch.channels_last)
        outputs.permute(0, 2, 3, 1).view(-1, len(weight)).copy_(product.T)
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        inputs, weight = ctx.saved_tensors
        wanted, few = ctx.needs_input_grad[0], gradient[:, 0].numel() <= FEW_POSITIONS
        to_inputs = None
        if wanted or not few:
            to_inputs, to_weight, _ = torch.ops.aten.convolution_backward(
                gradient, inputs, weight, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1,
                (wanted, not few, False),
            )  # fmt: skip
        if few:
            kernel = weight.shape[2:]
            product = _rows(gradient).T @ _patches(inputs, kernel, ctx.stride, ctx.padding)
            to_weight = product.view(-1, *kernel, inputs.shape[1]).permute(0, 3, 1, 2)
        return to_inputs, to_weight, None, None


def _rows(values: Tensor) -> Tensor:
    """(B, C, H, W) -> (B H W, C), without a copy if channels are last."""
    return values.permute(0, 2, 3, 1).reshape(-1, values.shape[1])


def _patches(values: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
    """(B, C, H, W) -> (B h w, kernel C): the patch that each output position of a convolution sees."""
    last = values.permute(0, 2, 3, 1).contiguous()
    last = F.pad(last, (0, 0, padding[1], padding[1], padding[0], padding[0]))
    windows = last.unfold(1, kernel[0], stride[0]).unfold(2, kernel[1], stride[1])  # (B, h, w, C, kernel)
    return windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, kernel[0] * kernel[1] * values.shape[1])

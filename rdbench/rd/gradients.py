"""Gradients of convolutions in bf16 on a CPU, as matrix products where oneDNN's own way is slow.

With few output positions and many channels oneDNN 3.13 computes a weight's gradient at a tenth to nine tenths of the
speed of its matrix products: for WideResNet50-2's 3072 to 2048 channels with stride 2, at 67 against 490 GFLOP/s. The
product of the output's gradient and the input's patches is the same sum. With many positions the patches cost more than
they save.

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
"""B h w up to which matrix products were the faster way for every layer of RD's students."""
Pair = tuple[int, ...]
Convolution = nn.Conv2d | nn.ConvTranspose2d


@contextmanager
def fast_gradients(student: nn.Module) -> Iterator[None]:
    """In here each convolution of `student` gets its gradients by whichever way is faster, under autocast to bf16.

    What comes out of the layers is the same to the bit; gradients are the same up to bf16's rounding.
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
    if not (torch.is_autocast_enabled("cpu") and trained) or rest or named:
        return type(layer).forward(layer, inputs, *rest, **named)  # type: ignore[arg-type]
    half, weight = inputs.to(torch.bfloat16), layer.weight.to(torch.bfloat16)
    if isinstance(layer, nn.ConvTranspose2d):
        outputs: Tensor = _TransposedConvolution.apply(half, weight, layer.stride)
    else:
        outputs = _Convolution.apply(half, weight, layer.stride, layer.padding)
    return outputs


class _Convolution(torch.autograd.Function):
    """`F.conv2d`, with a weight's gradient from patches."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(inputs, weight, None, stride, padding)

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


class _TransposedConvolution(torch.autograd.Function):
    """`F.conv_transpose2d` with a kernel as large as its stride; gradients from products where positions are few."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, stride: Pair) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.stride = stride
        return F.conv_transpose2d(inputs, weight, None, stride)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        inputs, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad[0]
        if gradient[:, 0].numel() > FEW_POSITIONS:
            to_inputs, to_weight, _ = torch.ops.aten.convolution_backward(
                gradient, inputs, weight, None, ctx.stride, (0, 0), (1, 1), True, (0, 0), 1, (wanted, True, False)
            )
            return to_inputs, to_weight, None
        kernel = weight.shape[2:]
        patches = _patches(gradient, kernel, ctx.stride, (0, 0))  # one for each input position: (B H W, kernel O)
        to_weight = (_rows(inputs).T @ patches).view(-1, *kernel, gradient.shape[1]).permute(0, 3, 1, 2)
        to_inputs = None
        if wanted:
            product = patches @ weight.permute(0, 2, 3, 1).reshape(len(weight), -1).T
            to_inputs = product.view(*inputs.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
        return to_inputs, to_weight, None


def _rows(values: Tensor) -> Tensor:
    """(B, C, H, W) -> (B H W, C), without a copy if channels are last."""
    return values.permute(0, 2, 3, 1).reshape(-1, values.shape[1])


def _patches(values: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
    """(B, C, H, W) -> (B h w, kernel C): the patch that each output position of a convolution sees."""
    last = values.permute(0, 2, 3, 1).contiguous()
    last = F.pad(last, (0, 0, padding[1], padding[1], padding[0], padding[0]))
    windows = last.unfold(1, kernel[0], stride[0]).unfold(2, kernel[1], stride[1])  # (B, h, w, C, kernel)
    return windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, kernel[0] * kernel[1] * values.shape[1])

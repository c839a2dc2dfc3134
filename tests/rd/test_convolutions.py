from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rdbench.rd import convolutions
from rdbench.rd.backbones import get_backbone
from rdbench.rd.convolutions import FEW_POSITIONS, VERY_FEW_POSITIONS, products_where_faster
from rdbench.rd.precision import autocast
from rdbench.rd.student import build_student

CPU = torch.device("cpu")
LAYERS = {
    "3 x 3": lambda: nn.Conv2d(16, 24, 3, padding=1, bias=False),
    "3 x 3 with stride": lambda: nn.Conv2d(16, 24, 3, stride=2, padding=1, bias=False),
    "1 x 1": lambda: nn.Conv2d(16, 24, 1, bias=False),
    "1 x 1 with stride": lambda: nn.Conv2d(16, 24, 1, stride=(2, 1), bias=False),
    "uneven": lambda: nn.Conv2d(16, 24, (3, 5), stride=(2, 1), padding=(1, 2), bias=False),
    "transposed": lambda: nn.ConvTranspose2d(16, 24, (2, 3), stride=(2, 3), bias=False),
}
"""Not of 8 channels: oneDNN's own float32 gradients of a 1 x 1 convolution with stride then write beyond their memory
for odd numbers of images, with two threads."""
LEFT_ALONE = {
    "grouped": lambda: nn.Conv2d(16, 24, 3, padding=1, groups=2, bias=False),
    "dilated": lambda: nn.Conv2d(16, 24, 3, padding=2, dilation=2, bias=False),
    "with a bias": lambda: nn.Conv2d(16, 24, 3, padding=1),
    "reflecting": lambda: nn.Conv2d(16, 24, 3, padding=1, padding_mode="reflect", bias=False),
    "padded by name": lambda: nn.Conv2d(16, 24, 3, padding="same", bias=False),
    "transposed with overlap": lambda: nn.ConvTranspose2d(16, 24, 3, stride=2, bias=False),
}


def passed(network, inputs, precision, fast=True):
    """What comes out, the inputs' gradient as it comes and the weights' gradients, for one and the same loss."""
    arriving = inputs.clone().requires_grad_().clone()
    slopes = []
    arriving.register_hook(slopes.append)
    network.zero_grad()
    with autocast(CPU, precision):
        if fast:
            with products_where_faster(network):
                outputs = network(arriving)
        else:
            outputs = network(arriving)
        weights = torch.rand(outputs.shape, generator=torch.Generator().manual_seed(1))
        loss = (outputs.float() * weights.contiguous(memory_format=torch.channels_last)).sum()
    loss.backward()
    return outputs.detach(), *slopes, *(parameter.grad.clone() for parameter in network.parameters())


def apart(one, other):
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("count", [1, 5, 40])
@pytest.mark.parametrize("layer", LAYERS | LEFT_ALONE)
def test_outputs_and_gradients_are_those_of_float32_up_to_rounding(layer, count, monkeypatch):
    """One image has 156 to 598 positions, few enough for outputs by products; forty have too many but for 1 x 1."""
    torch.manual_seed(0)
    network = nn.Sequential((LAYERS | LEFT_ALONE)[layer]()).to(memory_format=torch.channels_last)
    inputs = torch.randn(count, 16, 23, 26).contiguous(memory_format=torch.channels_last)
    exact = passed(network, inputs, "fp32", fast=False)
    usual = passed(network, inputs, "bf16", fast=False)
    calls = Counter()

    def count_calls(where, name):
        function = getattr(where, name)
        monkeypatch.setattr(where, name, lambda *given, **named: calls.update([name]) or function(*given, **named))

    for where, name in ((F, "conv2d"), (F, "conv_transpose2d"), (convolutions, "_patches")):
        count_calls(where, name)
    found = passed(network, inputs, "bf16")

    few, very_few = ((exact[0][:, 0].numel() <= most) for most in (FEW_POSITIONS, VERY_FEW_POSITIONS))
    if layer.startswith("1 x 1"):
        expected = {}
    elif layer == "transposed":
        expected = {} if inputs[:, 0].numel() <= FEW_POSITIONS else {"conv_transpose2d": 1}
    elif layer in LEFT_ALONE:
        expected = {"conv_transpose2d" if "transposed" in layer else "conv2d": 1}
    else:
        expected = {"conv2d": int(not very_few), "_patches": few + very_few}
    assert calls == Counter(expected)
    assert all(images.is_contiguous(memory_format=torch.channels_last) for images in found[:2])
    for fast, right, slow in zip(found, exact, usual, strict=True):
        assert fast.shape == right.shape
        assert fast.dtype == slow.dtype
        assert apart(fast.float(), right) < max(1.5 * apart(slow.float(), right), 1e-6) < 0.01


@pytest.mark.parametrize("layer", LAYERS)
def test_images_may_be_stored_by_channel_ask_for_no_gradient_and_outputs_change_in_place(layer):
    network, inputs = nn.Sequential(LAYERS[layer](), nn.ReLU(inplace=True)), torch.randn(1, 16, 23, 26)
    found = []
    for fast in (True, False):
        network.zero_grad()
        with autocast(CPU, "bf16"), products_where_faster(network) if fast else nullcontext():
            outputs = network(inputs)
        outputs.float().square().sum().backward()
        found.append([outputs.detach().float(), network[0].weight.grad.clone()])
    assert all(apart(one, other) < 0.01 for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_that_is_not_trained_and_a_single_image_compute_as_ever(layer, monkeypatch):
    network, inputs = nn.Sequential(LAYERS[layer]()), torch.randn(1, 16, 23, 26)
    calls = Counter()
    for name in ("conv2d", "conv_transpose2d"):
        function = getattr(F, name)
        monkeypatch.setattr(F, name, lambda *given, function=function: calls.update([1]) or function(*given))
    with autocast(CPU, "bf16"), products_where_faster(network):
        with torch.no_grad():
            network(inputs)
        network(inputs[0])
        network.requires_grad_(False)(inputs)
    assert calls.total() == 3


def test_float32_keeps_its_bits():
    network, inputs = nn.Sequential(LAYERS["3 x 3"]()), torch.randn(2, 16, 8, 8)
    assert all(map(torch.equal, passed(network, inputs, "fp32"), passed(network, inputs, "fp32", fast=False)))


def test_gradients_have_gradients_and_an_output_size_is_passed_on():
    network, inputs = (
        nn.Sequential(LAYERS["3 x 3"](), nn.ReLU(), nn.Conv2d(24, 16, 3, padding=1, bias=False)),
        torch.randn(1, 16, 8, 8),
    )
    found = []
    for fast in (True, False):
        network.zero_grad()
        inputs.requires_grad_()
        with autocast(CPU, "bf16"), products_where_faster(network) if fast else nullcontext():
            value = network(inputs).float().square().sum()
        (slope,) = torch.autograd.grad(value, inputs, create_graph=True)
        slope.square().sum().backward()
        found.append([parameter.grad.clone() for parameter in network.parameters()])
    assert all(apart(one, other) < 0.02 for one, other in zip(*found, strict=True))
    transposed = LAYERS["transposed"]()
    with autocast(CPU, "bf16"), products_where_faster(nn.Sequential(transposed)):
        assert transposed(torch.randn(1, 16, 4, 4), output_size=(9, 13)).shape[-2:] == (9, 13)


def test_a_student_is_left_as_it_was():
    student = build_student(get_backbone("embedded"), 0)
    before = [dict(vars(layer)) for layer in student.modules()]
    with products_where_faster(student):
        assert sum("forward" in vars(layer) for layer in student.modules()) > 20
    assert before == [dict(vars(layer)) for layer in student.modules()]

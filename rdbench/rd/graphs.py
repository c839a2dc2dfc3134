"""A student's training passes as CUDA graphs: one call sends a GPU the hundreds of kernels that a pass is made of.

At RD's batch of 16 a GPU is done with a kernel sooner than Python has asked for the next one. A graph is asked for
once. It repeats what the GPU was told to do and none of the Python around it, so only what is known to hold no Python
state is put into one: the bottleneck and decoder of :mod:`rdbench.rd.student`, made of torch's and torchvision's layers
alone, without hooks. All else runs as it always does.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from rdbench.rd.precision import autocast
from rdbench.rd.student import Decoder, OneClassBottleneck, Pyramid

PLAIN = ("torch", "torchvision", "rdbench.rd")
"""Packages whose layers hold no Python state that a step changes."""


class GraphedPasses:
    """The passes of a student's bottleneck and decoder, there and back, as graphs.

    An input of another shape, as the last batch of an epoch may be, goes through the layers themselves. The gradients
    are the same to the bit.

    Args:
        student: in train mode on a GPU; anything that takes `features`. Its tensors and their gradients stay as they
            are; the random state does not.
        features: the teacher's pyramid of a batch of the size that is to be recorded.
        precision: as it will be trained in, see :func:`rdbench.rd.precision.autocast`.
    """

    def __init__(self, student: nn.Module, features: Sequence[Tensor], precision: str) -> None:
        device = features[0].device
        buffers = [(buffer, buffer.clone()) for buffer in student.buffers()]
        with _quiet(), autocast(device, precision), torch.enable_grad(), _without_hooks_on_all_modules():
            calls = _calls(student, features)
            modules, inputs = tuple(module for module, _ in calls), tuple(given for _, given in calls)
            if modules:
                torch.cuda.make_graphed_callables(modules, inputs)
        with torch.no_grad():  # recording runs each pass a few times first, which moves batch norm's statistics
            for buffer, was in buffers:
                buffer.copy_(was)
        self._forwards = [(module, _by_shape(module, given)) for module, given in calls]
        for module in modules:
            del module.forward  # what torch has put over the class's own

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """In here the graphs run in place of the passes that they were recorded of."""
        with _quiet():
            try:
                for module, forward in self._forwards:
                    module.forward = forward
                yield
            finally:
                for module, _forward in self._forwards:
                    vars(module).pop("forward", None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Gradients are recorded on a stream of their own, which the GPU waits for; torch mentions it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")
        yield


def _calls(student: nn.Module, features: Sequence[Tensor]) -> list[tuple[nn.Module, tuple[Any, ...]]]:
    """The modules that can be recorded, in the order they are run in, each with drawn inputs like those it gets."""
    found: list[tuple[nn.Module, tuple[Any, ...]]] = []

    def remember(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        like = tree_map_only(Tensor, lambda given: torch.rand_like(given).requires_grad_(given.requires_grad), inputs)
        found.append((module, like))

    with _hooked([module for module in student.modules() if _can_be_recorded(module)], remember):
        student(features)
    times = Counter(module for module, _ in found)
    return [(module, inputs) for module, inputs in found if times[module] == 1]


@contextmanager
def _hooked(modules: Sequence[nn.Module], hook: Any) -> Iterator[None]:
    handles = [module.register_forward_pre_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _without_hooks_on_all_modules() -> Iterator[None]:
    """Who counts a student's passes is not to count those that recording takes."""
    hooks = nn.modules.module._global_forward_hooks
    held = dict(hooks)
    hooks.clear()
    try:
        yield
    finally:
        hooks.update(held)


def _can_be_recorded(module: nn.Module) -> bool:
    return (
        type(module) in (OneClassBottleneck, Decoder)
        and module.training
        and all(parameter.requires_grad for parameter in module.parameters())
        and all(_is_plain(layer) for layer in module.modules())
    )


def _is_plain(layer: nn.Module) -> bool:
    hooks = (layer._forward_pre_hooks, layer._forward_hooks, layer._backward_pre_hooks, layer._backward_hooks)
    known = any(type(layer).__module__ == name or type(layer).__module__.startswith(f"{name}.") for name in PLAIN)
    return known and not any(hooks) and "forward" not in vars(layer)


def _by_shape(module: nn.Module, recorded: tuple[Any, ...]) -> Any:
    """The module's forward: the graph for inputs like those `recorded`, else its class's own."""
    replay, own = module.forward, type(module).forward
    shapes = [given.shape for given in tree_leaves(recorded)]

    def forward(*inputs: Tensor | Pyramid) -> Any:
        same = [given.shape for given in tree_leaves(inputs)] == shapes
        return replay(*inputs) if same else own(module, *inputs)

    return forward

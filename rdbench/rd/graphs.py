"""A student's training passes as CUDA graphs: one call sends a GPU the hundreds of kernels that a pass is made of.

At RD's batch of 16 a GPU is done with a kernel sooner than Python has asked for the next one. A graph is asked for
once. It repeats what the GPU was told to do and none of the Python around it, so only what is known to hold no Python
state is put into one: a :class:`Student` itself, of torch's and torchvision's layers alone, without hooks. All else
runs as it always does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rdbench.rd.precision import autocast
from rdbench.rd.student import Pyramid, Student

PLAIN = ("torch", "torchvision", "rdbench.rd")
"""Packages whose layers hold no Python state that a step changes."""


def can_be_graphed(student: nn.Module) -> bool:
    """Whether graphs of its passes do all that the passes do; it is to be in train mode on a GPU."""
    return (
        type(student) is Student
        and student.training
        and all(parameter.requires_grad and not parameter._backward_hooks for parameter in student.parameters())
        and all(_is_plain(layer) for layer in student.modules())
    )


class GraphedPasses:
    """The passes of a student's bottleneck and decoder, there and back, as graphs. Gradients are the same to the bit.

    An input of another shape, as the last batch of an epoch may be, goes through the layers themselves. What comes out
    of a graph is overwritten by its next run.

    Args:
        student: one that :func:`can_be_graphed`. Its tensors stay as they are; the random state does not.
        features: the teacher's pyramid of a batch of the size that is to be recorded.
        precision: as it will be trained in, see :func:`rdbench.rd.precision.autocast`.
    """

    def __init__(self, student: Student, features: Pyramid, precision: str) -> None:
        self._student = student
        self._device = features[0].device
        self._modules = student.bottleneck, student.decoder
        self._tensors = self._addresses()
        buffers = [(buffer, buffer.clone()) for buffer in student.buffers()]
        with (
            torch.cuda.device(self._device),
            torch.enable_grad(),
            autocast(self._device, precision),
            _quiet(),
            _without_hooks_on_all_modules(),
        ):
            embedding = torch.rand_like(student.bottleneck(features)).requires_grad_()
            inputs: Any = (tuple(torch.rand_like(scale) for scale in features),), (embedding,)
            torch.cuda.make_graphed_callables(self._modules, inputs, allow_unused_input=True)
        with torch.no_grad():  # recording runs each pass a few times first, which moves batch norm's statistics
            for buffer, was in buffers:
                buffer.copy_(was)
        self._forwards = [
            _by_kind(module, given) for module, given in zip(self._modules, (features, (embedding,)), strict=True)
        ]
        for module in self._modules:
            del module.forward  # what torch has put over the class's own

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """In here the graphs run in place of the passes, unless the student is no longer what was recorded."""
        if not can_be_graphed(self._student) or self._addresses() != self._tensors:
            yield
            return
        with torch.cuda.device(self._device), _quiet():
            try:
                for module, forward in zip(self._modules, self._forwards, strict=True):
                    vars(module)["forward"] = forward
                yield
            finally:
                for module in self._modules:
                    vars(module).pop("forward", None)

    def _addresses(self) -> list[int]:
        return [tensor.data_ptr() for tensor in (*self._student.parameters(), *self._student.buffers())]


@contextmanager
def _quiet() -> Iterator[None]:
    """Gradients are recorded on a stream of their own, which the GPU waits for; torch mentions it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")
        yield


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


def _is_plain(layer: nn.Module) -> bool:
    hooks = (layer._forward_pre_hooks, layer._forward_hooks, layer._backward_pre_hooks, layer._backward_hooks)
    known = any(f"{type(layer).__module__}.".startswith(f"{name}.") for name in PLAIN)
    counting = isinstance(layer, nn.BatchNorm2d) and layer.momentum is None  # an average over a count that it reads
    return known and not any(hooks) and not counting and "forward" not in vars(layer)


def _by_kind(module: nn.Module, recorded: Sequence[Tensor]) -> Callable[..., Any]:
    """The module's forward: the graph for an input like the one `recorded`, else its class's own."""
    replay, own = module.forward, type(module).forward
    kinds = [(given.shape, given.dtype, given.requires_grad) for given in recorded]

    def forward(given: Tensor | Pyramid) -> Any:
        tensors = (given,) if isinstance(given, Tensor) else given
        same = [(each.shape, each.dtype, each.requires_grad) for each in tensors] == kinds
        return replay(given) if same else own(module, given)

    return forward

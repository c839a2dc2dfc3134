"""A student's training step as a CUDA graph: one call sends a GPU the thousand kernels that a step is made of.

At RD's batch of 16 a GPU is done with a kernel sooner than Python has asked for the next one. A graph is asked for
once. It repeats what the GPU was told to do and none of the Python around it, so only what is known to hold no Python
state and to draw nothing is put into one: a :class:`Student` itself, of the layers that RD gives it, without hooks. All
else runs as it always does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from rdbench.rd.student import Decoder, OneClassBottleneck, Pyramid, Student

LAYERS = ("Sequential", "Conv2d", "ConvTranspose2d", "BatchNorm2d", "ReLU", "BasicBlock", "Bottleneck")
"""Of torch and torchvision, what RD's student is made of."""


def can_be_graphed(student: nn.Module) -> TypeGuard[Student]:
    """Whether a graph of a step does all that the step does; the student is to be in train mode on a GPU."""
    return (
        type(student) is Student
        and all(parameter.requires_grad and not _hooks_of(parameter) for parameter in student.parameters())
        and all(_is_plain(layer) for layer in student.modules())
    )


def recorded_step(
    step: Callable[[Pyramid], None],
    student: Student,
    optimizer: torch.optim.Optimizer,
    features: Pyramid,
    changed: Sequence[Tensor],
) -> StepGraph:
    """A graph of the step that was seen to do the same: from here, both lead to the same bits.

    Both are tried on `features`, and the training is left where it was. What a driver or a library does otherwise in a
    graph than outside would be another network, of which nothing else would tell.

    Args:
        step, student, optimizer, features: as :class:`StepGraph` takes them.
        changed: all tensors that a step changes and a later one reads.

    Raises:
        RuntimeError: it cannot be recorded or tried, mostly for memory, or does something else.
    """
    before = [tensor.detach().clone() for tensor in changed]  # no autograd graph, which knows the stream it is made on
    with _only_hook(lambda *_: None):  # who counts passes is not to count these
        try:
            step(features)
            wanted = _fingerprints(changed)
            _put_back(changed, before)
            graph = StepGraph(step, student, optimizer, features)
            graph.replay(features)
            if not torch.equal(_fingerprints(changed), wanted):
                raise RuntimeError("replayed, the recorded step gives other weights than the step itself")
        finally:
            _put_back(changed, before)
    return graph


class StepGraph:
    """A training step, from the teacher's features to the changed weights, as a graph. The weights are the same bits.

    Recording it does not run it.

    Args:
        step: takes the teacher's pyramid of a batch, and drops the last step's gradients before it asks for its own. It
            has been run a few times, so that what libraries and the optimizer make on first use is there.
        student: one that :func:`can_be_graphed`, which the step trains.
        optimizer: that the step uses, of those that torch can record.
        features: a pyramid as the graph is to take it.
    """

    def __init__(
        self,
        step: Callable[[Pyramid], None],
        student: Student,
        optimizer: torch.optim.Optimizer,
        features: Pyramid,
    ) -> None:
        self._student = student
        self._tensors = self._addresses()
        self._features = tuple(torch.empty_like(scale) for scale in features)
        self._passes: list[tuple[nn.Module, Any, Any]] = []
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(features[0].device), _capturable(optimizer), _only_hook(self._note_pass):
            stream = torch.cuda.current_stream()
            # The default one cannot be recorded. One that is shared would be a shared workspace of the libraries'.
            own = None if stream == torch.cuda.default_stream() else stream
            with torch.cuda.stream(stream), torch.cuda.graph(self._graph, stream=own):
                step(self._features)  # should it fail, torch.cuda.graph would not give the stream back

    def takes(self, features: Pyramid) -> bool:
        """Whether they are of the kind that was recorded, which those of an epoch's last batch may not be."""
        return all(
            own.shape == given.shape and own.dtype == given.dtype
            for own, given in zip(self._features, features, strict=True)
        )

    def still_holds(self) -> bool:
        """Whether the student is what was recorded: whoever looks at it after an epoch may have changed it."""
        return can_be_graphed(self._student) and self._addresses() == self._tensors

    def replay(self, features: Pyramid) -> None:
        """The step on another batch."""
        torch._foreach_copy_(list(self._features), list(features))
        self._graph.replay()
        for hook in list(nn.modules.module._global_forward_hooks.values()):  # who counts passes is told of these
            for passed in self._passes:
                hook(*passed)

    def _note_pass(self, module: nn.Module, given: Any, output: Any) -> None:
        if module is self._student.bottleneck or module is self._student.decoder:
            # Detached, for the recorded step's autograd graph is to go.
            self._passes.append((module, *tree_map_only(Tensor, Tensor.detach, (given, output))))

    def _addresses(self) -> list[int]:
        return [tensor.data_ptr() for tensor in (*self._student.parameters(), *self._student.buffers())]


def _fingerprints(tensors: Sequence[Tensor]) -> Tensor:
    """A sum of each tensor's bits, in which NaN, too, is what it is."""
    bits = (each.detach().view(torch.int32) if each.dtype == torch.float32 else each for each in tensors)
    return torch.stack([each.sum() for each in bits])


def _put_back(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        torch._foreach_copy_(list(tensors), list(values))


@contextmanager
def _capturable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """A fused optimizer can be recorded as it is, but torch asks for a word; outside a graph it would warn of it."""
    for group in optimizer.param_groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in optimizer.param_groups:
            group["capturable"] = False


@contextmanager
def _only_hook(hook: Callable[[nn.Module, Any, Any], None]) -> Iterator[None]:
    """In place of the hooks on all modules: who counts a student's passes is not to count the one that is recorded."""
    hooks = nn.modules.module._global_forward_hooks
    held = dict(hooks)
    hooks.clear()
    handle = nn.modules.module.register_module_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
        hooks.update(held)


def _is_plain(layer: nn.Module) -> bool:
    hooks = (layer._forward_pre_hooks, layer._forward_hooks, layer._backward_pre_hooks, layer._backward_hooks)
    kind = type(layer)
    torchs = kind.__name__ in LAYERS and kind.__module__.startswith(("torch.nn.", "torchvision.models.resnet"))
    known = torchs or kind in (Student, OneClassBottleneck, Decoder)
    counting = isinstance(layer, nn.BatchNorm2d) and layer.momentum is None  # an average over a count that it reads
    return known and layer.training and not (any(hooks) or counting or "forward" in vars(layer))


def _hooks_of(parameter: nn.Parameter) -> bool:
    return bool(parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None))

"""A student's batch norm under other statistics than those its training left."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn


def batch_statistics(student: nn.Module, features: Sequence[Tensor]) -> dict[str, Tensor]:
    """The statistics that every batch-norm layer of `student` meets when `features` pass as one batch.

    Those of a training step: each layer's mean and biased variance (n in the denominator) over images and positions,
    behind layers that normalise with theirs. Named as the student's buffers, `<layer>.running_mean` and
    `<layer>.running_var`, (C,) float32: a student in eval mode with these buffers gives `features` exactly what it
    gives them in train mode. `student` stays as it is.
    """
    student = copy.deepcopy(student).eval()
    found: dict[str, Tensor] = {}

    def measure(name: str, layer: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        x = inputs[0].float()
        layer.running_mean, layer.running_var = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), correction=0)
        found[f"{name}.running_mean"], found[f"{name}.running_var"] = layer.running_mean, layer.running_var

    for name, module in student.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(partial(measure, name))
    student(features)
    return found

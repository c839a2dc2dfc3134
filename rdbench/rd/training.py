"""The training of a student: the released RD4AD recipe on teacher features that are computed once."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rdbench.errors import InputError
from rdbench.protocol import NormalImages
from rdbench.rd.anomaly import distillation_loss
from rdbench.rd.convolutions import products_where_faster
from rdbench.rd.graphs import GraphedPasses, can_be_graphed
from rdbench.rd.precision import autocast, steady_cudnn
from rdbench.rd.student import Student

LEARNING_RATE = 0.005
BETAS = (0.5, 0.999)
STEPS_WORTH_A_GRAPH = 50
"""Recording the graphs of a GPU's passes takes as long as some ten steps."""


@dataclass(frozen=True)
class TrainingSettings:
    """What a run sets of the training; the rest is the released recipe."""

    epochs: int
    batch_size: int = 16
    precision: str = "fp32"


def train_student(
    student: nn.Module,
    images: NormalImages,
    settings: TrainingSettings,
    seed: int,
    device: torch.device,
    on_epoch: Callable[[int, float], None] | None = None,
    loss: Callable[[tuple[Tensor, ...], Any], Tensor] = distillation_loss,
    rate: Callable[[float], float] | None = None,
) -> nn.Module:
    """Train `student` in place on normal `images`; return it in eval mode, as the last epoch left it.

    The student maps the teacher's pyramid to what `loss` compares with it; parameters that ask for no gradient stay as
    they are. One `seed` gives the same weights, bit for bit, on one machine; the caller's random state is left as it
    was.

    Args:
        on_epoch: called after each epoch with its number, from 1, and its mean loss per image.
        rate: share of the steps that are done, in [0, 1) -> factor on the learning rate.

    Raises:
        InputError: the loss is not finite, or images of 32 pixels leave a last batch of one.
    """
    student.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    wanted = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(wanted, lr=LEARNING_RATE, betas=BETAS, fused=device.type in ("cpu", "cuda"))
    steps = settings.epochs * math.ceil(len(images) / settings.batch_size)
    step = 0
    shuffle = torch.Generator().manual_seed(seed)
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        steady_cudnn(),
    ):
        faster = _faster(student, images, settings, steps, device, loss)
        torch.manual_seed(seed)  # for what the student draws itself, such as dropout
        for epoch in range(1, settings.epochs + 1):
            total = torch.zeros((), device=device)
            with faster():
                for indices in torch.split(torch.randperm(len(images), generator=shuffle), settings.batch_size):
                    if rate is not None:
                        for group in optimizer.param_groups:
                            group["lr"] = LEARNING_RATE * rate(step / steps)
                    features = tuple(images.batch(indices).features)  # not what a batch keeps for maps
                    if len(indices) == 1 and max(features[-1].shape[-2:]) == 2:
                        raise InputError(
                            f"training: {len(images)} images in batches of {settings.batch_size} leave a batch of "
                            "one, of which batch norm gets one value per channel at 32 pixels; "
                            "change --batch-size or --image-size"
                        )
                    with autocast(device, settings.precision):
                        value = loss(features, student(features))
                    optimizer.zero_grad()
                    torch.autograd.backward(value)
                    optimizer.step()
                    total += value.detach() * len(indices)
                    step += 1
            mean_loss = total.item() / len(images)  # the epoch's only wait for the device
            if not math.isfinite(mean_loss):
                raise InputError(
                    f"training: the loss is {mean_loss} after epoch {epoch} of {settings.epochs} (seed {seed}); "
                    "try --precision fp32, another --seed, or look for broken images or teacher weights"
                )
            if on_epoch is not None:
                on_epoch(epoch, mean_loss)
    optimizer.zero_grad()
    if device.type == "cuda":  # graphs are held by cycles, and with them all memory that they work in
        del faster
        gc.collect()
    return student.eval()


def _faster(
    student: nn.Module,
    images: NormalImages,
    settings: TrainingSettings,
    steps: int,
    device: torch.device,
    loss: Callable[[tuple[Tensor, ...], Any], Tensor],
) -> Callable[[], AbstractContextManager[None]]:
    """What an epoch runs in, to be faster: a GPU's CUDA graphs where they pay, a CPU's matrix products in bf16."""
    if device.type == "cpu" and settings.precision == "bf16":
        return partial(products_where_faster, student)
    worth = device.type == "cuda" and len(images) >= settings.batch_size and steps >= STEPS_WORTH_A_GRAPH
    # A loss of a method's own could ask for a second pass, which would overwrite what the first one left.
    if worth and loss is distillation_loss and isinstance(student, Student) and can_be_graphed(student):
        features = tuple(images.batch(range(settings.batch_size)).features)
        return GraphedPasses(student, features, settings.precision).replayed
    return nullcontext

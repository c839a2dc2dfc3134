"""Ensembles inside one network: its layers put in place of a student's, its members side by side in the batch.

Notation: M members, B images; member m's rows of a batch of M B are m B to (m + 1) B - 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rdbench.rd.anomaly import distillation_loss
from rdbench.rd.student import Pyramid

if TYPE_CHECKING:
    from rdbench.protocol import Loss


def replace_layers(module: nn.Module, replacement: Callable[[nn.Module], nn.Module | None]) -> None:
    """Put `replacement(layer)` in the place of every layer inside `module` for which it is not None."""
    for name, child in module.named_children():
        new = replacement(child)
        if new is None:
            replace_layers(child, replacement)
        else:
            setattr(module, name, new)


def repeat_images(pyramid: Sequence[Tensor], members: int) -> Pyramid:
    """Pyramid of B images -> of M B: every image once for each member."""
    return tuple(scale.repeat(members, 1, 1, 1) for scale in pyramid)


def member_pyramids(pyramid: Sequence[Tensor], members: int) -> Iterator[Pyramid]:
    """Pyramid of M B images -> each member's pyramid of B images."""
    yield from zip(*(scale.chunk(members) for scale in pyramid), strict=True)


def member_loss(members: int) -> Loss:
    """Mean over the members of RD's loss, for a student that returns a pyramid of M B images."""

    def loss(teacher: Pyramid, student: Pyramid) -> Tensor:
        return torch.stack([distillation_loss(teacher, own) for own in member_pyramids(student, members)]).mean()

    return loss

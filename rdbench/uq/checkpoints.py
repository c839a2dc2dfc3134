"""What a method has fitted, on disk: students and other tensors, as safetensors in the precision they came in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rdbench.errors import InputError
from rdbench.protocol import FitContext
from rdbench.rd.student import Student

Network = TypeVar("Network", bound=nn.Module)


def save_student(student: nn.Module, path: Path) -> None:
    """Write every parameter and buffer of `student`, any network, to `path`, exactly."""
    save_tensors(student.state_dict(), path)


def load_student(path: Path, context: FitContext) -> Student:
    """The student that was saved at `path`, in eval mode on the context's device.

    Raises:
        InputError: the file is missing, damaged or of another backbone.
    """
    with torch.device("meta"):  # the parameters come from the file: nothing to draw
        student = Student(context.teacher.backbone)
    return load_network(student, path, context)


def load_network(network: Network, path: Path, context: FitContext) -> Network:
    """`network`, best built on the meta device, with what was saved at `path`; in eval mode on the context's device.

    Raises:
        InputError: the file is missing, damaged or of another network.
    """
    _check_written(path)
    try:
        network.load_state_dict(load_file(path), assign=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(
            f"trained student {path} is damaged or not of backbone {context.teacher.backbone.name}; "
            "delete the folder it is in and run again"
        ) from error
    network.to(context.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval()


def save_members(students: Sequence[nn.Module], directory: Path) -> None:
    """Write each member of an ensemble to a file of its own."""
    for index, student in enumerate(students):
        save_student(student, directory / f"member_{index}.safetensors")


def load_members(members: int, directory: Path, context: FitContext) -> list[Student]:
    """The students that :func:`save_members` wrote, as :func:`load_student` reads them."""
    return [load_student(directory / f"member_{index}.safetensors", context) for index in range(members)]


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write named tensors to `path`, exactly."""
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)


def load_tensors(path: Path, context: FitContext) -> dict[str, Tensor]:
    """The tensors that were saved at `path`, on the context's device.

    Raises:
        InputError: the file is missing or damaged.
    """
    _check_written(path)
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is damaged; delete the folder it is in and run again") from error
    return {name: tensor.to(context.device) for name, tensor in tensors.items()}


def _check_written(path: Path) -> None:
    if not path.exists():
        raise InputError(f"{path} does not exist: the method's save has not written it, or it was removed")

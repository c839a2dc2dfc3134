"""Trained students on disk, as safetensors in the precision they were trained in."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from rdbench.errors import InputError
from rdbench.protocol import FitContext
from rdbench.rd.student import Student


def save_student(student: nn.Module, path: Path) -> None:
    """Write every parameter and buffer of `student` to `path`, exactly."""
    save_file({name: tensor.cpu().contiguous() for name, tensor in student.state_dict().items()}, path)


def load_student(path: Path, context: FitContext) -> Student:
    """The student that was saved at `path`, in eval mode on the context's device.

    Raises:
        InputError: the file is damaged or of another backbone.
    """
    with torch.device("meta"):  # the parameters come from the file: nothing to draw
        student = Student(context.teacher.backbone)
    try:
        student.load_state_dict(load_file(path), assign=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(
            f"trained student {path} is damaged or not of backbone {context.teacher.backbone.name}; "
            "delete the folder it is in and run again"
        ) from error
    student.to(context.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return student.eval()

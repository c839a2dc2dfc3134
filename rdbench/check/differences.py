"""What the checks compare: sources, predictions, saved files, memory."""

from __future__ import annotations

import ast
import gc
from pathlib import Path

import torch
from torch import Tensor

from rdbench.protocol import Prediction

FORBIDDEN = {
    "rdbench.datasets": "it holds labels and files",
    "rdbench.benchmark": "it holds test images and results",
    "rdbench.report": "it holds results",
    "rdbench.check": "a method must not know that it is checked",
    "cv2": "it reads files unseen by this check",
    "torchvision.io": "it reads files unseen by this check",
    "torchvision.datasets": "it reads files",
}
"""Modules that a method file must not name, and why."""


def names_used(tree: ast.AST) -> set[str]:
    """The dotted names that a file imports or uses."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Attribute):
            names.add(ast.unparse(node))
    return names


def first_difference(one: Prediction, other: Prediction) -> str:
    """The first field whose bits differ, or nothing."""
    for name, value in vars(one).items():
        again = getattr(other, name)
        if (value is None) != (again is None) or (value is not None and not torch.equal(value, again)):
            return name
    return ""


def of_image(prediction: Prediction, index: int) -> dict[str, Tensor]:
    """What a prediction says of one of its images."""
    return {
        name: value[:, index] if name == "member_scores" else value[index]
        for name, value in vars(prediction).items()
        if value is not None
    }


def largest_move(one: dict[str, Tensor], other: dict[str, Tensor], scale: Prediction) -> tuple[float, str]:
    """The largest difference of two predictions of one image, relative to `scale`, and the field it is in.

    A spread is a difference of anomaly scores and carries their rounding, so it is held against their size; but not
    if it is a thousand times smaller, where its own order would be rounding.
    """
    anomaly = float(scale.anomaly_map.abs().max())
    moved = []
    for name, value in one.items():
        if name not in other or other[name].shape != value.shape:
            return float("inf"), name
        own = float(getattr(scale, name).abs().max())
        size = min(max(own, anomaly), 1000 * own) or 1.0
        moved.append((float((value - other[name]).abs().max()) / size, name))
    return max(moved)


def saved_files(directory: Path) -> dict[str, bytes]:
    """The files of a fitted method by name."""
    model = directory / "model"
    return {str(path.relative_to(model)): path.read_bytes() for path in model.rglob("*") if path.is_file()}


def new_tensor_bytes() -> int:
    """Memory of all tensors that Python holds and that came after `gc.freeze`."""
    storages = {}
    for held in gc.get_objects():
        if issubclass(type(held), Tensor) and held.layout == torch.strided and held.device.type == "cpu":
            storage = held.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())

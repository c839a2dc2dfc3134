"""A fitted method that a run kept (`--keep-models`), made ready to predict again without training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rdbench.benchmark.device import choose_device
from rdbench.benchmark.fitting import refuse_training, seed_everything
from rdbench.benchmark.guard import guarded_call
from rdbench.benchmark.images import FeatureBank, normalise, to_unit
from rdbench.benchmark.predicting import check_prediction
from rdbench.benchmark.results import CellResult, CellSpec
from rdbench.errors import BrokenMethod, InputError
from rdbench.protocol import Batch, FitContext, Prediction
from rdbench.rd.precision import autocast
from rdbench.rd.student import build_student
from rdbench.rd.teacher import Teacher, load_teacher
from rdbench.registry import find_methods, get_method, load_method


def model_of(directory: Path) -> Path:
    """Where the cell in `directory` keeps its model. Raises InputError if it does not."""
    model = directory / "model"
    if not model.is_dir():
        raise InputError(f"{directory} holds no model; run the cell with --keep-models")
    return model


class KeptMethod:
    """The method of a finished cell."""

    def __init__(
        self,
        directory: Path,
        result: CellResult,
        weights: Path | str | None,
        device: str,
        methods_dir: Path | None,
    ) -> None:
        """Raises InputError if the model was not kept, or the method's file or the teacher is another by now."""
        spec = result.spec
        model = model_of(directory)
        file = get_method(spec.method, find_methods(methods_dir))
        if file.sha256 != spec.method_sha256:
            raise InputError(f"{file.path} is not the file that {spec} was run with; run it again")
        self.result = result
        if weights is None and spec.weights.startswith("file/"):
            raise InputError(
                f"{spec} was run with --weights {spec.weights[5:]}; name that file with --weights here too"
            )
        if spec.weights == "random":
            weights = "random"
        self.device = choose_device(device)
        teacher = load_teacher(spec.backbone, weights, self.device)
        if teacher.weights_sha256 != spec.weights_sha256:
            raise InputError(
                f"{spec} was run with the weights {spec.weights}, not {teacher.weights_name}; name them with --weights"
            )
        self.teacher = teacher
        with _in_words(spec), guarded_call(spec.method):
            self.method = load_method(file, spec.options)
            seed_everything(spec.seed)
            self.method.load(model, _context(teacher, spec.seed, self.device))

    def predict(self, images: NDArray[np.uint8]) -> Prediction:
        """What the method says of images (B, H, W, 3) uint8 of the cell's image size."""
        spec = self.result.spec
        with torch.inference_mode(), autocast(self.device, spec.precision):
            pixels = normalise(to_unit(images, self.device))
            seed_everything(spec.seed)
            with _in_words(spec), guarded_call(spec.method):
                prediction = self.method.predict(Batch(pixels, lambda: self.teacher(pixels)))
                check_prediction(prediction, len(images), images.shape[1:3], pixels.device)
        return prediction


@contextmanager
def _in_words(spec: CellSpec) -> Iterator[None]:
    """A stranger's method may raise anything: here it is all that was asked for, so that its reason is the answer."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        kind = "" if isinstance(error, BrokenMethod) else f"{type(error).__name__}: "
        raise InputError(f"method {spec.method} failed: {kind}{error}; its file is for its author to mend") from error


def _context(teacher: Teacher, seed: int, device: torch.device) -> FitContext:
    """A context that gives what loading needs, and refuses what only fitting does."""
    return FitContext(
        teacher=teacher,
        calibration=FeatureBank(np.empty((0, 32, 32, 3), np.uint8), teacher, device, "fp32", 1, Path()),
        device=device,
        seed=seed,
        new_student=lambda student_seed: build_student(teacher.backbone, student_seed, device),
        train=refuse_training,
        trained=refuse_training,
    )

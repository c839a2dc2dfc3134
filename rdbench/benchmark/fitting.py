"""Fits the methods of a group. What is fitted is kept on disk at once, so a killed run goes on after it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rdbench.benchmark.cost import Stopwatch, count_passes
from rdbench.benchmark.images import FeatureBank
from rdbench.benchmark.progress import Reporter
from rdbench.benchmark.results import CellSpec
from rdbench.protocol import FitContext, Method, NormalImages
from rdbench.rd.precision import Precision, autocast
from rdbench.rd.student import Student, build_student
from rdbench.rd.teacher import Teacher
from rdbench.rd.training import TrainingSettings, train_student
from rdbench.uq.checkpoints import load_student, save_student


@dataclass(frozen=True)
class FitCost:
    """What fitting took, the kept teacher features left out."""

    seconds: float
    passes: int
    """Images through a decoder, while a student was trained."""
    used_deterministic: bool


class GroupStudent:
    """The `deterministic` student that the methods of a group share: trained on first use, then read from disk."""

    def __init__(self, directory: Path, train: Callable[[], nn.Module]) -> None:
        self._directory = directory
        self._train = train
        self._student: Student | None = None
        self.used = False
        """Whether it was asked for since this was last set to False."""
        self.seconds = 0.0
        """What training it took since this was last set to 0; nothing if it was there."""

    def load(self, context: FitContext) -> Student:
        """The trained student, trained now if it is not there."""
        self.used = True
        if not self._directory.exists():
            with Stopwatch(context.device) as watch, count_passes() as passes:
                student = self._train()
            self.seconds = watch.seconds
            cost = FitCost(watch.seconds, passes["decoder"], used_deterministic=False)

            def write(path: Path) -> None:
                save_student(student, path / "student.safetensors")
                (path / "cost.json").write_text(json.dumps(asdict(cost)))

            _write_whole(self._directory, write)
        if self._student is None:
            self._student = load_student(self._directory / "student.safetensors", context)
            self._student.requires_grad_(False)
        return self._student

    @property
    def cost(self) -> FitCost:
        """What its training cost when it was trained."""
        return FitCost(**json.loads((self._directory / "cost.json").read_text()))


def make_context(
    *,
    teacher: Teacher,
    train: FeatureBank,
    calibration: FeatureBank,
    spec: CellSpec,
    device: torch.device,
    directory: Path,
    reporter: Reporter,
) -> tuple[FitContext, GroupStudent]:
    """The context that every method of the group is fitted with, and the student they share."""
    settings = TrainingSettings(epochs=spec.epochs, batch_size=spec.batch_size, precision=spec.precision)

    def new_student(seed: int) -> Student:
        return build_student(teacher.backbone, seed).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def train_on(student: nn.Module, images: NormalImages, seed: int) -> nn.Module:
        with reporter.step("  training", spec.epochs * len(images)) as step:

            def on_epoch(epoch: int, loss: float) -> None:
                step.advance(len(images), note=f"epoch {epoch} of {spec.epochs}  loss {loss:.4f}")

            return train_student(student, images, settings, seed, device, on_epoch)

    shared = GroupStudent(directory / "deterministic", lambda: train_on(new_student(spec.seed), train, spec.seed))
    context = FitContext(
        teacher=teacher,
        calibration=calibration,
        device=device,
        seed=spec.seed,
        new_student=new_student,
        train=train_on,
        deterministic=lambda: shared.load(context),
    )
    return context, shared


def fit(
    method: Method,
    train: NormalImages,
    context: FitContext,
    shared: GroupStudent,
    precision: Precision,
    directory: Path,
) -> None:
    """Fit a method into `directory` (`model/` and `cost.json`), unless an earlier run has done so."""
    if directory.exists():
        return
    shared.used, shared.seconds, passes = False, 0.0, 0

    def counted(student: nn.Module, images: NormalImages, seed: int) -> nn.Module:
        nonlocal passes
        with count_passes() as trained:
            student = context.train(student, images, seed)
        passes += trained["decoder"]
        return student

    seed_everything(context.seed)
    with Stopwatch(context.device) as watch, autocast(context.device, precision):
        method.fit(train, replace(context, train=counted))
    cost = FitCost(watch.seconds - shared.seconds, passes, shared.used)

    def write(path: Path) -> None:
        (path / "model").mkdir()
        method.save(path / "model")
        (path / "cost.json").write_text(json.dumps(asdict(cost)))

    _write_whole(directory, write)


def load_fitted(method: Method, context: FitContext, shared: GroupStudent, directory: Path) -> None:
    """Load what :func:`fit` saved; a method that takes the shared student only now pays for it as well."""
    shared.used = False
    seed_everything(context.seed)
    method.load(directory / "model", context)
    cost = fit_cost(directory)
    if shared.used and not cost.used_deterministic:
        (directory / "cost.json").write_text(json.dumps(asdict(replace(cost, used_deterministic=True))))


def fit_cost(directory: Path) -> FitCost:
    """What :func:`fit` measured when it fitted the method in `directory`."""
    return FitCost(**json.loads((directory / "cost.json").read_text()))


def seed_everything(seed: int) -> None:
    """Set the state of every global random generator that a method may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _write_whole(directory: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a directory beside its place, then move it in."""
    staged = directory.with_name(directory.name + ".part")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    write(staged)
    staged.replace(directory)

"""Fits the methods of a group. What is fitted is kept on disk at once, so a killed run goes on after it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch import nn

from rdbench.benchmark.cost import Stopwatch, count_passes
from rdbench.benchmark.guard import UntouchedNetwork, guarded_call
from rdbench.benchmark.images import FeatureBank
from rdbench.benchmark.progress import Reporter
from rdbench.benchmark.results import CellSpec
from rdbench.benchmark.store import to_disk, write_text
from rdbench.errors import InputError
from rdbench.protocol import FitContext, Method, NormalImages
from rdbench.rd.anomaly import distillation_loss
from rdbench.rd.precision import Precision, autocast, steady_cudnn
from rdbench.rd.student import Student, build_student
from rdbench.rd.teacher import Teacher
from rdbench.rd.training import TrainingSettings, train_student, train_students, trained_at_once
from rdbench.uq.checkpoints import load_student, save_student
from rdbench.uq.seeds import member_seeds

if TYPE_CHECKING:
    from rdbench.protocol import Loss

COST = "cost.json"
STUDENT = "student.safetensors"


@dataclass(frozen=True)
class FitCost:
    """What fitting took, the kept teacher features and the students shared with other methods left out."""

    seconds: float
    passes: int
    """Images through a decoder, while a network was trained."""
    shared: tuple[int, ...] = ()
    """Seeds of the shared students that the method is made of."""
    trainings: int = 0
    """What the method trained itself."""


class SharedStudents:
    """The plainly trained students of a group, by seed: each is trained on first use, then read from disk."""

    def __init__(
        self, directory: Path, train: Callable[[Sequence[int]], Sequence[nn.Module]], at_once: int, reporter: Reporter
    ) -> None:
        """`train` trains the students of some seeds, which are no more than `at_once`."""
        self._directory = directory
        self._train = train
        self._at_once = at_once
        self._reporter = reporter
        self._students: dict[int, Student] = {}
        self.asked: list[int] = []
        """The seeds asked for since this was last cleared."""
        self.members = 0
        """Of the method that is fitted: who asks for one but the first is taken to ask for the others too."""
        self.seconds = 0.0
        """What training them took since this was last set to 0."""
        self.trained = 0
        """Trainings in the group so far, the methods' own among them."""

    def take_over(self, seed: int, file: Path, cost: FitCost) -> None:
        """Use the student that an earlier run trained with `seed` and kept."""

        def write(path: Path) -> None:
            shutil.copyfile(file, path / STUDENT)
            _write_cost(cost, path)

        if not (self._directory / str(seed)).exists():
            _write_whole(self._directory / str(seed), write)

    def load(self, seed: int, context: FitContext) -> Student:
        """The student trained with `seed`, trained now if it is not there."""
        self.asked.append(seed)
        if not (self._directory / str(seed)).exists():
            self._train_and_keep(self._together(seed, context.seed), context)
        if seed not in self._students:
            student = load_student(self._directory / str(seed) / STUDENT, context)
            self._students[seed] = student.requires_grad_(False)
        return self._students[seed]

    def _together(self, seed: int, own: int) -> list[int]:
        """`seed` and what is trained beside it. The group's `own` is trained alone: its seconds are everyone's unit."""
        if seed == own or self._at_once == 1 or seed not in (seeds := member_seeds(own, self.members)[1:]):
            return [seed]
        others = (member for member in seeds if member != seed and not (self._directory / str(member)).exists())
        return [seed, *islice(others, self._at_once - 1)]

    def _train_and_keep(self, seeds: Sequence[int], context: FitContext) -> None:
        watch, students = Stopwatch(context.device), None
        try:
            with self._reporter.inside(None), watch, count_passes() as passes:
                students = self._train(seeds)
        except (InputError, RuntimeError) as error:
            if len(seeds) == 1:
                raise
            self._reporter.line(f"  {len(seeds)} networks together failed, so they are trained one by one: {error}")
        finally:
            self.seconds += watch.seconds
        if students is None:  # another's loss, or memory for so many: not the fault of the one that is asked for
            self._at_once = 1  # from here on
            self._train_and_keep(seeds[:1], context)
            return
        cost = FitCost(watch.seconds / len(seeds), passes["decoder"] // len(seeds))
        for seed, student in zip(seeds, students, strict=True):

            def write(path: Path, student: nn.Module = student) -> None:
                save_student(student, path / STUDENT)
                _write_cost(cost, path)

            _write_whole(self._directory / str(seed), write)

    def forget(self) -> None:
        """Read them from disk again: what one method did to a student, the next is not to get."""
        self._students.clear()

    def cost(self, seed: int) -> FitCost:
        """What training that student cost when it was trained."""
        return fit_cost(self._directory / str(seed))


def make_context(
    *,
    teacher: Teacher,
    train: FeatureBank,
    calibration: FeatureBank,
    spec: CellSpec,
    device: torch.device,
    directory: Path,
    reporter: Reporter,
) -> tuple[FitContext, SharedStudents]:
    """The context that every method of the group is fitted with, and the students they share."""

    def new_student(seed: int) -> Student:
        return build_student(teacher.backbone, seed, device)

    def train_on(
        student: nn.Module,
        images: NormalImages,
        seed: int,
        *,
        loss: Loss | None = None,
        epochs: float = 1.0,
        rate: Callable[[float], float] | None = None,
        after_epoch: Callable[[int, int], None] | None = None,
    ) -> nn.Module:
        settings = TrainingSettings(max(1, round(epochs * spec.epochs)), spec.batch_size, spec.precision)
        with reporter.step("  training", settings.epochs * len(images)) as step:

            def on_epoch(epoch: int, mean_loss: float) -> None:
                step.advance(len(images), note=f"epoch {epoch} of {settings.epochs}  loss {mean_loss:.4f}")
                if after_epoch is not None:
                    after_epoch(epoch, settings.epochs)

            train_student(student, images, settings, seed, device, on_epoch, loss or distillation_loss, rate)
        shared.trained += 1
        return student

    def train_shared(seeds: Sequence[int]) -> Sequence[nn.Module]:
        if len(seeds) == 1:
            return [train_on(new_student(seed), train, seed) for seed in seeds]
        settings = TrainingSettings(spec.epochs, spec.batch_size, spec.precision)
        title = f"  training {len(seeds)} networks"
        with reporter.step(title, settings.epochs * len(train) * len(seeds)) as step:

            def on_epoch(place: int, epoch: int, mean_loss: float) -> None:
                note = f"network {place + 1}: epoch {epoch} of {settings.epochs}  loss {mean_loss:.4f}"
                step.advance(len(train), note=note)

            students = [new_student(seed) for seed in seeds]
            train_students(students, train, settings, seeds, device, on_epoch)
        shared.trained += len(seeds)
        return students

    shared = SharedStudents(directory / "students", train_shared, trained_at_once(device, spec.precision), reporter)
    context = FitContext(
        teacher=teacher,
        calibration=calibration,
        device=device,
        seed=spec.seed,
        new_student=new_student,
        train=train_on,
        trained=lambda seed: shared.load(seed, context),
    )
    return context, shared


def fit(
    method: Method,
    train: NormalImages,
    context: FitContext,
    shared: SharedStudents,
    precision: Precision,
    directory: Path,
) -> None:
    """Fit a method into `directory` (`model/` and `cost.json`), unless an earlier run has done so."""
    if directory.exists():
        return
    shared.asked.clear()
    shared.seconds, passes, trainings = 0.0, 0, 0

    def counted(*arguments: Any, **options: Any) -> nn.Module:
        nonlocal passes, trainings
        with count_passes() as trained:
            student = context.train(*arguments, **options)
        passes += trained["decoder"]
        trainings += 1
        return student

    shared.forget()
    seed_everything(context.seed)
    with (
        UntouchedNetwork("the teacher", context.teacher),
        guarded_call(type(method).__name__),
        autocast(context.device, precision),
        Stopwatch(context.device) as watch,
    ):
        members = getattr(method, "members", 0)
        shared.members = members if isinstance(members, int) else 0
        method.fit(train, replace(context, train=counted))
    cost = FitCost(watch.seconds - shared.seconds, passes, tuple(dict.fromkeys(shared.asked)), trainings)

    def write(path: Path) -> None:
        (path / "model").mkdir()
        with guarded_call(type(method).__name__):
            method.save(path / "model")
        _write_cost(cost, path)

    _write_whole(directory, write)


def load_fitted(method: Method, context: FitContext, shared: SharedStudents, directory: Path) -> None:
    """Load what :func:`fit` saved; a method that takes a shared student only now pays for it as well."""
    shared.asked.clear()
    shared.members = 0
    shared.forget()
    seed_everything(context.seed)
    with UntouchedNetwork("the teacher", context.teacher), steady_cudnn(), guarded_call(type(method).__name__):
        method.load(directory / "model", context)
    cost = fit_cost(directory)
    if late := [seed for seed in dict.fromkeys(shared.asked) if seed not in cost.shared]:
        _write_cost(replace(cost, shared=(*cost.shared, *late)), directory)


def refuse_training(*_: object, **__: object) -> NoReturn:
    """What `train` and `trained` of a context are when a method that was kept is loaded, much later."""
    raise InputError("load asks for training; it must read all it needs from its directory")


def fit_cost(directory: Path) -> FitCost:
    """What was measured when what lies in `directory` was fitted."""
    kept = json.loads((directory / COST).read_text())
    return FitCost(**kept | {"shared": tuple(kept["shared"])})


def _write_cost(cost: FitCost, directory: Path) -> None:
    write_text(directory / COST, json.dumps(asdict(cost)))


def seed_everything(seed: int) -> None:
    """Set the state of every global random generator that a method may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:  # without the stack trace that the line above keeps for every kind of accelerator there might be
        torch.default_generator.manual_seed(seed)


def _write_whole(directory: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a directory beside its place, then move it in."""
    staged = directory.with_name(directory.name + ".part")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    write(staged)
    for path in (*staged.rglob("*"), staged):  # else a power cut could leave it there, and empty
        if path.is_file() or path.is_dir():
            to_disk(path)
    staged.replace(directory)

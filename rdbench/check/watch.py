"""Runs a stranger's method, one function at a time, and keeps account of what it touches besides its result."""

from __future__ import annotations

import contextlib
import io
import pickle
import random
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import nn

from rdbench.benchmark.guard import process_settings, restore_settings
from rdbench.check.audit import Auditor
from rdbench.errors import BrokenMethod, InputError
from rdbench.protocol import Batch, FitContext, Method, NormalImages, Prediction
from rdbench.rd.student import Student

SECONDS = 60.0
"""How long one call of a method's function may take in the small world."""
IMPORT = "import"
"""The stage in which the method's file is imported and its class made; the others are named as its functions."""


class Wrong(Exception):
    """A check failed; the message says what is wrong and what to do."""


class _TooLong(BaseException):
    """A call ran out of time. No Exception, so that a method's own `except Exception` does not keep it."""


class Guard:
    """What the checked method did, over all its calls."""

    def __init__(self, source: Path, teacher: nn.Module) -> None:
        self.audit = Auditor(source)
        self.changed: dict[str, dict[str, None]] = {
            what: {} for what in ("teacher", "inputs", "students", "random", "settings")
        }
        """By what was changed: in words, by which function."""
        self.printed = 0
        """Characters."""
        self._teacher = _Snapshot(teacher)
        self._students: dict[int, _Snapshot] = {}

    @contextmanager
    def running(self, stage: str, directory: Path | None = None, writable: bool = False) -> Iterator[None]:
        """Run one function of the method. Raises Wrong, in words, for whatever it raises."""
        random_was, settings_were = _random_states(), process_settings()
        output = _Counter()
        try:
            with (
                contextlib.redirect_stdout(output),
                contextlib.redirect_stderr(output),
                _time_limit(SECONDS),
                self.audit.watching(stage, directory, writable),
            ):
                yield
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise Wrong(_in_words(stage, error, self.audit.source)) from error
        finally:
            self.printed += output.characters
            self._note("random", stage, random_was, _random_states())
            self._note("settings", stage, settings_were, process_settings())
            restore_settings(settings_were)
            # What was changed stays so, and only the first function after which it is has done it.
            if self._teacher.changed() and not self.changed["teacher"]:
                self.changed["teacher"].setdefault(f"{stage} changes the teacher")
            for seed, student in list(self._students.items()):
                if student.changed():
                    del self._students[seed]
                    self.changed["students"].setdefault(f"{stage} changes the student of context.trained({seed})")

    def context(self, context: FitContext) -> FitContext:
        """The same context, with an eye on the shared students and on what is trained on."""

        def train(student: nn.Module, images: NormalImages, seed: int, **options: Any) -> nn.Module:
            if images is context.calibration:
                raise InputError("it trains on the calibration images, which the decision threshold is taken from")
            return context.train(student, images, seed, **options)

        def trained(seed: int) -> Student:
            with self.audit.pausing():  # the benchmark keeps them on disk
                student = context.trained(seed)
            if seed not in self._students:
                self._students[seed] = _Snapshot(student)
            return student

        return replace(context, train=train, trained=trained)

    def inputs(self, batch: Batch) -> Callable[[], None]:
        """Remember a batch; the function returned notes what `predict` changed in it."""
        tensors = {"batch.images": batch.images}
        tensors |= {f"batch.features[{index}]": scale for index, scale in enumerate(batch.features)}
        were = {name: tensor.clone() for name, tensor in tensors.items()}

        def compare() -> None:
            for name, tensor in tensors.items():
                if not torch.equal(tensor, were[name]):
                    self.changed["inputs"].setdefault(f"predict changes {name} in place")

        return compare

    def _note(self, what: str, stage: str, before: dict[str, object], after: dict[str, object]) -> None:
        for name, value in after.items():
            if value != before[name]:
                self.changed[what].setdefault(f"{stage} changes {name}")


class Guarded:
    """A method under guard; itself a :class:`~rdbench.protocol.Method`, for the benchmark's own routines."""

    def __init__(self, method: Method, guard: Guard) -> None:
        self.method = method
        self._guard = guard
        self._kept: Path | None = None

    def fit(self, train: NormalImages, context: FitContext) -> None:
        with self._guard.running("fit"):
            self.method.fit(train, self._guard.context(context))

    def predict(self, batch: Batch) -> Prediction:
        compare = self._guard.inputs(batch)
        with self._guard.running("predict", self._kept):
            prediction = self.method.predict(batch)
        compare()
        return prediction

    def save(self, directory: Path) -> None:
        with self._guard.running("save", directory, writable=True):
            self.method.save(directory)

    def load(self, directory: Path, context: FitContext) -> None:
        self._kept = directory
        with self._guard.running("load", directory):
            self.method.load(directory, context)


class _Snapshot:
    """A network as it was: parameters, buffers, modes, hooks."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        self._rest = self._modes()

    def changed(self) -> bool:
        """Whether anything of it is another by now."""
        state = self._module.state_dict()
        if state.keys() != self._state.keys() or self._modes() != self._rest:
            return True
        return not all(torch.equal(state[name], tensor) for name, tensor in self._state.items())

    def _modes(self) -> list[object]:
        parts = [
            (part.training, len(part._forward_hooks), len(part._forward_pre_hooks)) for part in self._module.modules()
        ]
        return [*parts, *(parameter.requires_grad for parameter in self._module.parameters())]


def _random_states() -> dict[str, object]:
    return {
        "Python's random state": random.getstate(),
        "NumPy's random state": pickle.dumps(np.random.get_state()),
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
    }


class _Counter(io.TextIOBase):
    """Counts what is printed and forgets it."""

    characters = 0

    def write(self, text: str) -> int:
        self.characters += len(text)
        return len(text)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise _TooLong in the block after so many seconds; no limit outside the main thread or without SIGALRM."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(_: int, __: FrameType | None) -> None:
        raise _TooLong(f"took longer than {seconds:g} s on images of 64 pixels")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _in_words(stage: str, error: BaseException, source: str) -> str:
    for late in (error, error.__cause__):  # the import tells it as any other error of the file
        if isinstance(late, _TooLong):
            return f"{stage} {late}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == source]
    where = f" (line {lines[-1]})" if lines else ""
    text = " ".join(str(error).split())
    if not isinstance(error, InputError | BrokenMethod):
        text = f"{stage} raised{where} {type(error).__name__}: {text}"
    elif stage != IMPORT:  # whose errors name the file
        text = f"{stage}{where}: {text}"
    return text[:500]

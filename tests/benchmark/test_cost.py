"""The cost meter on cases counted by hand."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from rdbench.benchmark.cost import Stopwatch, count_flop, count_passes, seconds_per_call
from rdbench.benchmark.fitting import COST, FitCost, fit_cost, load_fitted
from rdbench.rd.student import build_student
from rdbench.rd.teacher import load_teacher
from tests.command import Command

CPU = torch.device("cpu")


def test_arithmetic_is_counted_with_two_for_a_multiply_add() -> None:
    convolution = nn.Conv2d(3, 8, kernel_size=3, padding=1)
    images, matrix = torch.zeros(1, 3, 10, 12), torch.zeros(5, 7)
    with torch.inference_mode():
        assert count_flop(lambda: convolution(images)) == 2 * (3 * 3 * 3) * 8 * (10 * 12)
        assert count_flop(lambda: matrix @ matrix.T) == 2 * 5 * 7 * 5


def test_arithmetic_of_reverse_distillation_on_resnet18() -> None:
    """The figures of teacher, bottleneck and decoder at 256 px, in GFLOP, for a sixteenth of the pixels."""
    teacher = load_teacher("resnet18", "random", CPU)
    student = build_student(teacher.backbone, 0).eval()
    images = torch.zeros(1, 3, 64, 64)
    with torch.inference_mode():
        features = teacher(images)
        embedding = student.bottleneck(features)
        counts = [
            count_flop(call)
            for call in (
                lambda: teacher(images),
                lambda: student.bottleneck(features),
                lambda: student.decoder(embedding),
            )
        ]
    assert [16 * count / 1e9 for count in counts] == pytest.approx([3.66, 1.86, 3.12], abs=0.005)


def test_passes_are_counted_in_images_by_role_whoever_calls() -> None:
    teacher = load_teacher("embedded", "random", CPU)
    student = build_student(teacher.backbone, 0).eval()
    images = torch.zeros(3, 3, 32, 32)
    with torch.inference_mode(), count_passes() as passes:
        student(teacher(images))
        student.decoder(student.bottleneck(teacher(images[:1])))
    student(teacher(images))  # no longer counted
    assert passes == {"teacher": 4, "bottleneck": 4, "decoder": 4}


def test_the_machine_is_measured_in_shares_of_its_limit(rdbench: Command) -> None:
    size = ("--backbone", "embedded", "--image-size", "64", "--batch-size", "2", "--rounds", "1")
    done = rdbench("bench", *size, "--precision", "fp32")
    assert done.code == 0
    rows = {line.split("  ")[0].strip(): line.split() for line in done.out.splitlines() if "%" in line}
    assert list(rows) == ["limit", "teacher", "bottleneck", "decoder", "map and score", "training step"]
    assert rows["limit"][-1] == "100%"
    assert float(rows["teacher"][-4]) == pytest.approx(0.885 / 16, abs=0.001)  # GFLOP at 256 px, a sixteenth of them
    assert "One training, 240 images and 200 epochs: about" in done.out
    assert "unknown backbone 'embeded'; did you mean embedded" in rdbench("bench", "--backbone", "embeded").error()


def test_times_are_medians_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = iter([0.2, 0.01, 0.1, 0.02])
    now = [0.0]

    def call() -> None:
        now[0] += next(durations)

    with monkeypatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: now[0])
        assert seconds_per_call(call, CPU, repeats=3) == pytest.approx(0.02)
    with Stopwatch(CPU) as watch:
        time.sleep(0.02)
    assert watch.seconds >= 0.02


def test_a_disk_that_fills_up_leaves_what_was_measured(tmp_path: Path) -> None:
    """A method that takes a shared student when it is loaded has its cost written again, which may not halve it."""
    whole = {"seconds": 1.0, "passes": 2, "shared": [0], "trainings": 1}
    (tmp_path / COST).write_text(json.dumps(whole))
    shared: Any = SimpleNamespace(asked=[], forget=lambda: None)
    method: Any = SimpleNamespace(load=lambda *_: shared.asked.append(7))
    context: Any = SimpleNamespace(teacher=load_teacher("embedded", "random", CPU), seed=0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4, limits[1]))  # as if there were room for 4 bytes
        with pytest.raises(OSError, match="File too large"):
            load_fitted(method, context, shared, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert fit_cost(tmp_path) == FitCost(1.0, 2, (0,), 1)
    load_fitted(method, context, shared, tmp_path)
    assert fit_cost(tmp_path).shared == (0, 7)

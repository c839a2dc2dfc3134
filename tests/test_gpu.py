"""What only a GPU can show. Skipped, and counted as skipped, where there is none."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rdbench.benchmark.cost import count_passes
from rdbench.benchmark.images import FeatureBank
from rdbench.benchmark.store import Store
from rdbench.rd import training
from rdbench.rd.anomaly import anomaly_map, anomaly_score
from rdbench.rd.backbones import get_backbone
from rdbench.rd.graphs import GraphedPasses
from rdbench.rd.precision import autocast
from rdbench.rd.student import Student, build_student
from rdbench.rd.teacher import Teacher, load_teacher
from rdbench.rd.training import TrainingSettings, train_student
from rdbench.registry import find_methods
from rdbench.uq.dropout import Dropout
from tests.command import QUICK, Command
from tests.same import predictions_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT TESTED HERE: needs a GPU")

CPU, GPU = torch.device("cpu"), torch.device("cuda")
BACKBONE = get_backbone("embedded")
Network = dict[str, Tensor]


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return load_teacher("embedded", None, GPU)


@pytest.fixture
def images(teacher: Teacher, tmp_path: Path) -> FeatureBank:
    """Ten, so that batches of four leave a smaller one."""
    drawn = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), dtype=np.uint8)
    return FeatureBank(drawn, teacher, GPU, "fp32", 4, tmp_path)


def trained(images: FeatureBank, student: nn.Module, precision: str = "fp32", epochs: int = 3) -> Network:
    train_student(student, images, TrainingSettings(epochs, 4, precision), 0, GPU)
    return {name: tensor.clone() for name, tensor in student.state_dict().items()}


def same(one: Network, other: Network) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


class OnFrozen(nn.Module):
    """A decoder that is trained on a frozen bottleneck, as that of a decoder ensemble."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student
        student.bottleneck.requires_grad_(False)

    def train(self, mode: bool = True) -> OnFrozen:
        super().train(mode)
        self.student.bottleneck.eval()
        return self

    def forward(self, features: tuple[Tensor, ...]) -> Any:
        return self.student(features)


STUDENTS = {
    "plain": lambda student: student,
    "decoder on a frozen bottleneck": OnFrozen,
    "dropout in the decoder": lambda student: Dropout(student, "decoder", 0.2).to(GPU),
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", STUDENTS)
def test_training_by_graphs_gives_the_same_bits(
    kind: str, precision: str, images: FeatureBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = 0

    class Counted(GraphedPasses):
        def __init__(self, *given: Any) -> None:
            nonlocal recorded
            recorded += 1
            super().__init__(*given)

    monkeypatch.setattr(training, "GraphedPasses", Counted)
    results = []
    warnings.simplefilter("error")
    for worth in (10**9, 0):
        monkeypatch.setattr(training, "STEPS_WORTH_A_GRAPH", worth)
        results.append(trained(images, STUDENTS[kind](build_student(BACKBONE, 1, GPU)), precision))
    assert same(*results)
    assert recorded == (kind == "plain"), "what has layers or hooks of its own is trained without"


def test_a_student_that_is_no_longer_what_was_recorded_is_not_replayed(images: FeatureBank) -> None:
    student = build_student(BACKBONE, 0, GPU).train()
    passes = GraphedPasses(student, tuple(images.batch(range(4)).features), "fp32")
    with passes.replayed():
        assert "forward" in vars(student.decoder)
    student.load_state_dict({name: tensor.clone() for name, tensor in student.state_dict().items()}, assign=True)
    with passes.replayed():
        assert "forward" not in vars(student.decoder)


def test_trainings_leave_no_memory_behind(images: FeatureBank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "STEPS_WORTH_A_GRAPH", 0)
    held = []
    for _ in range(4):
        trained(images, build_student(BACKBONE, 0, GPU))
        held.append(torch.cuda.memory_allocated())
    assert held[-1] <= held[1]


def test_a_batch_goes_to_the_gpu_as_one_graph_for_each_pass(teacher: Teacher, images: FeatureBank) -> None:
    student = build_student(BACKBONE, 0, GPU).train()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    passes = GraphedPasses(student, tuple(images.batch(range(4)).features), "bf16")
    assert same(before, student.state_dict())
    with passes.replayed(), autocast(GPU, "bf16"), torch.profiler.profile() as profile:
        sum(scale.sum() for scale in student(tuple(images.batch(range(4)).features))).backward()
        sum(scale.sum() for scale in student(tuple(images.batch(range(3)).features))).backward()
    launches = sum(event.count for event in profile.key_averages() if "cudaGraphLaunch" in event.key)
    assert launches == 4  # bottleneck and decoder, there and back; three images pass the layers themselves
    assert "forward" not in vars(student.bottleneck)


@pytest.mark.parametrize("worth", [10**9, 0])
def test_an_epoch_waits_for_the_gpu_once(worth: int, images: FeatureBank, monkeypatch: pytest.MonkeyPatch) -> None:
    """With graphs too, but for what recording them takes before the first epoch."""
    student = build_student(BACKBONE, 0, GPU)
    trained(images, student)  # what is made once
    monkeypatch.setattr(training, "STEPS_WORTH_A_GRAPH", worth)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            trained(images, student, epochs=5)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = [f"{each.filename}:{each.lineno}" for each in said if "called a synchronizing" in str(each.message)]
    assert sum("rdbench/rd/training.py" in place for place in places) == 5, places
    assert worth == 0 or len(places) == 5, places


def test_the_passes_of_a_training_are_counted_and_those_of_recording_are_not(images: FeatureBank) -> None:
    with count_passes() as passes:
        trained(images, build_student(BACKBONE, 0, GPU), epochs=20)
    assert passes == {"bottleneck": 200, "decoder": 200}


def test_dropout_follows_the_seed_and_the_callers_random_state_is_kept(images: FeatureBank) -> None:
    torch.manual_seed(1)
    before = torch.cuda.get_rng_state()
    one, other = (trained(images, Dropout(build_student(BACKBONE, 1, GPU), "all", 0.2).to(GPU)) for _ in range(2))
    assert same(one, other)
    assert torch.equal(before, torch.cuda.get_rng_state())


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 2e-3)])
def test_one_network_scores_alike_on_both(teacher: Teacher, precision: str, tolerance: float) -> None:
    """As in float32 on the CPU, up to a share of the score."""
    pixels = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pixels += torch.linspace(0, 2, 8)[:, None, None, None] * torch.sign(torch.linspace(-1, 1, 64))
    found = []
    for device, network in ((CPU, load_teacher("embedded", None, CPU)), (GPU, teacher)):
        student, at = build_student(BACKBONE, 0, device).eval(), pixels.to(device)
        with torch.inference_mode(), autocast(device, precision if device == GPU else "fp32"):
            features = network(at)
            found.append(anomaly_score(anomaly_map(features, student(features), (64, 64))).cpu())
    on_cpu, on_gpu = found
    assert ((on_cpu - on_gpu).abs() < tolerance * on_cpu).all()


def test_every_method_runs_and_a_second_run_says_the_same(
    rdbench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "STEPS_WORTH_A_GRAPH", 0)
    for out in (tmp_path / "one", tmp_path / "two"):
        done = rdbench(
            "run", "--method", ",".join(find_methods()), "--dataset", "toy", "--category", "twill", *QUICK,
            "--device", "cuda", "--no-gallery", "--shift", "noise:3", "--out", out,
        )  # fmt: skip
        assert done.code == 0, done.error()
    first, second = predictions_of(tmp_path / "one"), predictions_of(tmp_path / "two")
    assert len(first) == len(find_methods())
    differ = [str(cell) for cell, said in first.items() if second[cell] != said]
    assert not differ
    for _, result in Store(tmp_path / "one").results():
        assert result.cost["peak_memory_mb"].value, result.spec

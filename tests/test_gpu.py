"""What only a GPU can show. Skipped, and counted as skipped, where there is none."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rdbench.benchmark import images as banks
from rdbench.benchmark.cost import count_passes
from rdbench.benchmark.images import FeatureBank
from rdbench.benchmark.store import Store
from rdbench.errors import InputError
from rdbench.rd import graphs, training
from rdbench.rd.anomaly import anomaly_map, anomaly_score
from rdbench.rd.backbones import get_backbone
from rdbench.rd.graphs import StepGraph
from rdbench.rd.precision import autocast
from rdbench.rd.student import Pyramid, Student, build_student
from rdbench.rd.teacher import Teacher, load_teacher
from rdbench.rd.training import TrainingSettings, train_student, train_students
from rdbench.registry import find_methods
from rdbench.uq.dropout import Dropout
from tests.command import QUICK, Command
from tests.same import predictions_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT TESTED HERE: needs a GPU")

CPU, GPU = torch.device("cpu"), torch.device("cuda")
BACKBONE = get_backbone("embedded")
Network = dict[str, Tensor]
LAUNCHES = ("cudaGraphLaunch", "LaunchKernel")
"""What is in the names of CUDA's functions that send a GPU work, whichever version ends them."""


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return load_teacher("embedded", None, GPU)


@pytest.fixture
def images(teacher: Teacher, tmp_path: Path) -> FeatureBank:
    return drawn_images(teacher, tmp_path)


def drawn_images(teacher: Teacher, directory: Path) -> FeatureBank:
    """Ten, so that batches of four leave a smaller one."""
    drawn = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), dtype=np.uint8)
    return FeatureBank(drawn, teacher, GPU, "fp32", 4, directory)


def trained(
    images: FeatureBank, student: nn.Module, precision: str = "fp32", epochs: int = 3, seed: int = 0, **options: Any
) -> Network:
    train_student(student, images, TrainingSettings(epochs, 4, precision), seed, GPU, **options)
    return weights(student)


def weights(student: nn.Module) -> Network:
    return {name: tensor.clone() for name, tensor in student.state_dict().items()}


def same(one: Network, other: Network) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def memory_held() -> dict[str, int]:
    """Bytes, when nothing is kept for later: those of tensors, and those of the segments that they lie in."""
    gc.collect()
    torch.cuda.empty_cache()
    return {"tensors": torch.cuda.memory_allocated(), "segments": torch.cuda.memory_reserved()}


def no_more(held: list[dict[str, int]]) -> bool:
    """Whether there is no more of either at the end than after the second time, when all that is made once is there."""
    return all(held[-1][what] <= held[1][what] for what in held[-1])


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


def recorded_step(student: Student, images: FeatureBank) -> tuple[StepGraph, Pyramid]:
    """The graph of a step in bf16, and a batch of features."""
    features = tuple(images.batch(range(4)).features)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.001, fused=True)

    def step(given: Pyramid) -> None:
        with autocast(GPU, "bf16"):
            value = sum(scale.float().sum() for scale in student(given))
        optimizer.zero_grad()
        torch.autograd.backward(value)
        optimizer.step()

    for _ in range(3):
        step(features)
    return StepGraph(step, student, optimizer, features), features


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", STUDENTS)
def test_training_by_graphs_gives_the_same_bits(
    kind: str, precision: str, images: FeatureBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = 0

    class Counted(StepGraph):
        def __init__(self, *given: Any) -> None:
            nonlocal recorded
            recorded += 1
            super().__init__(*given)

    monkeypatch.setattr(graphs, "StepGraph", Counted)
    results = []
    warnings.simplefilter("error")
    for worth in (10**9, 0):
        monkeypatch.setattr(training, "STEPS_WORTH_A_GRAPH", worth)
        results.append(trained(images, STUDENTS[kind](build_student(BACKBONE, 1, GPU)), precision))
    assert same(*results)
    assert recorded == (kind == "plain"), "what has layers or hooks of its own is trained without"


def test_a_graph_that_does_something_else_than_the_step_is_not_used(
    images: FeatureBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the smallest step of one weight that float32 has."""
    own = StepGraph.replay

    def replay(graph: StepGraph, features: Pyramid) -> None:
        own(graph, features)
        weight = next(graph._student.parameters()).detach()
        first = weight[(0,) * weight.dim()]
        first.copy_(torch.nextafter(first, first + 1))

    wanted = trained(images, build_student(BACKBONE, 0, GPU))
    monkeypatch.setattr(training, "STEPS_WORTH_A_GRAPH", 0)
    monkeypatch.setattr(StepGraph, "replay", replay)
    with pytest.warns(UserWarning, match="other weights than the step itself"):
        assert same(trained(images, build_student(BACKBONE, 0, GPU)), wanted)


def test_a_graph_follows_the_learning_rate(images: FeatureBank, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    warnings.simplefilter("error")  # of which one would be that there is no graph
    for worth in (10**9, 0):
        monkeypatch.setattr(training, "STEPS_WORTH_A_GRAPH", worth)
        falling = trained(images, build_student(BACKBONE, 1, GPU), rate=lambda share: 1 - share)
        results.append(falling)
    assert same(*results)
    assert not same(falling, trained(images, build_student(BACKBONE, 1, GPU)))


@pytest.mark.parametrize(("room", "precision"), [(0.8, "bf16"), (0.8, "fp32"), (0.0, "bf16")])
def test_students_trained_beside_each_other_are_those_trained_alone(
    room: float, precision: str, images: FeatureBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "STEPS_WORTH_A_GRAPH", 0)
    monkeypatch.setattr(training, "SIDE_BY_SIDE", 3)
    monkeypatch.setattr(training, "MEMORY_FOR_MORE", room)
    warnings.simplefilter("error")
    seeds, told = range(4), []
    alone = [trained(images, build_student(BACKBONE, seed, GPU), precision, 5, seed) for seed in seeds]
    students = [build_student(BACKBONE, seed, GPU) for seed in seeds]
    settings = TrainingSettings(5, 4, precision)
    with count_passes() as passes:
        train_students(students, images, settings, seeds, GPU, lambda place, epoch, _: told.append((place, epoch)))
    assert all(same(weights(student), own) for student, own in zip(students, alone, strict=True))
    assert passes == {"bottleneck": 200, "decoder": 200}
    assert sorted(told) == [(place, epoch) for place in seeds for epoch in range(1, 6)]
    beside = told.index((1, 1)) < told.index((0, 5))
    assert beside == (room > 0 and precision == "bf16")


def test_a_student_is_trained_only_when_its_weights_are_there(images: FeatureBank) -> None:
    """Its own stream waits for the caller's, on which a tenth of a second of other work goes before them."""
    wanted = trained(images, build_student(BACKBONE, 0, GPU))
    ready, student = build_student(BACKBONE, 0, GPU), build_student(BACKBONE, 1, GPU)
    torch.cuda.empty_cache()  # doing so later would wait for all that the GPU was told to do
    torch.cuda._sleep(2 * 10**8)
    student.load_state_dict(ready.state_dict())
    train_students([student], images, TrainingSettings(3, 4), [0], GPU)
    assert same(weights(student), wanted)


def test_a_student_that_fails_beside_others_leaves_nothing_behind(
    images: FeatureBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "STEPS_WORTH_A_GRAPH", 0)
    wanted, held = trained(images, build_student(BACKBONE, 0, GPU)), []
    for _ in range(4):
        students = [build_student(BACKBONE, seed, GPU) for seed in range(3)]
        with torch.no_grad():
            next(students[1].parameters()).fill_(float("nan"))
        with pytest.raises(InputError, match="the loss is nan"):
            train_students(students, images, TrainingSettings(3, 4, "bf16"), range(3), GPU)
        del students
        held.append(memory_held())
    assert no_more(held), held
    assert same(trained(images, build_student(BACKBONE, 0, GPU)), wanted)


def test_features_that_do_not_lie_on_the_gpu_train_the_same_student(
    images: FeatureBank, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In memory, and in files that are mapped into it."""
    monkeypatch.setattr(training, "STEPS_WORTH_A_GRAPH", 0)
    wanted = trained(images, build_student(BACKBONE, 0, GPU))
    with monkeypatch.context() as patch:
        patch.setattr(banks, "free_memory", lambda _: 0)
        in_memory = drawn_images(teacher, tmp_path)
        patch.setattr(banks, "FEATURE_BYTES_IN_MEMORY", 0)
        in_files = drawn_images(teacher, tmp_path)
    assert all(kept.device == CPU for bank in (in_memory, in_files) for kept in bank._features)
    assert same(trained(in_memory, build_student(BACKBONE, 0, GPU)), wanted)
    assert same(trained(in_files, build_student(BACKBONE, 0, GPU)), wanted)


def test_a_student_that_is_no_longer_what_was_recorded_is_not_replayed(images: FeatureBank) -> None:
    student = build_student(BACKBONE, 0, GPU).train()
    graph, _ = recorded_step(student, images)
    assert graph.still_holds()
    student.load_state_dict(weights(student), assign=True)
    assert not graph.still_holds()


def test_trainings_leave_no_memory_behind(images: FeatureBank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "STEPS_WORTH_A_GRAPH", 0)
    held = []
    settings = TrainingSettings(3, 4, "bf16")
    for _ in range(4):
        trained(images, build_student(BACKBONE, 0, GPU))
        train_students([build_student(BACKBONE, seed, GPU) for seed in range(3)], images, settings, range(3), GPU)
        held.append(memory_held())
    assert no_more(held), held


def test_a_step_goes_to_the_gpu_as_one_graph(images: FeatureBank) -> None:
    student = build_student(BACKBONE, 0, GPU).train()
    graph, features = recorded_step(student, images)
    before = weights(student)
    assert graph.takes(features)
    assert not graph.takes(tuple(images.batch(range(3)).features))
    with torch.profiler.profile() as profile:
        graph.replay(features)
        torch.cuda.synchronize()
    calls = {event.key: event.count for event in profile.key_averages()}
    launches = {what: sum(count for key, count in calls.items() if what in key) for what in LAUNCHES}
    assert launches["cudaGraphLaunch"] == 1, calls
    assert sum(launches.values()) <= 3, calls  # the features' way into the graph is the rest
    still = [name for name, tensor in student.state_dict().items() if torch.equal(tensor, before[name])]
    assert not still


def test_recording_runs_nothing(images: FeatureBank, monkeypatch: pytest.MonkeyPatch) -> None:
    student = build_student(BACKBONE, 0, GPU).train()
    before: list[Network] = []
    own = StepGraph.__init__

    def spied(graph: StepGraph, *given: Any) -> None:
        before.append(weights(student))
        own(graph, *given)

    monkeypatch.setattr(StepGraph, "__init__", spied)
    recorded_step(student, images)
    assert same(before[0], weights(student))


@pytest.mark.parametrize("worth", [10**9, 0])
def test_an_epoch_waits_for_the_gpu_once(worth: int, images: FeatureBank, monkeypatch: pytest.MonkeyPatch) -> None:
    """With graphs too, but for what recording takes once, at the fourth step."""
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
    """Also where steps are recorded and members train beside each other, for which batches of 8 of 60 images do."""
    monkeypatch.setattr(training, "STEPS_WORTH_A_GRAPH", 0)
    rooms: list[int] = []

    def noted(*given: Any, own: Any = training._room_beside) -> int:
        rooms.append(own(*given))
        return rooms[-1]

    monkeypatch.setattr(training, "_room_beside", noted)
    for out in (tmp_path / "one", tmp_path / "two"):
        done = rdbench(
            "run", "--method", ",".join(find_methods()), "--dataset", "toy", "--category", "twill", *QUICK,
            "--device", "cuda", "--precision", "bf16", "--no-gallery", "--shift", "noise:3", "--batch-size", "8",
            "--out", out,
        )  # fmt: skip
        assert done.code == 0, done.error()
    assert max(rooms) > 0
    first, second = predictions_of(tmp_path / "one"), predictions_of(tmp_path / "two")
    assert len(first) == len(find_methods())
    differ = [str(cell) for cell, said in first.items() if second[cell] != said]
    assert not differ
    for _, result in Store(tmp_path / "one").results():
        assert result.cost["peak_memory_mb"].value, result.spec

"""What a recorded training step repeats and what it does not, without a GPU: a recorder stands for torch.cuda's.

It repeats torch's operations on the very tensors that they were recorded with, and nothing of Python's, as a CUDA
graph does; what is the GPU's own is in tests/test_gpu.py.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rdbench.benchmark.cost import count_passes
from rdbench.rd import training
from rdbench.rd.graphs import StepGraph
from rdbench.rd.student import Student, build_student
from rdbench.rd.training import TrainingSettings, train_student, train_students
from tests.rd.test_training import BACKBONE, CPU, DrawnFeatures, same

TAKEN = 10**9
"""Bytes of memory of each recorded step here."""


class Recorder(TorchDispatchMode):
    """Torch's operations as they come; `replay` runs them again, each into the tensors that it gave then."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.made: set[int] = set()
        self.were: list[tuple[Tensor, Tensor]] = []
        self.replays = 0
        self.fails: BaseException | None = None
        self.left_out = ""
        """What a replay leaves out: the last operation of this name."""

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:  # a value that Python reads, which no graph repeats
            raise RuntimeError("operation not permitted when stream is capturing")
        for argument, value in zip(function._schema.arguments, given, strict=False):
            # What torch does not say of batch norm: it moves its statistics.
            if argument.name.startswith("running_") or (argument.alias_info and argument.alias_info.is_write):
                for tensor in tree_leaves(value):
                    if tensor.untyped_storage().data_ptr() not in self.made:
                        self.were.append((tensor, tensor.clone()))
        result = function(*given, **(named or {}))
        results = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        self.made |= {each.untyped_storage().data_ptr() for each in results}
        self.operations.append((function, given, named or {}, results))
        return result

    def replay(self) -> None:
        self.replays += 1
        if self.left_out:
            names = [str(function) for function, *_ in self.operations]
            del self.operations[max(place for place, name in enumerate(names) if name == self.left_out)]
        with torch.no_grad():
            for function, given, named, results in self.operations:
                again = [each for each in tree_leaves(function(*given, **named)) if isinstance(each, Tensor)]
                for own, new in zip(results, again, strict=True):
                    if own.data_ptr() != new.data_ptr():
                        own.copy_(new)

    @contextmanager
    def recording(self, stream: object) -> Iterator[None]:
        assert stream is None
        try:
            with self:
                yield
            if self.fails:
                raise self.fails
        finally:
            with torch.no_grad():  # recording a CUDA graph runs nothing
                for tensor, was in reversed(self.were):
                    tensor.copy_(was)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    """Trainings here take their steps by recorders that stand for graphs, which the list then holds."""
    recorders: list[Recorder] = []

    def new() -> Recorder:
        recorders.append(Recorder())
        return recorders[-1]

    monkeypatch.setattr(training, "products_where_faster", lambda _: nullcontext())  # which no GPU's student has
    monkeypatch.setattr(torch.cuda, "CUDAGraph", new)
    monkeypatch.setattr(torch.cuda, "graph", lambda recorder, stream: recorder.recording(stream))
    for context in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, context, lambda _: nullcontext())
    for stream in ("current_stream", "default_stream"):
        monkeypatch.setattr(torch.cuda, stream, lambda: "the default one")
    monkeypatch.setattr(training._Training, "_worth_a_graph", True)
    monkeypatch.setattr(training, "memory_in_use", lambda _: TAKEN * len(recorders))
    monkeypatch.setattr(training, "free_memory", lambda _: 10 * TAKEN)
    return recorders


def trained(
    precision: str = "fp32",
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
    change: Callable[[Student, int], object] = lambda student, epoch: None,
) -> Student:
    """For three epochs, after each of which `change` gets the student and the epoch."""
    student = build_student(BACKBONE, 0)

    def after(epoch: int, loss: float) -> None:
        on_epoch(epoch, loss)
        change(student, epoch)

    train_student(student, DrawnFeatures(size=32), TrainingSettings(3, 4, precision), 0, CPU, after)
    return student


@pytest.fixture(scope="module")
def plain() -> Student:
    """Trained without a recorder."""
    return trained()


def unrecorded(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Student:
    with monkeypatch.context() as patch:
        patch.setattr(training._Training, "_worth_a_graph", False)
        return trained(**options)


@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}], ids=["float32", "bf16"])
def test_recorded_steps_give_the_same_weights(
    options: dict[str, Any], recorded: list[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten images in batches of four: three steps as ever, then recorded ones, but for the smaller batches."""
    wanted = unrecorded(monkeypatch, **options)
    assert not recorded
    assert same(trained(**options), wanted)
    assert len(recorded) == 1
    assert recorded[0].replays == 1 + 4, "the first to see whether it does what the step does"


def test_losses_and_passes_are_told_as_ever(recorded: list[Recorder], monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[tuple[int, float]] = []
    told: list[tuple[int, float]] = []
    unrecorded(monkeypatch, on_epoch=lambda *said: wanted.append(said))
    with count_passes() as passes:
        trained(on_epoch=lambda *said: told.append(said))
    assert recorded
    assert told == wanted
    assert passes == {"bottleneck": 30, "decoder": 30}


def test_no_autograd_graph_is_there_when_a_step_is_recorded(
    recorded: list[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU its nodes for the weights would bring the stream that they were made on into the recording."""
    own, there = StepGraph.__init__, []

    def look(graph: StepGraph, *given: Any) -> None:
        gc.collect()
        there.extend(each for each in gc.get_objects() if type(each) is Tensor and each.grad_fn is not None)
        own(graph, *given)

    monkeypatch.setattr(StepGraph, "__init__", look)
    trained()
    assert recorded
    assert not there


def test_recorded_steps_keep_no_autograd_graph(recorded: list[Recorder]) -> None:
    """It would keep the GPU's streams of before, on which a later gradient is waited for."""
    kept: list[bool] = []

    def look(_: nn.Module, given: Any, output: Any) -> None:
        kept.append(any(each.requires_grad for each in tree_leaves((given, output))))

    own = Recorder.replay
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "replay", lambda recorder: (kept.clear(), own(recorder)))
        hook = nn.modules.module.register_module_forward_hook(look)
        try:
            trained()
        finally:
            hook.remove()
    assert kept[:2] == [False, False], "the last replay's bottleneck and decoder"


def fail_with(error: Exception, monkeypatch: pytest.MonkeyPatch, recorded: list[Recorder]) -> None:
    """Recording runs to its end and raises `error`."""

    def failing() -> Recorder:
        recorded.append(Recorder())
        recorded[-1].fails = error
        return recorded[-1]

    monkeypatch.setattr(torch.cuda, "CUDAGraph", failing)


def after(cause: Exception) -> Exception:
    """What ending a recording says that `cause` has spoilt."""
    error = RuntimeError("operation failed due to a previous error during capture")
    error.__context__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("the GPU is full"),
        after(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")),
        after(RuntimeError("operation not permitted when stream is capturing")),
    ],
    ids=["memory", "memory, seen at the end", "what a graph cannot hold"],
)
def test_what_cannot_be_recorded_is_trained_as_ever(
    error: Exception, monkeypatch: pytest.MonkeyPatch, recorded: list[Recorder], plain: Student
) -> None:
    fail_with(error, monkeypatch, recorded)
    why = str(error.__context__ or error)
    with count_passes() as passes, pytest.warns(UserWarning, match=f"without a CUDA graph, which is slower: {why}"):
        assert same(trained(), plain)
    assert len(recorded) == 1
    assert passes == {"bottleneck": 30, "decoder": 30}


def test_a_graph_that_is_not_used_leaves_no_gradients(
    monkeypatch: pytest.MonkeyPatch, recorded: list[Recorder]
) -> None:
    """They lie in its memory, which the steps that follow are to have."""
    left: list[str] = []
    own = training._Training._recorded

    def looked_at(lane: training._Training, features: Any) -> Any:
        graph = own(lane, features)
        left.extend(name for name, weight in lane._student.named_parameters() if weight.grad is not None)
        return graph

    monkeypatch.setattr(training._Training, "_recorded", looked_at)
    fail_with(torch.OutOfMemoryError("the GPU is full"), monkeypatch, recorded)
    with pytest.warns(UserWarning, match="the GPU is full"):
        trained()
    assert recorded
    assert not left


@pytest.mark.parametrize(
    "operation",
    [
        "aten.convolution_backward.default",  # a gradient is the last step's
        "aten.native_batch_norm.default",  # statistics stand still
        "aten._fused_adam_.default",  # weights do
        "aten._foreach_add_.Scalar",  # Adam does not count on
        "aten.add_.Tensor",  # the loss is not summed up
    ],
)
def test_a_graph_that_does_something_else_than_the_step_is_not_used(
    operation: str, monkeypatch: pytest.MonkeyPatch, recorded: list[Recorder], plain: Student
) -> None:

    def wrong() -> Recorder:
        recorded.append(Recorder())
        recorded[-1].left_out = operation
        return recorded[-1]

    monkeypatch.setattr(torch.cuda, "CUDAGraph", wrong)
    with count_passes() as passes, pytest.warns(UserWarning, match="other weights than the step itself"):
        assert same(trained(), plain)
    assert recorded[0].replays == 1
    assert passes == {"bottleneck": 30, "decoder": 30}


def test_a_graph_that_fails_when_it_is_tried_is_not_used(
    monkeypatch: pytest.MonkeyPatch, recorded: list[Recorder], plain: Student
) -> None:
    def failing(recorder: Recorder) -> None:
        replay(recorder)
        raise torch.OutOfMemoryError("the GPU is full")

    replay = Recorder.replay
    monkeypatch.setattr(Recorder, "replay", failing)
    with pytest.warns(UserWarning, match="the GPU is full"):
        assert same(trained(), plain)
    assert len(recorded) == 1


@pytest.mark.parametrize("more", [0, -1])
def test_a_graph_leaves_memory_for_a_smaller_last_batch(
    more: int, monkeypatch: pytest.MonkeyPatch, recorded: list[Recorder], plain: Student
) -> None:
    """Of two images, where the graph's is of four: half of what the graph took, and the gradients."""
    gradients = sum(4 * weight.numel() for weight in plain.parameters())
    monkeypatch.setattr(training, "free_memory", lambda _: TAKEN // 2 + gradients + more)
    expected = nullcontext() if more == 0 else pytest.warns(UserWarning, match="too little memory for the smaller last")
    with expected:
        assert same(trained(), plain)
    assert recorded[0].replays == (5 if more == 0 else 1)


def test_a_student_that_is_changed_after_an_epoch_is_trained_on_as_it_is(
    recorded: list[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tensors are others after the second epoch: the recorded steps would go on with those of before."""

    def change(student: Student, epoch: int) -> None:
        if epoch == 2:
            for buffer in student.decoder.fine.buffers():
                buffer.data = buffer.clone() + 1

    wanted = unrecorded(monkeypatch, change=change)
    assert same(trained(change=change), wanted)
    assert recorded[0].replays == 3


def test_a_student_that_gets_dropout_before_its_steps_are_recorded_is_trained_as_ever(
    recorded: list[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(student: Student, _: int) -> None:
        student.decoder.fine.append(nn.Dropout2d(0.5))

    wanted = unrecorded(monkeypatch, change=change)
    assert same(trained(change=change), wanted)
    assert not recorded


def test_students_beside_each_other_have_steps_of_their_own(
    recorded: list[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of which 0.8 are to be used; each takes 1, and 0.5 and a little for its smaller batches, as does the first.
    monkeypatch.setattr(training, "free_memory", lambda _: 3.5 * TAKEN)
    monkeypatch.setattr(training, "trained_at_once", lambda *_: 5)
    seeds = [3, 4, 5]
    students = [build_student(BACKBONE, seed) for seed in seeds]
    order: list[tuple[int, int]] = []
    settings = TrainingSettings(3, 4)
    train_students(
        students, DrawnFeatures(), settings, seeds, CPU, lambda place, epoch, _: order.append((place, epoch))
    )
    assert [recorder.replays for recorder in recorded] == [5, 5, 5]
    # The first is four steps ahead, which show what memory one takes; the third had no room.
    assert order == [(0, 1), (0, 2), (1, 1), (0, 3), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]
    monkeypatch.setattr(training._Training, "_worth_a_graph", False)
    for student, seed in zip(students, seeds, strict=True):
        alone = build_student(BACKBONE, seed)
        train_student(alone, DrawnFeatures(), settings, seed, CPU)
        assert same(student, alone)

"""The training of a student: the released RD4AD recipe on teacher features that are computed once."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rdbench.errors import InputError
from rdbench.protocol import NormalImages
from rdbench.rd.anomaly import distillation_loss
from rdbench.rd.convolutions import products_where_faster
from rdbench.rd.graphs import StepGraph, can_be_graphed, recorded_step
from rdbench.rd.memory import free_memory, memory_in_use
from rdbench.rd.precision import autocast, steady_cudnn
from rdbench.rd.student import Pyramid

if TYPE_CHECKING:
    from rdbench.protocol import Loss

LEARNING_RATE = 0.005
BETAS = (0.5, 0.999)
STEPS_WORTH_A_GRAPH = 50
"""Recording the graph of a GPU's step takes as long as some ten steps."""
STEPS_BEFORE_A_GRAPH = 3
"""In which libraries and the optimizer make what a graph can only use."""
SIDE_BY_SIDE = 5
"""Students that a GPU trains at once: more were no faster, by network and step."""
MEMORY_FOR_MORE = 0.8
"""Share of a GPU's free memory that students beside the first, and smaller batches, may take."""


@dataclass(frozen=True)
class TrainingSettings:
    """What a run sets of the training; the rest is the released recipe."""

    epochs: int
    batch_size: int = 16
    precision: str = "fp32"


def train_student(
    student: nn.Module,
    images: NormalImages,
    settings: TrainingSettings,
    seed: int,
    device: torch.device,
    on_epoch: Callable[[int, float], None] | None = None,
    loss: Loss = distillation_loss,
    rate: Callable[[float], float] | None = None,
) -> nn.Module:
    """Train `student` in place on normal `images`; return it in eval mode, as the last epoch left it.

    The student maps the teacher's pyramid to what `loss` compares with it; parameters that ask for no gradient stay as
    they are. One `seed` gives the same weights, bit for bit, on one machine; the caller's random state is left as it
    was.

    Args:
        on_epoch: called after each epoch with its number, from 1, and its mean loss per image.
        rate: share of the steps that are done, in [0, 1) -> factor on the learning rate.

    Raises:
        InputError: the loss is not finite, or images of 32 pixels leave a last batch of one.
    """
    training = _Training(student, images, settings, seed, device, on_epoch, loss, rate)
    with _steady(device):
        torch.manual_seed(seed)  # for what the student draws itself, such as dropout
        for _ in training.run():
            pass
    return student.eval()


def trained_at_once(device: torch.device, precision: str) -> int:
    """How many students :func:`train_students` trains beside each other, where there is memory for them.

    On a GPU in bf16. In float32 torch hands batch norm to cuDNN, whose kernels for channels last are known to wait for
    room on a GPU that another stream has taken (pytorch issue 80259): two that wait for each other would for ever.
    """
    return SIDE_BY_SIDE if device.type == "cuda" and precision == "bf16" else 1


def train_students(
    students: Sequence[nn.Module],
    images: NormalImages,
    settings: TrainingSettings,
    seeds: Sequence[int],
    device: torch.device,
    on_epoch: Callable[[int, int, float], None] | None = None,
) -> Sequence[nn.Module]:
    """Each of the students as :func:`train_student` trains it; beside each other as :func:`trained_at_once` says.

    Each takes its steps on a stream of its own: where a batch of 16 leaves parts of a GPU idle, another's fills them.

    Args:
        on_epoch: called after each epoch of each student with the student's place, from 0, and as for one alone.
    """

    def told(place: int) -> Callable[[int, float], None]:
        return lambda epoch, mean_loss: on_epoch(place, epoch, mean_loss) if on_epoch is not None else None

    more = trained_at_once(device, settings.precision) - 1
    if not all(can_be_graphed(student.train()) for student in students):
        more = 0  # those that draw themselves would draw from one random state
    waiting = list(enumerate(zip(students, seeds, strict=True)))

    def next_one() -> _Lane:
        place, (student, seed) = waiting.pop(0)
        return _Lane(_Training(student, images, settings, seed, device, told(place)), device)

    while waiting:
        lanes = [next_one()]
        with _steady(device):
            torch.manual_seed(lanes[0].training.seed)
            try:
                if more and waiting:
                    lanes += [next_one() for _ in range(min(len(waiting), more, _room_beside(lanes[0], device)))]
                going = lanes
                while going:
                    going = [lane for lane in going if lane.advance()]
            finally:
                for lane in lanes:
                    lane.join()
    return [student.eval() for student in students]


class _Training:
    """A student, the optimizer of its weights, and how far they are."""

    def __init__(
        self,
        student: nn.Module,
        images: NormalImages,
        settings: TrainingSettings,
        seed: int,
        device: torch.device,
        on_epoch: Callable[[int, float], None] | None,
        loss: Loss = distillation_loss,
        rate: Callable[[float], float] | None = None,
    ) -> None:
        student.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self._student, self._images, self._settings, self.seed, self._device = student, images, settings, seed, device
        self._on_epoch, self._loss, self._rate = on_epoch, loss, rate
        wanted = [parameter for parameter in student.parameters() if parameter.requires_grad]
        first: float | Tensor = LEARNING_RATE
        if rate is not None and device.type == "cuda":  # a graph reads it where it lies
            first = torch.full((), LEARNING_RATE, device=device)
        self._optimizer = torch.optim.Adam(wanted, lr=first, betas=BETAS, fused=device.type in ("cpu", "cuda"))
        self._total = torch.zeros((), device=device)
        """The epoch's losses so far, summed over images."""
        self.graph: StepGraph | None = None
        """Of a step, while there is one."""
        self._steps = settings.epochs * math.ceil(len(images) / settings.batch_size)

    @property
    def _worth_a_graph(self) -> bool:
        """A loss of a method's own may do what a graph does not repeat."""
        return (
            self._device.type == "cuda"
            and len(self._images) >= self._settings.batch_size
            and self._steps >= STEPS_WORTH_A_GRAPH
            and self._loss is distillation_loss
        )

    def memory_beside_graph(self, taken: int) -> float:
        """Bytes for a smaller last batch: gradients, and its share of those `taken`, which the graph does not lend."""
        last = len(self._images) % self._settings.batch_size
        gradients = sum(weight.nbytes for weight in self._student.parameters())
        return gradients + last / self._settings.batch_size * taken if last else 0

    def run(self) -> Iterator[None]:
        """Train; stop after each step, which a GPU need not have done by then."""
        shuffle = torch.Generator().manual_seed(self.seed)
        to_be_graphed = self._worth_a_graph
        step = 0
        for epoch in range(1, self._settings.epochs + 1):
            self._total.zero_()
            if self.graph is not None and not self.graph.still_holds():
                self.graph = None
            with self._faster_convolutions():
                for indices in torch.split(
                    torch.randperm(len(self._images), generator=shuffle), self._settings.batch_size
                ):
                    if self._rate is not None:
                        self._set_rate(LEARNING_RATE * self._rate(step / self._steps))
                    features = tuple(self._images.batch(indices).features)  # not what a batch keeps for maps
                    self._check_size(features)
                    if to_be_graphed and step >= STEPS_BEFORE_A_GRAPH and len(indices) == self._settings.batch_size:
                        self.graph, to_be_graphed = self._recorded(features), False
                    if self.graph is not None and self.graph.takes(features):
                        self.graph.replay(features)
                    else:
                        self._step(features)
                    step += 1
                    yield
            self._end_epoch(epoch)
        self._optimizer.zero_grad()
        self._optimizer.state.clear()  # with the graph most of a training's memory
        self.graph = None

    def _recorded(self, features: Pyramid) -> StepGraph | None:
        if not can_be_graphed(self._student):
            return None
        before = memory_in_use(self._device)
        try:
            graph = recorded_step(self._step, self._student, self._optimizer, features, self._changed())
        except RuntimeError as error:  # mostly for memory, as a graph has its own; the training is where it was
            why = str(error if error.__context__ is None else error.__context__)  # which ending the recording failed on
        else:
            taken = memory_in_use(self._device) - before
            if self.memory_beside_graph(taken) <= free_memory(self._device):
                return graph
            why = "it leaves too little memory for the smaller last batch of an epoch"
        self._optimizer.zero_grad()  # gradients of a recorded step keep its memory, until after the next forward pass
        warnings.warn(f"training goes on without a CUDA graph, which is slower: {why}", stacklevel=2)
        return None

    def _step(self, features: Pyramid) -> None:
        with autocast(self._device, self._settings.precision):
            value = self._loss(features, self._student(features))
        self._optimizer.zero_grad()
        torch.autograd.backward(value)
        self._optimizer.step()
        self._total += value.detach() * len(features[0])

    def _changed(self) -> list[Tensor]:
        """What a step changes and a later one reads."""
        moments = [moment for state in self._optimizer.state.values() for moment in state.values()]
        return [*self._student.parameters(), *self._student.buffers(), *moments, self._total]

    def _end_epoch(self, epoch: int) -> None:
        mean_loss = self._total.item() / len(self._images)  # the epoch's only wait for the device
        if not math.isfinite(mean_loss):
            raise InputError(
                f"training: the loss is {mean_loss} after epoch {epoch} of {self._settings.epochs} "
                f"(seed {self.seed}); try --precision fp32, another --seed, or look for broken images or teacher "
                "weights"
            )
        if self._on_epoch is not None:
            self._on_epoch(epoch, mean_loss)

    def _set_rate(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _check_size(self, features: Pyramid) -> None:
        if len(features[0]) == 1 and max(features[-1].shape[-2:]) == 2:
            raise InputError(
                f"training: {len(self._images)} images in batches of {self._settings.batch_size} leave a batch of "
                "one, of which batch norm gets one value per channel at 32 pixels; change --batch-size or --image-size"
            )

    def _faster_convolutions(self) -> AbstractContextManager[None]:
        if self._device.type == "cpu" and self._settings.precision == "bf16":
            return products_where_faster(self._student)
        return nullcontext()


class _Lane:
    """A training among others, on a GPU on a stream of its own."""

    def __init__(self, training: _Training, device: torch.device) -> None:
        self.training = training
        self._steps = training.run()
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def advance(self) -> bool:
        """Take a step; whether there was one to take."""
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            return next(self._steps, self) is not self

    def join(self) -> None:
        """Let the GPU do what follows only when it is done with this training."""
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)


def _room_beside(lane: _Lane, device: torch.device) -> int:
    """Trainings like this one that a GPU has memory for; it takes its first steps to show how much that is."""
    before = memory_in_use(device)
    for _ in range(STEPS_BEFORE_A_GRAPH + 2):  # one more, as a short batch cannot be the recorded one
        if lane.training.graph is None:
            lane.advance()
    if lane.training.graph is None:
        return 0
    taken = max(memory_in_use(device) - before, 1)
    last = lane.training.memory_beside_graph(taken)
    return max(0, int((MEMORY_FOR_MORE * free_memory(device) - last) / (taken + last)))


@contextmanager
def _steady(device: torch.device) -> Iterator[None]:
    """The same bits each time, the caller's random state as it was, and a GPU's memory for others again."""
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), steady_cudnn():
            yield
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()

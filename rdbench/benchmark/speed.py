"""How fast this machine runs Reverse Distillation, and how near that is to what its convolutions allow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from rdbench.benchmark.cost import Stopwatch, count_flop
from rdbench.protocol import Batch
from rdbench.rd.anomaly import anomaly_map, anomaly_score
from rdbench.rd.precision import autocast
from rdbench.rd.student import build_student
from rdbench.rd.teacher import load_teacher
from rdbench.rd.training import TrainingSettings, train_student

LIMIT = "limit"
LIMITS = {"cpu": "3 x 3 convolution of 256 channels", "cuda": "product of 8,192 x 8,192 matrices"}
"""What stands for the most arithmetic that a device does. A GPU is done with a batch's convolution before it is seen
how long that takes."""
TRAINING = "training step"
STEPS = {"cpu": 4, "cuda": 200}
"""Training steps per call: what a training does once, such as making the optimiser or recording a GPU's graphs, is not
to weigh as much as steps do."""


@dataclass(frozen=True)
class Speed:
    """One part of the work, per image."""

    part: str
    gflop: float
    ms: float
    """Median over rounds."""
    limit_share: float
    """Its GFLOP/s over those of the :data:`LIMITS`, measured in the same rounds."""

    @property
    def gflop_per_second(self) -> float:
        """Arithmetic per second reached."""
        return self.gflop / self.ms * 1000


def measure_machine(
    backbone: str, size: tuple[int, int], batch_size: int, precision: str, device: torch.device, rounds: int
) -> list[Speed]:
    """Time the limit, teacher, bottleneck, decoder, map and a training step; they take turns, `rounds` times."""
    parts, flop = measured_parts(backbone, size, batch_size, precision, device)
    seconds = interleaved(parts, device, rounds)
    seconds[TRAINING] = [each / STEPS[device.type] for each in seconds[TRAINING]]
    limit = flop[LIMIT] * batch_size / median(seconds[LIMIT])
    found = []
    for name, times in seconds.items():
        per_image = median(times) / batch_size
        found.append(Speed(name, flop[name] / 1e9, 1000 * per_image, flop[name] / per_image / limit))
    return found


def measured_parts(
    backbone: str, size: tuple[int, int], batch_size: int, precision: str, device: torch.device
) -> tuple[dict[str, Callable[[], object]], dict[str, float]]:
    """What is timed, on drawn images (H, W) with an untrained teacher, and its FLOP per image.

    `TRAINING` makes `STEPS` steps with the teacher's features kept, as in a run; the arithmetic of one is three times
    that of bottleneck and decoder.
    """
    teacher = load_teacher(backbone, "random", device)
    student = build_student(teacher.backbone, 0, device).eval()
    images = torch.randn(batch_size, 3, *size, device=device).contiguous(memory_format=torch.channels_last)
    half = torch.bfloat16 if precision == "bf16" else torch.float32
    with torch.inference_mode(False), torch.no_grad(), autocast(device, precision):
        features = tuple(scale.contiguous(memory_format=torch.channels_last) for scale in teacher(images))
        embedding = student.bottleneck(features)
        pyramid = student.decoder(embedding)

    def inferring(call: Callable[[], object]) -> Callable[[], object]:
        def run() -> object:
            with torch.inference_mode(), autocast(device, precision):
                return call()

        return run

    trained, same = build_student(teacher.backbone, 0), SameBatch(images, features, STEPS[device.type])
    settings = TrainingSettings(epochs=1, batch_size=batch_size, precision=precision)
    parts: dict[str, Callable[[], object]] = {
        LIMIT: inferring(_limit(batch_size, device, half)),
        "teacher": inferring(partial(teacher, images)),
        "bottleneck": inferring(partial(student.bottleneck, features)),
        "decoder": inferring(partial(student.decoder, embedding)),
        "map and score": inferring(lambda: anomaly_score(anomaly_map(features, pyramid, size))),
        TRAINING: lambda: train_student(trained, same, settings, 0, device),
    }
    flop = {name: count_flop(call) / batch_size for name, call in parts.items() if name != TRAINING}
    flop[TRAINING] = 3 * (flop["bottleneck"] + flop["decoder"])
    return parts, flop


def _limit(batch_size: int, device: torch.device, dtype: torch.dtype) -> Callable[[], object]:
    """The arithmetic of :data:`LIMITS`."""
    if device.type == "cuda":
        matrix = torch.randn(8192, 8192, device=device, dtype=dtype)
        return partial(torch.matmul, matrix, matrix)
    images, weight = torch.randn(batch_size, 256, 32, 32, dtype=dtype), torch.randn(256, 256, 3, 3, dtype=dtype)
    last = torch.channels_last
    return partial(F.conv2d, images.to(memory_format=last), weight.to(memory_format=last), padding=1)


def interleaved(calls: Mapping[str, Callable[[], object]], device: torch.device, rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, `rounds` times in turn, after one turn that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            with Stopwatch(device) as watch:
                call()
            if turn:
                seconds[name].append(watch.seconds)
    return seconds


class SameBatch:
    """Batches of normal images, all the same one, with features that are kept."""

    def __init__(self, images: Tensor, features: tuple[Tensor, ...], count: int) -> None:
        self._count, self._batch = count * len(images), Batch(images, lambda: features)

    def __len__(self) -> int:
        return self._count

    def batch(self, indices: Sequence[int] | Tensor) -> Batch:
        return self._batch

    def batches(self, size: int) -> Iterator[Batch]:
        yield from [self._batch] * (self._count // size)

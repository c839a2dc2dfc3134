"""What is kept of one method on its way over the test images: what it said, and what that cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, is_dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rdbench.benchmark.cost import memory_limit
from rdbench.benchmark.images import to_numpy
from rdbench.benchmark.pixels import PixelTally
from rdbench.benchmark.results import Predictions
from rdbench.datasets.base import Category
from rdbench.errors import BrokenMethod
from rdbench.metrics.localization import PixelMoments
from rdbench.protocol import Method, Prediction
from rdbench.rd.teacher import Teacher

WARM_UP = 2
"""Calls of `predict` after which a process has grown to what one needs."""
MOST_KEPT = 0.25
"""Share of the machine's memory that a method may keep from batch to batch."""


@dataclass
class MethodRun:
    """One method on its way over the test images: what it said so far."""

    method: Method
    inside: Callable[[], AbstractContextManager[None]] = nullcontext
    """Says that the method's own code runs."""
    normal_pixels: PixelMoments = field(default_factory=PixelMoments)
    """Of the calibration images' maps."""
    pixel: list[dict[str, PixelTally]] = field(default_factory=list)
    """By condition, then by real lighting ("" where there is none)."""
    batch_seconds: list[tuple[int, float]] = field(default_factory=list)
    """(images, seconds) of every clean batch."""
    passes: Counter[str] = field(default_factory=Counter)
    gflop: float = math.nan
    """Per image, teacher included."""
    throughput: dict[int, float] = field(default_factory=dict)
    """Images per second by batch size, teacher included, where it was measured apart from the test."""
    working_bytes: int = 0
    """On a GPU, the most that predicting a clean batch took beyond what was there before."""
    calls: int = 0
    """Of `predict`, so far."""
    kept_bytes: int = 0
    """By how much the process grew in them, the first `WARM_UP` left out."""
    failure: Exception | None = None
    calibration: Said = field(default_factory=lambda: Said.empty(0, 0))
    said: Said = field(default_factory=lambda: Said.empty(0, 0))

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """A stranger's method may raise anything: it costs its own cell only, and nothing more is asked of it."""
        try:
            with self.inside():
                yield
        except Exception as error:
            self.failure = error

    def check_memory(self, grown: int) -> None:
        """Give the method up once it keeps too much from batch to batch, before that costs others their cells.

        Its first calls do not count: they bring the process to what a prediction needs. Raises BrokenMethod.
        """
        self.calls += 1
        if self.calls > WARM_UP:
            self.kept_bytes += grown
        if self.kept_bytes > MOST_KEPT * memory_limit():
            vars(self.method).clear()
            raise BrokenMethod(
                f"predict keeps memory: {self.kept_bytes / 2**20:,.0f} MB more after {self.calls} batches, which is "
                f"more than {MOST_KEPT:.0%} of the machine's; it must keep nothing of what it predicts"
            )

    def parameters(self) -> int:
        """Parameters of every network the method holds, each counted once, the teacher's left out."""
        networks = [held for held in _held(vars(self.method)) if isinstance(held, nn.Module)]
        return sum(p.numel() for p in {id(p): p for network in networks for p in network.parameters()}.values())

    def own_bytes(self, device: torch.device) -> int:
        """Memory on the device of every tensor the method holds, in networks or by itself, the teacher's left out."""
        found = list(_held(vars(self.method)))
        tensors = [held for held in found if isinstance(held, Tensor)]
        for network in [held for held in found if isinstance(held, nn.Module)]:
            tensors += [*network.parameters(), *network.buffers()]
        sizes: dict[int, int] = {}
        for tensor in tensors:
            with suppress(RuntimeError):  # one without a storage of its own: sparse, or a wrapper of others
                if tensor.device.type == device.type:
                    storage = tensor.untyped_storage()
                    sizes[storage.data_ptr()] = storage.nbytes()
        return sum(sizes.values())


def _held(value: object) -> Iterator[nn.Module | Tensor]:
    """The networks, but for teachers, and tensors in nested lists, tuples, dicts and dataclasses."""
    waiting, seen = [value], set()
    while waiting:
        one = waiting.pop()
        inside: Iterable[object] = ()
        if isinstance(one, nn.Module | Tensor):
            if not isinstance(one, Teacher):
                yield one
        elif isinstance(one, dict):
            inside = dict.values(one)
        elif isinstance(one, list | tuple):
            inside = one
        elif is_dataclass(one):
            inside = getattr(one, "__dict__", {}).values()
        if inside and id(one) not in seen:
            seen.add(id(one))
            waiting.extend(inside)


@dataclass
class Said:
    """Scores of n images under C conditions; members are added when the first batch shows how many there are."""

    scores: NDArray[np.float32]
    """(C, n)"""
    uncertainties: NDArray[np.float32]
    """(C, n)"""
    members: NDArray[np.float32]
    """(C, K, n)"""

    @classmethod
    def empty(cls, conditions: int, images: int) -> Said:
        """Room for that many."""
        shape = (conditions, images)
        return cls(np.full(shape, np.nan, "f4"), np.full(shape, np.nan, "f4"), np.empty((conditions, 0, images), "f4"))

    def record(self, condition: int, columns: NDArray[np.int64], prediction: Prediction) -> None:
        """Keep a checked prediction of the images in these columns."""
        count = 0 if prediction.member_scores is None else len(prediction.member_scores)
        if count != self.members.shape[1] and not np.isnan(self.scores).all():
            raise BrokenMethod(f"{count} members in a batch after {self.members.shape[1]} in another")
        self.scores[condition, columns] = to_numpy(prediction.anomaly_score)
        self.uncertainties[condition, columns] = to_numpy(prediction.uncertainty)
        if prediction.member_scores is not None:
            members = to_numpy(prediction.member_scores)
            if not self.members.size:
                self.members = np.full((len(self.scores), len(members), self.scores.shape[1]), np.nan, "f4")
            self.members[condition][:, columns] = members


def median_seconds(batches: Sequence[tuple[int, float]]) -> float:
    """Seconds per image: the median over the full batches, the first left out as warm-up where there are others."""
    full = max(count for count, _ in batches)
    rates = [seconds / count for count, seconds in batches if count == full]
    return float(np.median(rates[1:] or rates))


def predictions_of(run: MethodRun, category: Category, conditions: Sequence[str]) -> Predictions:
    """The run's predictions as they are stored."""
    return Predictions(
        conditions=tuple(conditions),
        images=tuple(image.key for image in category.test),
        parts=np.array([image.part for image in category.test]),
        labels=np.array([image.label for image in category.test], np.int8),
        defects=np.array([image.defect for image in category.test]),
        lightings=np.array([image.lighting for image in category.test]),
        scores=run.said.scores,
        uncertainties=run.said.uncertainties,
        member_scores=run.said.members,
        calibration_scores=run.calibration.scores[0],
        calibration_uncertainties=run.calibration.uncertainties[0],
        calibration_members=run.calibration.members[0],
    )

"""What a contributor implements: a :class:`Method`, and what it is handed.

A method file in `methods/` holds one dataclass whose fields are the method's options (name, type, default, and a
string below the field that says in one line what it does) and which has the four functions of :class:`Method`. The
class may name options that matter to `predict` alone, `predicting = ("samples",)`: cells that differ in nothing else
are fitted once.
Nothing a method is handed tells of labels, masks, defect types, file names or test images before prediction.

Notation: B images of H x W pixels; K members or samples; the teacher's pyramid has strides 4, 8 and 16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from rdbench.rd.student import Student
    from rdbench.rd.teacher import Teacher

    Pyramid = tuple[Tensor, ...]
    Loss = Callable[[Pyramid, Any], Tensor]
    """(the teacher's pyramid, what the trained module made of it) -> what is minimised, a scalar."""


class TeacherPyramid(tuple["Tensor", ...]):
    """The teacher's pyramid of one batch: three tensors (B, C_i, H / s, W / s) with s = 4, 8, 16, which nobody changes.

    So what every map of the batch needs of it is computed once in a prediction, however many members or samples are
    compared with it.
    """

    @cached_property
    def in_float32(self) -> tuple[Tensor, ...]:
        """The same in float32."""
        return tuple(scale.float() for scale in self)

    @cached_property
    def lengths(self) -> tuple[Tensor, ...]:
        """Of each scale (B, H / s, W / s): the Euclidean norm over channels."""
        return tuple(scale.norm(dim=1) for scale in self.in_float32)


class Batch:
    """Images and their teacher features, nothing else."""

    def __init__(self, images: Tensor | Callable[[], Tensor], compute_features: Callable[[], Pyramid]) -> None:
        self._images = images
        self._compute_features = compute_features

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def images(self) -> Tensor:
        """(B, 3, H, W) float32 on the device, ImageNet-normalised. Shared: do not change it in place."""
        return self._images() if callable(self._images) else self._images

    @cached_property
    def features(self) -> TeacherPyramid:
        """The teacher's pyramid, three tensors (B, C_i, H / s, W / s) with s = 4, 8, 16.

        Computed on first use, then shared by every method of the group: do not change it in place.
        """
        return TeacherPyramid(self._compute_features())


class NormalImages(Protocol):
    """Normal images as a method may see them, with teacher features that were computed once and kept."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int] | Tensor) -> Batch:
        """The images at `indices`, in that order."""
        ...

    def batches(self, size: int) -> Iterator[Batch]:
        """All images in order, at most `size` at a time."""
        ...


@dataclass(frozen=True)
class Prediction:
    """What a method says of B images. All finite, float32, on the batch's device."""

    anomaly_map: Tensor
    """(B, H, W), >= 0, higher = more anomalous."""
    anomaly_score: Tensor
    """(B,), higher = more anomalous."""
    uncertainty: Tensor
    """(B,), >= 0, higher = less to be trusted."""
    uncertainty_map: Tensor | None = None
    """(B, H, W), >= 0."""
    member_scores: Tensor | None = None
    """(K, B), the anomaly score of each member or sample, for readouts afterwards."""


class Train(Protocol):
    """The RD training routine: the released recipe for as many epochs as the run says, or a change of it."""

    def __call__(
        self,
        student: nn.Module,
        images: NormalImages,
        seed: int,
        *,
        loss: Loss | None = None,
        epochs: float = 1.0,
        rate: Callable[[float], float] | None = None,
        after_epoch: Callable[[int, int], None] | None = None,
    ) -> nn.Module:
        """Train `student` in place on the features of `images`; return it in eval mode.

        Args:
            student: takes the teacher's pyramid; parameters that ask for no gradient stay as they are.
            seed: of the order of the images and of what the student draws.
            loss: in place of RD's, which compares the student's pyramid with the teacher's.
            epochs: as a share of the run's, at least one epoch.
            rate: share of the training that is done, in [0, 1) -> factor on the released learning rate.
            after_epoch: called with the epoch that has ended, from 1, and the number of epochs, the student in train
                mode.
        """
        ...


@dataclass(frozen=True)
class FitContext:
    """What `fit` and `load` may use beside the training images."""

    teacher: Teacher
    """The frozen teacher: normalised images (B, 3, H, W) -> pyramid."""
    calibration: NormalImages
    """Held-out normal images; never training data, never test images."""
    device: torch.device
    seed: int
    new_student: Callable[[int], Student]
    """`new_student(seed)`: an untrained bottleneck and decoder for this teacher."""
    train: Train
    """`train(student, images, seed)` trains in place and returns the student in eval mode."""
    trained: Callable[[int], Student]
    """`trained(seed)`: `new_student(seed)`, trained with that seed; shared within the group: do not change it."""

    def deterministic(self) -> Student:
        """The trained student of the `deterministic` cell of the same group; shared: do not change it."""
        return self.trained(self.seed)


class Method(Protocol):
    """An uncertainty method on Reverse Distillation."""

    def fit(self, train: NormalImages, context: FitContext) -> None:
        """Learn from normal training images alone."""
        ...

    def predict(self, batch: Batch) -> Prediction:
        """Score images; each image's prediction must not depend on the others in the batch."""
        ...

    def save(self, directory: Path) -> None:
        """Write all that :meth:`load` needs into an existing, empty directory."""
        ...

    def load(self, directory: Path, context: FitContext) -> None:
        """Become the fitted method that was saved. Predictions always come from a method loaded this way."""
        ...

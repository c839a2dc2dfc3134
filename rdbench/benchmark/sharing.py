"""What the cells of a group shared, counted while it ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rdbench.rd.teacher import Teacher

SHARED, VIEWS, MEASURING = "shared", "views", "measuring"
"""What an image passes the teacher for: for all methods; because a method asked for it, as test-time augmentation does
for its views; to measure a method alone, to look again whether it learns from test images, and for its pictures."""


@dataclass
class Sharing:
    """Images, passes and trainings of one group. A resumed group counts what it did after it was resumed."""

    images: int = 0
    """Training and calibration images, and test images once per condition."""
    passes: Counter[str] = field(default_factory=Counter)
    """Images through the teacher, by what for. As many :data:`SHARED` ones as `images`: none passes it twice."""
    trained: int = 0
    """Trainings: members, heads and the cycles of a snapshot ensemble are each one."""
    alone: int = 0
    """Trainings that the fitted cells would take if each ran alone."""

    @contextmanager
    def counting(self, teacher: Teacher, purpose: str) -> Iterator[None]:
        """Count every image that passes the teacher in here, whoever calls it."""

        def count(_: object, __: object, pyramid: tuple[Any, ...]) -> None:
            self.passes[purpose] += len(pyramid[0])

        hook = teacher.register_forward_hook(count)
        try:
            yield
        finally:
            hook.remove()

    def __str__(self) -> str:
        return (
            f"shared: {self.images:,} images in {self.passes[SHARED]:,} passes through the teacher, for all methods "
            f"together; further passes: {self.passes[VIEWS]:,} for images that methods changed, "
            f"{self.passes[MEASURING]:,} for timing, checks and pictures; networks trained: {self.trained}, "
            f"where cells run one by one train {self.alone} (docs/performance.md)"
        )

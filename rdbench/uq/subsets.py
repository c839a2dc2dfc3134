"""A choice of the training images, for methods that train on folds or on resampled images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from rdbench.protocol import Batch, NormalImages


class Subset:
    """The images at `indices`, in that order, as `NormalImages`; an index may stand there more than once."""

    def __init__(self, images: NormalImages, indices: Sequence[int] | Tensor) -> None:
        self._images = images
        self._indices = torch.as_tensor(indices, dtype=torch.long).cpu()

    def __len__(self) -> int:
        return len(self._indices)

    def batch(self, indices: Sequence[int] | Tensor) -> Batch:
        """The images at `indices` of this choice, in that order."""
        return self._images.batch(self._indices[torch.as_tensor(indices, dtype=torch.long)])

    def batches(self, size: int) -> Iterator[Batch]:
        """All images in order, at most `size` at a time."""
        for chosen in self._indices.split(size):  # type: ignore[no-untyped-call]
            yield self._images.batch(chosen)

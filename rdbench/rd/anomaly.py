"""Reverse Distillation's arithmetic: the loss, the anomaly map and the anomaly score.

All as the released RD4AD code computes them (Deng and Li, CVPR 2022), in float32 whatever the features' precision.

Notation: teacher and student pyramids are three tensors (B, C_i, h_i, w_i); maps are (B, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from torch.utils._pytree import register_pytree_node

from rdbench.protocol import TeacherPyramid

# To torch's functions of nested tensors, such as vmap, it is the tuple that it looks like.
register_pytree_node(TeacherPyramid, lambda pyramid: (list(pyramid), None), lambda scales, _: tuple(scales))

SIGMA = 4.0
"""Standard deviation of the Gaussian that smooths a map, in pixels."""
AT_ONCE = 1 << 19
"""Elements of a scale that a CPU compares at once: what is computed on the way to their cosines stays in its cache."""


def distillation_loss(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """1 - cosine of the flattened features, mean over images, summed over scales: a scalar in [0, 6].

    Flattened over channels and positions alike, as released: a cosine per position trains a worse detector.
    """
    losses = [1 - _cosine(t, s, (1, 2, 3)).mean() for t, s in zip(teacher, student, strict=True)]
    return torch.stack(losses).sum()


def scale_maps(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> list[Tensor]:
    """1 - cosine between teacher and student at every position: one (B, h_i, w_i) per scale, in [0, 2]."""
    scales: Sequence[Tensor] = teacher
    lengths: Sequence[Tensor | None] = (None,) * len(teacher)
    if isinstance(teacher, TeacherPyramid) and torch.is_inference_mode_enabled():  # else gradients could need them
        scales, lengths = teacher.in_float32, teacher.lengths
    cosines = [_cosine_by_images(t, s, length) for t, s, length in zip(scales, student, lengths, strict=True)]
    return [(1 - cosine).clamp_min(0) for cosine in cosines]  # a cosine may come out a rounding error above 1


def anomaly_map(teacher: Sequence[Tensor], student: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """The scale maps, each enlarged to `size` = (H, W) and smoothed, summed: (B, H, W), >= 0."""
    first, *others = scale_maps(teacher, student)
    total = _enlarge_and_smooth(first, size)
    for maps in others:
        _enlarge_and_smooth(maps, size, out=total)
    return total


def enlarge_and_smooth(maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """One map (B, h_i, w_i) per scale -> (scales, B, H, W), as they are summed to an anomaly map of `size`."""
    if any(m.requires_grad for m in maps):
        return torch.stack([_enlarge_and_smooth(m, size) for m in maps])
    enlarged = maps[0].new_empty((len(maps), len(maps[0]), *size), dtype=torch.float32)
    for m, own in zip(maps, enlarged, strict=True):
        _enlarge_and_smooth(m, size, out=own, keep=0)
    return enlarged


def anomaly_score(maps: Tensor) -> Tensor:
    """The maximum of each map: (B, H, W) -> (B,)."""
    return maps.flatten(1).amax(dim=1)


def _cosine_by_images(teacher: Tensor, student: Tensor, length: Tensor | None) -> Tensor:
    """Cosine at every position, on a CPU of a few images at a time, and with their channels last as the teacher's."""
    trained = student.requires_grad or teacher.requires_grad
    if student.device.type != "cpu" or trained or student.shape != teacher.shape:
        return _cosine(teacher, student, (1,), length)
    images = max(1, AT_ONCE // max(1, student.shape[1:].numel()))
    pieces = torch.split(teacher, images), torch.split(student, images)
    lengths = [None] * len(pieces[0]) if length is None else torch.split(length, images)
    cosines = []
    for t, s, known in zip(*pieces, lengths, strict=True):
        last = s.movedim(1, -1).contiguous().movedim(-1, 1)  # inside vmap torch does not know channels_last
        cosines.append(_cosine(t, last, (1,), known))
    return torch.cat(cosines)


def _cosine(teacher: Tensor, student: Tensor, dims: tuple[int, ...], length: Tensor | None = None) -> Tensor:
    """Cosine over `dims`, 0 for a zero vector, as `F.cosine_similarity`, which takes two to four times as long here.

    `length` is the teacher's norm over `dims`, where it is known.
    """
    t, s = teacher.float(), student.float()
    if length is None:
        length = torch.linalg.vector_norm(t, dim=dims)
    norms: Tensor = length * torch.linalg.vector_norm(s, dim=dims)
    own_copy = s is not student and not (s.requires_grad or t.requires_grad)
    products = s.mul_(t) if own_copy else t * s  # in place where that is nobody else's: a third of the time is memory
    return products.sum(dim=dims) / norms.clamp_min(1e-8)


def _enlarge_and_smooth(maps: Tensor, size: Sequence[int], out: Tensor | None = None, keep: int = 1) -> Tensor:
    """(B, h, w) -> (B, *size), bilinear with aligned corners, then smoothed; with `out`, into it, on `keep` x `out`.

    Both are linear and act on rows and columns apart, so each axis is one small matrix: no convolution at full size.
    """
    rows = _axis_matrix(maps.shape[-2], size[0], maps.device)
    columns = _axis_matrix(maps.shape[-1], size[1], maps.device)
    with torch.autocast(maps.device.type, enabled=False):
        enlarged = (rows @ maps.float()).flatten(0, 1)
        if out is None:
            return (enlarged @ columns.T).view(-1, *size)
        out.view(-1, size[1]).addmm_(enlarged, columns.T, beta=keep)
        return out


@lru_cache(maxsize=64)
def _axis_matrix(source: int, target: int, device: torch.device) -> Tensor:
    """(target, source): enlarges one axis from `source` to `target` pixels, then smooths it."""
    with torch.inference_mode(False):  # kept beyond this call, also for a caller that wants gradients
        enlarge = F.interpolate(torch.eye(source)[None], size=target, mode="linear", align_corners=True)[0].T
        matrix = gaussian_filter1d(enlarge.double().numpy(), SIGMA, axis=0)
        return torch.from_numpy(matrix.astype(np.float32)).to(device)

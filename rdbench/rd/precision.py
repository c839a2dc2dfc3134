"""Number formats of the networks: float32, or bfloat16 where the machine computes in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import torch

from rdbench.errors import unknown

Precision = Literal["fp32", "bf16"]


def resolve_precision(requested: str, device: torch.device) -> Precision:
    """The precision that "auto", "fp32" or "bf16" means on `device`; auto is bf16 where it is there in hardware."""
    match requested:
        case "fp32" | "bf16":
            return requested
        case "auto":
            return "bf16" if _has_bf16(device) else "fp32"
        case _:
            raise unknown("precision", requested, ("auto", "fp32", "bf16"))


@contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """A context in which convolutions run in `precision`, steadily; parameters, the loss and maps stay float32."""
    # No cache of cast weights: it lives until the outermost autocast ends, so that training inside another autocast
    # would go on with the weights of its first step.
    enabled = precision == "bf16"
    with steady_cudnn(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled, cache_enabled=False):
        yield


def steady_cudnn() -> AbstractContextManager[None]:
    """A context in which a GPU's convolutions give the same bits each time, and float32 is not cut to TF32."""
    return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # oneDNN says yes wherever it can emulate bf16, which is slower than float32.
        return bool(torch.cpu._is_avx512_bf16_supported())
    return False

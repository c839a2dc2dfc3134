"""A GPU's memory: how much there is, and whether it ran out."""

from __future__ import annotations

import torch

WORDS = ("out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED")
"""Of CUDA, cuBLAS and cuDNN 8, and cuDNN 9."""


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU's memory that nobody has."""
    return torch.cuda.mem_get_info(device)[0]


def memory_in_use(device: torch.device) -> int:
    """Bytes of a GPU's memory that torch has, once it has given back what it keeps for later."""
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's memory ran out, for which not only torch has words."""
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in WORDS)

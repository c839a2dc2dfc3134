"""What a method costs: passes of teacher, bottleneck and decoder, arithmetic, seconds."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

ROLES = ("teacher", "bottleneck", "decoder")
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Version 2's and version 1's, as a container sees its own."""


@contextmanager
def count_passes() -> Iterator[Counter[str]]:
    """Count images through every module that carries a `role`, whoever calls it.

    Yields a counter by role, in images: one pass is one image through one network.
    """
    passes: Counter[str] = Counter()

    def count(module: nn.Module, _: Any, output: Tensor | tuple[Tensor, ...]) -> None:
        role = getattr(module, "role", None)
        if role in ROLES:
            first = output if isinstance(output, Tensor) else output[0]
            passes[role] += len(first)

    hook = nn.modules.module.register_module_forward_hook(count)
    try:
        yield passes
    finally:
        hook.remove()


class Stopwatch:
    """Seconds of device work between entering and leaving."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds = 0.0

    def __enter__(self) -> Stopwatch:
        self._synchronise()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._synchronise()
        self.seconds = time.perf_counter() - self._start

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def memory_held(device: torch.device) -> int:
    """Bytes that this process holds: of the host's memory and of the device's."""
    if sys.platform == "linux":
        held = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    else:  # the most it has ever held: KiB, on macOS bytes
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return held + (torch.cuda.memory_allocated(device) if device.type == "cuda" else 0)


def memory_limit() -> int:
    """Bytes that this process may hold: the machine's, or the container's where that allows less."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [machine]
    for path in CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # no such file, or "max"
            limits.append(int(Path(path).read_text()))
    return min(limits)


def count_flop(predict: Callable[[], object]) -> int:
    """Floating-point operations of the convolutions and matrix products in `predict()`; a multiply-add is two."""
    with FlopCounterMode(display=False) as counter:
        predict()
    return int(counter.get_total_flops())


def seconds_per_call(predict: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median over `repeats` calls, after one that does not count."""
    predict()
    seconds = []
    for _ in range(repeats):
        with Stopwatch(device) as watch:
            predict()
        seconds.append(watch.seconds)
    return median(seconds)

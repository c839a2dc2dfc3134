"""How this process uses the machine's memory and cores. Imports no torch."""

from __future__ import annotations

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # from glibc's malloc.h


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed instead of giving it back to the kernel; says whether that took effect.

    A training step frees and asks for the same gigabytes again, and the page faults cost more than the arithmetic.
    Call it once at start. On other C libraries nothing happens.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def share_cores() -> None:
    """Let OpenMP's threads sleep while they wait for each other, unless the user's environment says otherwise.

    By default they spin, and two processes that spin on the same cores slow each other down many times, not twofold.
    To be called before torch is imported: OpenMP reads its settings once.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

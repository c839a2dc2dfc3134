"""Reads files whole that may come from strangers: within bounds, and no devices."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

MAX_BYTES = 200_000_000
"""Of results, entries and unpacked predictions; the largest are some ten million."""


def read_bounded(path: Path, most: int = MAX_BYTES) -> bytes:
    """The file's bytes. Raises OSError, with the reason as its `strerror`, also for what is no file or too large."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes, as none of its kind is", str(path))
    return content

"""Images of a category on their way to another machine: packed once, unpacked there once."""

from __future__ import annotations

import fcntl
import io
import os
import tarfile
import tempfile
from pathlib import Path

from rdbench.datasets import fingerprinted_files, scan_category
from rdbench.errors import InputError


def pack_images(dataset: str, category: str, root: Path | None) -> bytes:
    """Every image and mask of a category that a result depends on, as a tar archive."""
    home, scan = scan_category(dataset, category, root)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for path in fingerprinted_files(scan):
            archive.add(path, arcname=str(path.relative_to(home)))
    return file.getvalue()


def unpacked(packed: bytes, dataset: str, category: str, fingerprint: str) -> Path:
    """The root of a data set with this category, unpacked on this machine if no other process has done so before.

    Raises InputError if there is no room for it, or the place for it belongs to somebody else.
    """
    mine = Path(tempfile.gettempdir()) / f"rdbench-data-{os.getuid()}"
    mine.mkdir(exist_ok=True, mode=0o700)
    if mine.is_symlink() or mine.stat().st_uid != os.getuid():  # everybody may write to /tmp
        raise InputError(f"{mine} is not this user's own folder; remove it, or set TMPDIR to another place")
    home = mine / fingerprint[:20]
    home.mkdir(exist_ok=True)
    root = home / "root"
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            try:
                with tempfile.TemporaryDirectory(dir=home) as folder:
                    staged = Path(folder) / "root"
                    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                        archive.extractall(staged, filter="data")
                    staged.rename(root)
            except OSError as error:
                raise InputError(f"cannot unpack {dataset}/{category} to {home}: {error.strerror}") from error
    return root

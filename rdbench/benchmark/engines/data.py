"""Images of a category on their way to another machine: packed once, unpacked there once."""

from __future__ import annotations

import fcntl
import io
import os
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from rdbench.datasets import fingerprint_now, fingerprinted_files, scan_category
from rdbench.errors import InputError


def pack_images(dataset: str, category: str, root: Path | None) -> bytes:
    """Every image and mask of a category that a result depends on, as a tar archive."""
    home, scan = scan_category(dataset, category, root)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for path in fingerprinted_files(scan):
            archive.add(path, arcname=str(path.relative_to(home)))
    return file.getvalue()


def unpacked(fetch: Callable[[], bytes], dataset: str, category: str, fingerprint: str) -> Path:
    """The root of a data set with this category on this machine.

    Fetched and unpacked if no process has done so before, or if what it left is not that any more: files in a
    temporary folder may be removed. Whether what was fetched is what was planned is for the task to find out.

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
        if not _holds(root, dataset, category, fingerprint):
            try:
                with tempfile.TemporaryDirectory(dir=home) as folder:
                    staged = Path(folder) / "root"
                    with tarfile.open(fileobj=io.BytesIO(fetch())) as archive:
                        archive.extractall(staged, filter="data")
                    if root.exists():
                        root.rename(Path(folder) / "before")
                    staged.rename(root)
            except OSError as error:
                raise InputError(f"cannot unpack {dataset}/{category} to {home}: {error.strerror}") from error
    return root


def _holds(root: Path, dataset: str, category: str, fingerprint: str) -> bool:
    """Whether the category is there, with every image as it was."""
    try:
        return root.exists() and fingerprint_now(dataset, category, root) == fingerprint
    except InputError:
        return False

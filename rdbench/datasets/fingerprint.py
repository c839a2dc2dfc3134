"""The fingerprint of a category: which images and masks, to the bit, a result was measured on."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rdbench.errors import InputError

_Digests = dict[str, tuple[int, int, str]]
"""File name relative to the category -> its size, its modification time in ns, and its SHA-256."""


def fingerprint(root: Path, files: Iterable[Path], on_file: Callable[[int, int], None] | None = None) -> str:
    """SHA-256 over the sorted names, relative to `root`, and the contents of `files`.

    Each file's digest is kept in the user's cache folder and used again while its size and modification time stand.
    `on_file(done, total)` is called as files are hashed.
    """
    names = {path.relative_to(root).as_posix(): path for path in files}
    cache = _cache_folder() / "fingerprints" / f"{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]}.json"
    known = _read_cache(cache)
    digests: _Digests = {}
    with ThreadPoolExecutor() as pool:  # hashing and reading release the interpreter
        tasks = {name: pool.submit(_digest, path, known.get(name)) for name, path in sorted(names.items())}
        for done, (name, task) in enumerate(tasks.items(), start=1):
            digests[name] = task.result()
            if on_file is not None:
                on_file(done, len(tasks))
    if any(known.get(name) != digest for name, digest in digests.items()):
        _write_cache(cache, known | digests)  # the other categories of this root share the file
    total = hashlib.sha256()
    for name, (_, _, digest) in digests.items():
        total.update(f"{name}\0{digest}\n".encode())
    return total.hexdigest()


def _digest(path: Path, known: tuple[int, int, str] | None) -> tuple[int, int, str]:
    try:
        stat = path.stat()
        if known is not None and known[:2] == (stat.st_size, stat.st_mtime_ns):
            return known
        with path.open("rb") as file:
            return stat.st_size, stat.st_mtime_ns, hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the file and its permissions") from None


def _cache_folder() -> Path:
    if own := os.environ.get("RDBENCH_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rdbench"


def _read_cache(path: Path) -> _Digests:
    """What is kept; {} for a file that is absent or damaged: it is only a shortcut, and is written anew."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): (int(size), int(time), str(digest)) for name, (size, time, digest) in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write_cache(path: Path, digests: _Digests) -> None:
    """Replace the cache in one step, so that a reader beside us never sees half of it. A full or read-only disk costs
    the next run some time, nothing more."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
            json.dump(digests, file)
        os.replace(file.name, path)
    except OSError:
        return

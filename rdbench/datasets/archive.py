"""Unpacking the official archives: nothing outside the folder, no link, no device, a bound on the size, all or nothing.

Archives come from the network and are not trusted: each member is checked and copied by hand, into a folder of its own
beside the others, and only what proved to be a dataset is moved to its place.
"""

from __future__ import annotations

import gzip
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from os.path import exists, isdir, isfile  # pathlib's raise where a folder may not be entered
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO, Self

from rdbench.datasets.catalogue import DATASETS
from rdbench.datasets.scan import LAYOUTS, VISA_TABLE, Layout
from rdbench.errors import InputError, reason, unknown

MAX_BYTES = 128 * 2**30
MAX_FILES, MAX_DEPTH = 500_000, 20
MAX_RATIO, FREE_BYTES = 30, 64 * 2**20
"""Images are compressed already: an archive that unpacks to more than this many times its size, and to more than the
free bytes, is a bomb."""

_CHUNK = 2**20
_MAX_HEADER = 2**20
_LONG_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    NotImplementedError,
    ValueError,
)
"""What the standard library raises for an archive that is cut short, altered or of a kind it does not know."""


def prepare(
    dataset: str,
    archives: Sequence[Path],
    root: Path,
    on_file: Callable[[int], None] | None = None,
    max_bytes: int = MAX_BYTES,
) -> list[str]:
    """Unpack official archives (tar, tar.gz, tar.xz, zip) so that `--root root` finds their categories.

    Args:
        on_file: called with the number of files written so far.
        max_bytes: the most that all archives together may unpack to.

    Returns the categories, sorted. Raises InputError, with `root` as it was before, if an archive is damaged, holds
    anything but plain files and folders inside itself, unpacks to too much, holds no category of the dataset, or holds
    one that `root` has already.
    """
    if dataset not in LAYOUTS:
        raise unknown("dataset with archives", dataset, LAYOUTS)
    for archive in archives:
        if not isfile(archive):
            raise InputError(f"archive {archive} does not exist; get it from {DATASETS[dataset].url}")
    created = [folder for folder in (root, *root.parents) if not exists(folder)]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=root, prefix=".unpacking-") as staging:
            budget = _Budget(max_bytes, on_file)
            for number, archive in enumerate(archives):
                _unpack(archive, Path(staging) / str(number), budget)
            return _move_in(Path(staging), root, LAYOUTS[dataset])
    except OSError as error:
        raise InputError(f"cannot unpack into {root}: {reason(error)}; nothing was changed") from None
    finally:
        for folder in created:
            if isdir(folder) and not any(folder.iterdir()):
                folder.rmdir()


class _Budget:
    """How much may still be written."""

    def __init__(self, max_bytes: int, on_file: Callable[[int], None] | None) -> None:
        self.bytes_left, self.files = max_bytes, 0
        self._on_file = on_file

    def count_file(self) -> None:
        self.files += 1
        if self._on_file is not None:
            self._on_file(self.files)


def _unpack(archive: Path, target: Path, budget: _Budget) -> None:
    of_this_archive = min(budget.bytes_left, max(MAX_RATIO * archive.stat().st_size, FREE_BYTES))
    left, entries = of_this_archive, 0
    try:
        for name, source in _members(archive):
            path = target / _inside(archive, name)
            entries += 1
            if entries > MAX_FILES:
                raise InputError(f"archive {archive} holds more than {MAX_FILES} files; it is no official archive")
            if source is None:
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if path == target:
                raise InputError(f"archive {archive} holds a file without a name; it is no official archive")
            with source, path.open("xb") as file:
                while chunk := source.read(_CHUNK):
                    left -= len(chunk)
                    if left < 0:
                        size = f"{of_this_archive / 2**20:.0f} MiB"
                        raise InputError(f"archive {archive} unpacks to more than {size}; it is no official archive")
                    file.write(chunk)
            budget.count_file()
    except _DAMAGED as error:
        raise InputError(f"archive {archive} is damaged ({error}); download it again") from None
    except RuntimeError as error:  # zipfile's word for an encrypted member
        raise InputError(f"archive {archive} cannot be unpacked ({error}); it is no official archive") from None
    except FileExistsError as error:
        name = Path(error.filename).name
        raise InputError(f"archive {archive} holds {name!r} twice; it is no official one") from None
    budget.bytes_left -= of_this_archive - left


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Each member's name and its contents, None for a folder."""
    if (tar := _open_tar(archive)) is not None:
        with tar:
            for item in tar:
                if not (item.isreg() or item.isdir()) or item.size < 0:
                    raise _no_plain_file(archive, item.name)
                yield item.name, tar.extractfile(item)
            # A compressed file's checksum stands at its end, behind the blocks that end the archive.
            behind = tar.fileobj.read(_CHUNK) if tar.fileobj is not None else b""
            if len(behind) == _CHUNK or any(behind):
                raise tarfile.ReadError("data behind its end")
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as whole:
            for entry in whole.infolist():
                if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _no_plain_file(archive, entry.filename)
                yield entry.filename, None if entry.is_dir() else whole.open(entry)
    else:
        raise InputError(
            f"archive {archive} is no tar, tar.gz, tar.xz or zip archive, or is damaged; download it again"
        )


def _open_tar(archive: Path) -> tarfile.TarFile | None:
    with suppress(tarfile.TarError):
        return tarfile.open(archive, tarinfo=_Header)
    return None


class _Header(tarfile.TarInfo):
    """A tar member's header, which must be whole and small.

    By itself `tarfile` takes a header that is damaged, or missing where a file was cut between two members, for the end
    of the archive; and it reads long names and pax headers into memory, however large they say that they are.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            item = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the block of zeros that ends an archive
            raise tarfile.ReadError(f"{error} where a file or the archive's end should be") from None
        if item.size > _MAX_HEADER and item.type in _LONG_HEADERS:
            raise tarfile.ReadError(f"a header of {item.size} bytes")
        return item


def _no_plain_file(archive: Path, name: str) -> InputError:
    return InputError(f"archive {archive} holds {name[:200]!r}, a link or device; it is no official archive")


def _inside(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or re.search(r"\\|\0|^\w:", name):
        raise InputError(
            f"archive {archive} holds {name[:200]!r}, which leads outside of it; it is no official archive"
        )
    if len(path.parts) > MAX_DEPTH:
        raise InputError(f"archive {archive} nests more than {MAX_DEPTH} folders; it is no official archive")
    return path


def _move_in(staging: Path, root: Path, layout: Layout) -> list[str]:
    """Move every folder that holds categories, with its files such as the licence, to `root`; or move nothing."""
    every = [home for depth in ("*", "*/*", "*/*/*") for home in sorted(staging.glob(depth)) if home.is_dir()]
    homes = [home for home in every if layout.find(home)]
    # A category of one layout may hold folders that look like categories of another: the outermost are what is there.
    outside = [home for home in every if not any(inner == home or inner in home.parents for inner in homes)]
    for other in LAYOUTS.values():
        for home in outside:
            if other is not layout and (found := other.find(home)):
                raise InputError(
                    f"the archives hold {', '.join(found[:3])} in the layout of {other.name}: "
                    f"use `rdbench datasets prepare {other.name}`; nothing was unpacked"
                )
    categories = sorted(category for home in homes for category in layout.find(home))
    if not categories:
        raise InputError(f"the archives hold no category of {layout.name}; nothing was unpacked")
    folders = {*categories, *([PurePosixPath(VISA_TABLE).parts[0]] if layout.name == "visa" else [])}
    moves = [
        (item, root / item.name)
        for home in homes
        for item in sorted(home.iterdir())
        if item.name in folders or (item.is_file() and not (root / item.name).exists())
    ]
    targets = [target for _, target in moves if target.name in folders]
    for target in targets:
        if target.exists() or targets.count(target) > 1:
            what = "exists already; remove it first" if target.exists() else "is in more than one archive; give one"
            raise InputError(f"{target} {what}; nothing was unpacked")
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            source.rename(target)
            done.append((source, target))
    except BaseException:
        for source, target in done:
            target.rename(source)
        raise
    return categories

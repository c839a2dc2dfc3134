"""Who is at work on what in a store: locks that the system lets go of when a process ends. Imports no torch."""

from __future__ import annotations

import fcntl
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from rdbench.benchmark.results import Record
from rdbench.errors import InputError

RUN, MERGE = "run.", "merge."
"""How the locks of whole runs begin, and that of whoever wants the store alone is called: a merge, an evaluation. The
others are of groups, whose names have no point, whatever their categories are called."""


class Holder(Record):
    """Which process is at work on something in the store, and since when."""

    name: str
    what: str
    pid: int
    host: str
    since: str


@dataclass(frozen=True)
class Locks:
    """The lock files of a store, in `directory`."""

    directory: Path

    @property
    def _root(self) -> Path:
        return self.directory.parent.parent

    @contextmanager
    def hold(self, name: str, what: str = "") -> Iterator[Callable[[str], None]]:
        """Hold the unfinished work of that name; the system lets go of it when the process ends, however it ends.

        Yields a function that changes `what`, the words in which :meth:`held` tells others of the work.
        Raises InputError if another process holds it, the file system has no locks, or nothing can be written there.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            opened = (self.directory / name).open("ab+", buffering=0)
        except OSError as error:
            raise InputError(
                f"cannot write to {self.directory.parent}: {error.strerror}; mend that and run the same command again"
            ) from error
        with opened as file:
            if not _locked(file, fcntl.LOCK_EX, patience=0.5):
                raise InputError(
                    f"another run is at work on this in {self._root}; run the same command again when it has ended"
                )
            since = datetime.now(UTC).isoformat(timespec="seconds")

            def tell(words: str) -> None:
                note = Holder(name=name, what=words, pid=os.getpid(), host=platform.node(), since=since)
                with suppress(OSError):  # a full disk, say: the lock itself is held all the same
                    file.truncate(0)
                    file.write(note.model_dump_json().encode())

            tell(what)
            yield tell

    def held(self) -> Iterator[Holder]:
        """Who holds which unfinished work at this moment."""
        for path in sorted(self.directory.glob("*")):
            try:
                file = path.open("rb", buffering=0)
            except FileNotFoundError:  # a run that has ended meanwhile
                continue
            with file:
                if _locked(file, fcntl.LOCK_SH, patience=0):
                    continue
                yield _holder(path.name, file)

    def refuse_beside(self, kind: str) -> None:
        """Raises InputError if another process holds a lock whose name begins with `kind`.

        Whoever holds a lock of its own before it asks cannot be passed by one who does the same the other way round.
        """
        for holder in self.held():
            if holder.name.startswith(kind):
                who = "a run" if kind == RUN else holder.what or "a merge"
                raise InputError(
                    f"{who} is at work in {self._root} (process {holder.pid} on {holder.host}, since "
                    f"{holder.since}); run the same command again when it has ended"
                )


def _locked(file: IO[bytes], kind: int, patience: float) -> bool:
    """Lock the file if that can be had within `patience` seconds; whoever reads who holds a lock holds it a moment."""
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.05)
        except OSError as error:
            raise InputError(
                f"{file.name} cannot be locked: {error.strerror}; put --out on a file system that has flock"
            ) from None


def _holder(name: str, file: IO[bytes]) -> Holder:
    """What a lock file that is held says; looks again if it is in the middle of a change.

    Read from the open file: a run that ends meanwhile takes its lock file with it.
    """
    for _ in range(10):
        try:
            file.seek(0)
            return Holder.model_validate_json(file.read())
        except ValidationError:
            time.sleep(0.01)
    return Holder(name=name, what="", pid=0, host="", since="")  # a full disk, say

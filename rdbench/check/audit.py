"""Sees what a method's code opens, lists, starts and looks into, by Python's audit events.

What compiled code opens on its own raises no such event, and neither does asking whether a file exists.
"""

from __future__ import annotations

import importlib
import os
import re
import site
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

READING = {
    "os.listdir", "os.scandir", "os.walk", "os.fwalk", "os.chdir", "glob.glob", "glob.glob/2", "pathlib.Path.glob",
    "pathlib.Path.rglob", "sqlite3.connect",
}  # fmt: skip
"""Events whose first argument is a path that is read."""
WRITING = {
    "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
    "os.utime", "shutil.rmtree",
}  # fmt: skip
"""Events whose path arguments are changed."""
STARTING = {
    "subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn",
    "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request",
}  # fmt: skip
"""Events of other processes and the network."""
LOOKING = {
    "sys._getframe", "sys._current_frames", "sys._current_exceptions", "sys.settrace", "sys.setprofile",
    "sys.monitoring.register_callback", "gc.get_objects", "gc.get_referrers", "gc.get_referents",
}  # fmt: skip
"""Events of code that looks at its callers or at everything in memory."""
FRAMES = {"tb_frame", "gi_frame", "cr_frame", "ag_frame"}
"""Attributes that lead to frames."""

_LIBRARIES = tuple(
    os.path.realpath(path)
    for path in {
        *(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
        site.getusersitepackages(),
        str(Path(__file__).parents[1]),
        "/proc",
        "/sys",
        "/dev",
    }
)
"""Python, its packages, rdbench itself, and what the system tells of itself: free to read."""
_TELLING = re.compile(r"/proc/\d+/(task/\d+/)?(cmdline|environ)")
"""What the system tells of the run's arguments: where the data lies, and not free to read."""
_IMPORTING = ("<frozen importlib", "<frozen zipimport", os.path.dirname(importlib.__file__))
_LOOKERS = ("inspect.py", "traceback.py")


class Auditor:
    """Collects what the code of one method file does that it should not, while :meth:`watching`."""

    def __init__(self, source: Path) -> None:
        self.source = os.path.abspath(source)
        self.files: dict[str, None] = {}
        """What it read, wrote or started, in words, each once and in order."""
        self.looks: dict[str, None] = {}
        """How it looked at its callers or around in memory."""
        self._stage = ""
        self._directory: str | None = None
        self._writable = False
        self._judging = False

    @contextmanager
    def watching(self, stage: str, directory: Path | None = None, writable: bool = False) -> Iterator[None]:
        """Watch `stage` ("fit", ...); what lies in `directory` may be read, and written if it is `writable`."""
        global _active
        _install()
        self._stage, self._writable = stage, writable
        self._directory = None if directory is None else os.path.realpath(directory)
        _active = self
        try:
            yield
        finally:
            _active = None

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Look away while the benchmark does something of its own for the method."""
        global _active
        before, _active = _active, None
        try:
            yield
        finally:
            _active = before

    def see(self, event: str, arguments: Sequence[Any]) -> None:
        """Judge one audit event. Raises PermissionError for what would change anything outside."""
        if self._judging:
            return
        self._judging = True
        try:
            if event in LOOKING or (event == "object.__getattr__" and arguments[1] in FRAMES):
                self._see_look(event, arguments)
            elif event == "open":
                self._see_open(*arguments)
            elif event in READING:
                self._see_path("lists" if event != "os.chdir" else "goes to", arguments[0] or ".")
            elif event in WRITING:
                for path in arguments[: 2 if event in ("os.rename", "os.link", "os.symlink") else 1]:
                    self._see_path(f"changes ({event})", path, writes=True)
            elif event in STARTING and not self._importing():
                self._refuse(f"{self._stage} starts a process or uses the network ({event})")
        finally:
            self._judging = False

    def _see_open(self, path: object, mode: str | None, flags: int) -> None:
        changing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        writes = bool(set(mode or "") & set("wax+")) or bool((flags or 0) & changing)
        self._see_path("writes" if writes else "reads", path, writes=writes)

    def _see_path(self, verb: str, path: object, writes: bool = False) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return  # a file that is open already
        name = os.path.realpath(os.fsdecode(path))
        if name == os.devnull or (self._inside(name, self._directory) and (self._writable or not writes)):
            return
        free = name == self.source or any(self._inside(name, library) for library in _LIBRARIES)
        if not writes and free and not _TELLING.fullmatch(name):
            return
        if self._importing():
            return
        words = f"{self._stage} {verb} {os.fsdecode(path)}"
        if writes:
            self._refuse(words)
        self.files.setdefault(words)

    def _refuse(self, words: str) -> None:
        self.files.setdefault(words)
        raise PermissionError(f"{words}, which `rdbench methods check` does not let it do")

    def _see_look(self, event: str, arguments: Sequence[Any]) -> None:
        frame = _outside()
        while frame is not None and os.path.basename(frame.f_code.co_filename) in _LOOKERS:
            frame = frame.f_back
        if frame is not None and frame.f_code.co_filename == self.source:
            what = arguments[1] if event == "object.__getattr__" else event
            self.looks.setdefault(f"{self._stage} looks at callers or through memory ({what}, line {frame.f_lineno})")

    def _importing(self) -> bool:
        """Whether a module, the method file apart, does this while it is imported, or importlib in looking for one."""
        frame = _outside()
        while frame is not None and frame.f_code.co_filename != self.source:
            if frame.f_code.co_filename.startswith(_IMPORTING):
                return True
            frame = frame.f_back
        return False

    @staticmethod
    def _inside(name: str, directory: str | None) -> bool:
        return directory is not None and (name == directory or name.startswith(directory + os.sep))


_active: Auditor | None = None
_installed = False


def _outside() -> FrameType | None:
    """The innermost frame that is not of this file: where the event was raised."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame


def _install() -> None:
    """Add the audit hook, once for the process: Python has no way to take one out."""
    global _installed
    if not _installed:
        sys.addaudithook(_hook)
        _installed = True


_EVENTS = READING | WRITING | STARTING | LOOKING | {"open", "object.__getattr__"}


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _active is not None and event in _EVENTS:
        _active.see(event, arguments)

"""The command line as a user meets it, in this process (quick) or in one of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from rdbench.cli import main

QUICK = ("--backbone", "embedded", "--image-size", "64", "--epochs", "1", "--precision", "fp32")


@dataclass(frozen=True)
class Done:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    def error(self) -> str:
        """What stderr says, without the line breaks of the terminal's width."""
        return " ".join(self.err.split())


Command = Callable[..., Done]


def in_process(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """`rdbench ARGS...` through its entry point."""

    def command(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["rdbench", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err + printed.out
        return Done(code, printed.out, printed.err)

    return command


IMPORTED = (
    "torchvision",
    "torch._dynamo",
    "pandas",
    "scipy.special",
    "rdbench.benchmark.group",
    "rdbench.report.tables",
)
"""What takes five seconds to import and is in memory when a process of :func:`start` begins."""

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(IMPORTED)


class Running:
    """`rdbench ARGS...` in a process of its own, which ends as any other but for functions of `atexit`."""

    def __init__(self, arguments: tuple[object, ...], cwd: Path | None) -> None:
        self._folder = TemporaryDirectory(prefix="rdbench-started-")
        self._out, self._err = (Path(self._folder.name) / name for name in ("out", "err"))
        argv, files = ["rdbench", *map(str, arguments)], (self._out, self._err)
        where = cwd or Path.cwd()
        self._process = processes.Process(target=_run, args=(argv, files, where, dict(os.environ)))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        self._code: int | None = None

    def poll(self) -> int | None:
        """The exit code, the negative number of the signal that ended it, or None if it goes on."""
        if self._code is None:
            self._code = self._process.exitcode
        return self._code

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait_for(self, words: str, timeout: float = 120) -> None:
        """Wait until it has said `words` on stderr."""
        end = time.monotonic() + timeout
        while not (self._err.exists() and words in self._err.read_text()):
            assert self.poll() is None, self._err.read_text()
            assert time.monotonic() < end, words
            time.sleep(0.02)

    def kill(self) -> None:
        """End it if it goes on; its workers end with it."""
        if self.poll() is None:
            self._process.kill()
            self._process.join()

    def done(self, timeout: float = 300, kill_after: float | None = None) -> Done:
        """Wait for its end, or kill it after so many seconds; a run that takes longer than `timeout` is an error."""
        self._process.join(timeout if kill_after is None else kill_after)
        if self.poll() is None:
            self._process.kill()
            self._process.join()
            assert kill_after is not None, f"{timeout:g} s are over: {self._err.read_text()}"
        code = self.poll()
        assert code is not None
        self._process.close()
        return Done(code, *(file.read_text() if file.exists() else "" for file in (self._out, self._err)))


def start(*arguments: object, cwd: Path | None = None) -> Running:
    """`rdbench ARGS...` as a process, begun with this one's environment."""
    return Running(arguments, cwd)


def _run(argv: list[str], files: tuple[Path, Path], cwd: Path, environment: dict[str, str]) -> None:
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    import torch

    # Which a fresh process takes from there; this one was forked by one that began in the environment of the first.
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = argv
    main()

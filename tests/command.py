"""The command line as a user meets it, in this process (quick) or in one of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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


def start(*arguments: object, cwd: Path | None = None) -> subprocess.Popen[str]:
    """`rdbench ARGS...` as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "rdbench.cli", *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

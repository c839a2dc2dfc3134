"""The worker process of the local engine: `python -m rdbench.benchmark.engines.worker FD`.

Over the pipe come the module search path, then the function to run, then tasks; back go lines to print, which cell's
code runs, and outcomes. Ends when the pipe does, whatever it is doing: no worker outlives the run it belongs to.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import defaultdict
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from rich.console import Console

from rdbench.benchmark.engines.task import Task
from rdbench.benchmark.progress import Reporter
from rdbench.benchmark.results import CellSpec


class _Sender:
    """Sends messages, from whichever thread; as a file, sends what is written to it as lines."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, kind: str, *content: Any) -> None:
        with self._lock:
            self._connection.send((kind, *content))

    def write(self, text: str) -> int:
        for line in text.splitlines():
            self.send("line", line)
        return len(text)

    def flush(self) -> None:
        pass


class _CellClock:
    """Tells which cell's code runs, and how many seconds of its own the cell has had before."""

    def __init__(self, sender: _Sender) -> None:
        self._sender = sender
        self._spent: defaultdict[Path, float] = defaultdict(float)
        self._cell: CellSpec | None = None
        self._since = 0.0

    def __call__(self, cell: CellSpec | None, stage: str) -> None:
        now = time.monotonic()
        if self._cell is not None:
            self._spent[self._cell.path] += now - self._since
        self._cell = cell
        self._sender.send("at", cell, stage, self._spent[cell.path] if cell is not None else 0.0)
        self._since = time.monotonic()  # the run may have been suspended meanwhile, which no cell is to pay for


def main() -> None:
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    sys.path[:] = connection.recv()
    work = connection.recv()
    tasks: SimpleQueue[Task] = SimpleQueue()

    def listen() -> None:
        try:
            while True:
                tasks.put(connection.recv())
        except (EOFError, OSError):
            if os.getpgrp() == os.getpid():  # with all that it has started, which would go on holding the group's lock
                os.killpg(0, signal.SIGKILL)
        finally:
            os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    sender = _Sender(connection)
    while True:
        task = tasks.get()
        console = Console(file=sender, width=10_000, color_system=None, emoji=False)  # type: ignore[arg-type]
        sender.send("done", work(task, Reporter(console, _CellClock(sender))))


if __name__ == "__main__":
    main()

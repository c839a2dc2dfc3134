"""The local engine: in this process, or in worker processes that may die or hang without harm to the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rdbench.benchmark.engines import Ended, Work
from rdbench.benchmark.engines.task import Task, TaskOutcome
from rdbench.benchmark.plan import RunSettings
from rdbench.benchmark.progress import Reporter
from rdbench.benchmark.results import CellFailure, CellSpec
from rdbench.datasets.decode import cores

if TYPE_CHECKING:
    from rdbench.rd.precision import Precision

GOES_ON = {"fit": "fitting", "predict": "predicting"}
"""The stages of a cell, as something that goes on."""
LOOK_SECONDS = 1.0
"""How long the death of a worker whose pipe is held open by a child of its own may go unseen."""
TAIL_BYTES = 4000
"""How much of what a worker printed is kept, to be shown if it dies."""


def here(settings: RunSettings) -> Precision:
    """The number format that the settings mean on this machine."""
    from rdbench.benchmark.device import choose_device
    from rdbench.rd.precision import resolve_precision

    return resolve_precision(settings.precision, choose_device(settings.device))


class InProcess:
    """One task after the other, in this process."""

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, tasks: Iterable[Task], work: Work, reporter: Reporter) -> Ended:
        for task in tasks:
            yield task, work(task, reporter)

    def precision(self, settings: RunSettings) -> Precision:
        return here(settings)


@dataclass
class _Attempt:
    """A task on its way: what is left of it, and what went wrong so far."""

    task: Task
    left: Task
    failures: list[CellFailure] = field(default_factory=list)
    deaths: Counter[Path | None] = field(default_factory=Counter)
    """By the cell whose code ran."""

    def fail(self, cells: Sequence[CellSpec], stage: str, reason: str, printed: str, reporter: Reporter) -> None:
        """Give the cells up."""
        for spec in cells:
            reporter.line(f"  FAILED {spec}: {reason}")
            self.failures.append(CellFailure(spec=spec, stage=stage, reason=reason, traceback=printed, bad_input=False))
        self.left = self.left.without(cells)


class Workers:
    """Worker processes, each with its share of the cores and, where there are several GPUs, one of them.

    A cell whose own code takes more than `cell_timeout` seconds, or in whose code a worker has died twice, is given up;
    the rest of its task goes on in a fresh worker. What the task had fitted by then is on disk.

    Args:
        threads: of each worker; default: OMP_NUM_THREADS if it is set, else an even share of the cores.
        gpus: values of CUDA_VISIBLE_DEVICES that the workers take in turn; none: all see what this process sees.
    """

    def __init__(
        self,
        count: int,
        cell_timeout: float | None = None,
        threads: int | None = None,
        gpus: Sequence[str] = (),
    ) -> None:
        given = os.environ.get("OMP_NUM_THREADS", "")
        self.threads = threads or (int(given) if given.isdecimal() else max(1, cores() // count))
        self._cell_timeout = cell_timeout
        self._gpus = gpus
        self._workers: list[_Worker | None] = [None] * count

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in filter(None, self._workers):
            worker.kill()
        self._workers = [None] * len(self._workers)

    def precision(self, settings: RunSettings) -> Precision:
        return here(settings)

    def run(self, tasks: Iterable[Task], work: Work, reporter: Reporter) -> Ended:
        new, again = iter(tasks), deque[_Attempt]()
        try:
            while True:
                for index, worker in enumerate(self._workers):
                    if worker is not None and worker.attempt is not None:
                        continue
                    attempt = again.popleft() if again else _next_attempt(new)
                    if attempt is None:
                        break
                    if worker is None:
                        worker = self._workers[index] = self._start(index, work)
                    worker.give(attempt)
                busy = [worker for worker in self._workers if worker is not None and worker.attempt is not None]
                if not busy:
                    return
                ready = wait([worker.connection for worker in busy], self._patience(busy))
                for worker in busy:
                    attempt = worker.attempt
                    assert attempt is not None
                    outcome = self._look(worker, worker.connection in ready, attempt, reporter)
                    if outcome is not None:
                        yield attempt.task, outcome
                    elif worker.attempt is None:
                        again.append(attempt)
        finally:
            for index, worker in enumerate(self._workers):
                if worker is not None and worker.attempt is not None:
                    worker.kill()
                    self._workers[index] = None

    def _start(self, index: int, work: Work) -> _Worker:
        environment = dict(os.environ, OMP_NUM_THREADS=str(self.threads))
        environment.setdefault("OMP_WAIT_POLICY", "passive")
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[index % len(self._gpus)]
        return _Worker(index, work, environment, self._cell_timeout)

    def _patience(self, busy: Sequence[_Worker]) -> float:
        return max(0.0, min([LOOK_SECONDS, *(worker.deadline - time.monotonic() for worker in busy)]))

    def _look(self, worker: _Worker, ready: bool, attempt: _Attempt, reporter: Reporter) -> TaskOutcome | None:
        """Read what the worker says, if anything. Returns the outcome when the task has ended.

        A worker that has died or was ended has no attempt any more.
        """
        said = None
        if ready:
            try:
                said = worker.connection.recv()
            except Exception:  # the pipe ended, or what came over it is no message
                return self._died(worker, attempt, reporter)
        match said:
            case ("line", text):
                reporter.line(f"[{worker.index + 1}] {text}" if len(self._workers) > 1 else text)
            case ("at", cell, stage, spent):
                worker.at(cell, stage, spent)
            case ("done", outcome):
                worker.attempt = None
                return TaskOutcome((*attempt.failures, *outcome.failures), outcome.bad_input)
            case None if worker.process.poll() is not None:
                return self._died(worker, attempt, reporter)
            case None if time.monotonic() > worker.deadline:
                assert worker.cell is not None
                reason = (
                    f"stopped while {GOES_ON[worker.stage]}: took more than {self._cell_timeout:g} s (--cell-timeout)"
                )
                attempt.fail([worker.cell], worker.stage, reason, self._end(worker), reporter)
                return self._rest(attempt)
        return None

    def _died(self, worker: _Worker, attempt: _Attempt, reporter: Reporter) -> TaskOutcome | None:
        cell = worker.cell
        with suppress(subprocess.TimeoutExpired):  # its pipe ends before it does, and how it ends is to be said
            worker.process.wait(timeout=2.0)
        doing = f"while {GOES_ON[worker.stage]}" if cell is not None else "between cells"
        reason = f"the worker process {_ending(worker.process.poll())} {doing}"
        printed = self._end(worker)
        place = cell.path if cell is not None else None
        attempt.deaths[place] += 1
        if attempt.deaths[place] > 1:
            attempt.fail([cell] if cell else attempt.left.specs, worker.stage or "group", reason, printed, reporter)
        else:
            reporter.line(f"  {cell or attempt.task}: {reason}; trying once more")
        return self._rest(attempt)

    def _end(self, worker: _Worker) -> str:
        """End a worker for good; what it had printed at last."""
        worker.attempt = None
        self._workers[worker.index] = None
        return worker.kill()

    def _rest(self, attempt: _Attempt) -> TaskOutcome | None:
        return None if attempt.left.parts else TaskOutcome(tuple(attempt.failures))


class _Worker:
    """A worker process, as its parent sees it."""

    def __init__(self, index: int, work: Work, environment: dict[str, str], cell_timeout: float | None) -> None:
        self.index = index
        self.attempt: _Attempt | None = None
        self._cell_timeout = cell_timeout
        self.at(None, "", 0.0)
        self.connection: Connection[Any, Any]
        self.connection, end = Pipe()
        with end:
            # In a session of its own: Ctrl-C reaches the parent alone, and the worker ends with all its children.
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rdbench.benchmark.engines.worker", str(end.fileno())],
                pass_fds=[end.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        assert self.process.stdout is not None
        self._printed = _Tail(self.process.stdout)
        with suppress(OSError):  # it ended at once, which its pipe will tell
            self.connection.send(sys.path)
            self.connection.send(work)

    def give(self, attempt: _Attempt) -> None:
        """Let the worker begin what is left of a task. If it has died meanwhile, its pipe will tell."""
        self.attempt = attempt
        self.at(None, "", 0.0)
        with suppress(OSError):
            self.connection.send(attempt.left)

    def at(self, cell: CellSpec | None, stage: str, spent: float) -> None:
        """The worker runs that cell's code from now on, which has had `spent` seconds before."""
        self.cell, self.stage = cell, stage
        self.deadline = float("inf")
        if cell is not None and self._cell_timeout is not None:
            self.deadline = time.monotonic() + self._cell_timeout - spent

    def kill(self) -> str:
        """End the process and its children; what it had printed at last."""
        with suppress(ProcessLookupError, PermissionError):  # it has ended
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.connection.close()
        return self._printed.close()


class _Tail(threading.Thread):
    """Reads what a worker prints, so that it never waits, and keeps the last of it."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._file = file
        self._last = b""
        self.start()

    def run(self) -> None:
        while chunk := self._file.read1(65536):  # type: ignore[attr-defined]
            self._last = (self._last + chunk)[-TAIL_BYTES:]

    def close(self) -> str:
        self.join(timeout=1.0)
        if not self.is_alive():  # else something that escaped the worker's session still holds the other end
            self._file.close()
        return self._last.decode(errors="replace")


def _next_attempt(tasks: Iterator[Task]) -> _Attempt | None:
    task = next(tasks, None)
    return None if task is None else _Attempt(task, task)


def _ending(code: int | None) -> str:
    if code is None:  # its pipe was closed, or written to, by another than it
        return "lost its connection to the run"
    if code >= 0:
        return f"ended by itself (exit code {code})"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    return f"was killed by signal {-code} ({name}){', out of memory?' if -code == signal.SIGKILL else ''}"

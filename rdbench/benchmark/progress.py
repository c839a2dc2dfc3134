"""Progress for people: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from rdbench.benchmark.results import CellSpec

SECONDS_BETWEEN_LINES = 10.0


class Step:
    """One wait: so many units of work, of which some are done."""

    def __init__(self, reporter: Reporter, title: str, total: int, unit: str, task: TaskID | None) -> None:
        self._reporter = reporter
        self._title = title
        self._total = total
        self._unit = unit
        self._task = task
        self._start = self._last_line = time.monotonic()
        self._done = 0

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more units are done; `note` says how it goes (a loss, say)."""
        self._done += count
        self._show(note)

    def reach(self, done: int, total: int) -> None:
        """`done` of `total` units are done: for work whose amount shows on the way."""
        self._done, self._total = done, total
        self._show("")

    def _show(self, note: str) -> None:
        now = time.monotonic()
        rate = self._done / max(now - self._start, 1e-9)
        text = "  ".join(part for part in (note, f"{rate:.3g} {self._unit}/s") if part)
        if self._task is not None:
            self._reporter.bars.update(self._task, completed=self._done, total=self._total, note=text)
        elif now - self._last_line >= SECONDS_BETWEEN_LINES and self._done < self._total:
            self._last_line = now
            left = (self._total - self._done) / rate
            self._reporter.line(f"{self._title}: {self._done}/{self._total} {text}, about {left:.0f} s left")


class Reporter:
    """Says what a run is doing. Use as a context manager around the whole run."""

    def __init__(self, console: Console, on_cell: Callable[[CellSpec | None, str], None] | None = None) -> None:
        """`on_cell` is told which cell's code runs from now on, and at what stage; None for the benchmark's own."""
        self.console = console
        self._on_cell = on_cell
        self._inside: tuple[CellSpec | None, str] = (None, "")
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )

    def __enter__(self) -> Reporter:
        if self.console.is_terminal:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self.bars.stop()

    def line(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def inside(self, spec: CellSpec | None, stage: str = "") -> Iterator[None]:
        """What runs in here is a cell's own code; with None, work for all cells that one of them asked for."""
        before = self._inside
        self._enter((spec, stage))
        try:
            yield
        finally:
            self._enter(before)

    def _enter(self, inside: tuple[CellSpec | None, str]) -> None:
        self._inside = inside
        if self._on_cell is not None:
            self._on_cell(*inside)

    @contextmanager
    def step(self, title: str, total: int, unit: str = "images") -> Iterator[Step]:
        """A wait with a known amount of work."""
        if not self.console.is_terminal:
            yield Step(self, title, total, unit, None)
            return
        task = self.bars.add_task(title, total=total, note="")
        try:
            yield Step(self, title, total, unit, task)
        finally:
            self.bars.remove_task(task)

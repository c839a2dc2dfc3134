"""What the commands share: consoles, exit codes, and the options that several of them have."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

# Tables in a file or a pipe have no terminal to fit into.
_WIDTH = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160

stdout = Console(width=_WIDTH, emoji=False)  # `:x:` in a path is a part of it
stderr = Console(stderr=True, emoji=False)

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_NOT_POSSIBLE = 3
EXIT_INTERRUPTED = 130

MethodsDir = Annotated[Path | None, typer.Option(help="One more directory with method files.")]
Precision = Annotated[
    str, typer.Option(help="fp32, bf16, or auto: bf16 where the machine has it; faster, see docs/performance.md.")
]
Root = Annotated[Path | None, typer.Option(help="Where the data set lies; else $RDBENCH_DATA.")]
Runs = Annotated[Path, typer.Argument(help="A directory that `rdbench run` wrote.")]


def own_stderr() -> Console:
    """Stderr as it is now: a run's progress goes there, whatever stands in its place while a method's code runs."""
    return Console(file=sys.stderr, emoji=False)


def say(text: str, *, error: bool = False) -> None:
    """Print one plain line, whatever is in it, without breaking it."""
    console = stderr if error else stdout
    console.print(escape(text), highlight=False, soft_wrap=True, style="red" if error else None)


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on a terminal, nothing elsewhere; yields a function that is told how much is done, and of how much."""
    from rich.progress import Progress

    with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)

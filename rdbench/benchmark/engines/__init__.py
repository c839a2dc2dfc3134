"""Engines: where the tasks of a run are worked off. A task is all that is to be done in one group.

`local` works here, in this process or in worker processes; `ray` on the nodes of a Ray cluster. An engine takes the
function to run per task as an argument and knows nothing of what it does.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Protocol

from rdbench.benchmark.engines.task import Task, TaskOutcome
from rdbench.benchmark.progress import Reporter

if TYPE_CHECKING:
    from rdbench.benchmark.plan import RunSettings
    from rdbench.rd.precision import Precision

Work = Callable[[Task, Reporter], TaskOutcome]
"""Picklable by name: a function of a module."""

Ended = Generator[tuple[Task, TaskOutcome], None, None]
"""The tasks that have ended, as they do."""


class Engine(Protocol):
    """Works off tasks. Used as a context manager, which ends whatever it has started."""

    def __enter__(self) -> Engine: ...

    def __exit__(self, *_: object) -> None: ...

    def run(self, tasks: Iterable[Task], work: Work, reporter: Reporter) -> Ended:
        """Work off every task, taking the next when there is room for it; yields each when it has ended.

        What a task was given up for (its process died, a cell took too long) is in its outcome. Closing the iterator
        stops what is being worked on.
        """
        ...

    def precision(self, settings: RunSettings) -> Precision:
        """The number format that the settings mean where the tasks will run."""
        ...

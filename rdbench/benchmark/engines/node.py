"""What a node of a Ray cluster does with a task, and how the cells that it made come into the driver's store."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console

from rdbench.benchmark.engines import Work
from rdbench.benchmark.engines.data import unpacked
from rdbench.benchmark.engines.local import Workers
from rdbench.benchmark.engines.task import Task, TaskOutcome
from rdbench.benchmark.head import read_head
from rdbench.benchmark.progress import Reporter
from rdbench.benchmark.store import CELLS, RESULT, Store, open_store
from rdbench.errors import InputError


def on_node(
    work: Work, task: Task, cpus: int, cell_timeout: float | None, images: list[Any]
) -> tuple[TaskOutcome, list[Any]]:
    """Run a task in a worker process here, into a store of its own; the outcome and references to the finished cells.

    `images` holds a reference to the category's, packed; none if they are read by the same path as on the driver. Ray
    fetches what a task is given itself, but for what is in a list: the images come only if this node lacks them.
    Each cell, packed, is an object of its own: a group may have thousands, and neither this process nor the driver is
    to hold them all.
    """
    import ray

    first = task.parts[0].specs[0]
    root = task.parts[0].settings.root
    if images:
        root = unpacked(lambda: ray.get(images[0]), first.dataset, first.category, first.fingerprint)
    with tempfile.TemporaryDirectory(prefix="rdbench-") as out:
        engine = _node_engine(cpus, cell_timeout)
        quiet = Reporter(Console(file=io.StringIO()))
        ((_, outcome),) = engine.run([task.moved(Path(out), root)], work, quiet)
        return outcome, [ray.put(_packed(directory)) for directory, _ in Store(Path(out)).results()]


_ENGINES: dict[tuple[object, ...], Workers] = {}
"""The engine of this Ray worker: its process is kept for the next task."""


def _node_engine(cpus: int, cell_timeout: float | None) -> Workers:
    key = cpus, cell_timeout, os.environ.get("CUDA_VISIBLE_DEVICES")
    if key not in _ENGINES:
        for engine in _ENGINES.values():
            engine.__exit__()
        _ENGINES.clear()
        _ENGINES[key] = Workers(1, cell_timeout, threads=cpus)
    return _ENGINES[key]


def _packed(directory: Path) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.add(directory, arcname=".")
    return file.getvalue()


def bring_in(cells: Iterable[bytes], task: Task) -> None:
    """Unpack finished cells into the store. Raises InputError for one that was not asked for, or is damaged."""
    store = open_store(task.parts[0].settings.out, create=True)
    wanted = {spec.path for spec in task.specs}
    for packed in cells:
        with tempfile.TemporaryDirectory(dir=store.work_directory(CELLS)) as folder:
            cell = Path(folder) / "cell"
            with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                archive.extractall(cell, filter="data")
            if (sent := read_head(cell / RESULT).spec).path not in wanted:
                raise InputError(f"{sent} was not asked for")
            store.adopt(cell, move=True)

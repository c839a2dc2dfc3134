"""What two stores have in common."""

from __future__ import annotations

from pathlib import Path

from rdbench.benchmark.store import PREDICTIONS, Store, read_predictions


def predictions_of(runs: Path) -> dict[Path, bytes]:
    """Each finished cell's predictions file, checked to be what its result was computed from."""
    found = {}
    for directory, result in Store(runs).results():
        read_predictions(directory, result)
        found[directory.relative_to(runs)] = (directory / PREDICTIONS).read_bytes()
    return found

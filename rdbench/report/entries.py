"""Published entries: the cells of one method on one dataset, one JSON file each.

An entry is foreign text. It is checked against the schema; its strings are only ever shown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from rdbench.benchmark.results import CLEAN, CellResult, Record
from rdbench.errors import InputError

MAX_BYTES = 200_000_000


class Entry(Record):
    """What one file in `leaderboard/results/<dataset>/` holds."""

    version: Literal[1] = Field(alias="schema")
    cells: tuple[CellResult, ...] = Field(min_length=1)


def read_entry(path: Path) -> Entry:
    """Read one entry. Raises InputError that names the file and the first thing wrong with it."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} is larger than {MAX_BYTES // 1_000_000} MB and is not read")
        entry = Entry.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{path} is no valid entry: {where}: {first['msg']}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    kinds = {(cell.spec.dataset, cell.spec.method) for cell in entry.cells}
    if len(kinds) > 1:
        raise InputError(f"{path} is no valid entry: it holds {len(kinds)} methods or datasets, wanted one of each")
    for index, cell in enumerate(entry.cells):
        if CLEAN not in cell.image:
            raise InputError(f"{path} is no valid entry: cells.{index}.image: the condition {CLEAN!r} is missing")
    return entry


def read_entries(directory: Path) -> list[CellResult]:
    """All cells of the entries `directory/<dataset>/<method>.json`. Raises InputError if one is not valid."""
    return [cell for path in sorted(directory.glob("*/*.json")) for cell in read_entry(path).cells]

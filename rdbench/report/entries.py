"""Where cells come from: runs of one's own, and published entries.

An entry is one JSON file, the cells of one method on one dataset, with their stored predictions, so that every figure
can be computed again by whoever reads it. It is foreign text: checked against the schema, and only ever shown.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from rdbench.benchmark.results import CellResult, Figure, Predictions, Record, slug
from rdbench.benchmark.store import PREDICTIONS, Store, read_predictions, refuse_within, write_text
from rdbench.errors import InputError
from rdbench.reading import read_bounded
from rdbench.report.assets import leaderboard_directory

REFERENCE = "deterministic"
"""The method that costs are relative to, where it was run on the same machine."""


class Entry(Record):
    """What one file in `leaderboard/results/<dataset>/` holds."""

    version: Literal[1] = Field(alias="schema")
    cells: tuple[CellResult, ...] = Field(min_length=1)
    predictions: dict[str, str] = Field(default_factory=dict)
    """The cells' prediction archives in Base64, by the SHA-256 that the cell gives."""
    reference: dict[str, dict[str, Figure]] = Field(default_factory=dict)
    """What `REFERENCE` cost in the same run, by the digest of the specification of the cell that it stands beside."""


@dataclass(frozen=True)
class Source:
    """A cell and where it came from."""

    result: CellResult
    origin: str
    """The entry or the run's directory, as the reader knows it."""
    predictions: Callable[[], Predictions] | None = None
    """Reads the stored predictions; None where they are not at hand."""
    directory: Path | None = None
    """The cell's directory, for a run of one's own."""
    reference: Mapping[str, Figure] | None = None
    """What `REFERENCE` cost in the same run, where the cell's entry says so."""


def read_entry(path: Path) -> Entry:
    """Read one entry. Raises InputError that names the file and the first thing wrong with it."""
    try:
        entry = Entry.model_validate_json(read_bounded(path))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{path} is no valid entry: {where}: {first['msg']}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    kinds = {(cell.spec.dataset, cell.spec.method) for cell in entry.cells}
    if len(kinds) > 1:
        raise InputError(f"{path} is no valid entry: it holds {len(kinds)} methods or datasets, wanted one of each")
    [(dataset, method)] = kinds
    wanted = f"{slug(dataset)}/{slug(method)}.json"
    if f"{path.parent.name}/{path.name}" != wanted:
        raise InputError(f"{path} is filed in the wrong place: an entry of {method!r} on {dataset!r} is {wanted}")
    return entry


def entry_predictions(entry: Entry, cell: CellResult, path: Path) -> Predictions:
    """The cell's predictions out of its entry. Raises InputError if they are not what the cell's hash says."""
    try:
        content = base64.b64decode(entry.predictions[cell.predictions_sha256], validate=True)
        if hashlib.sha256(content).hexdigest() != cell.predictions_sha256:
            raise ValueError("they are not what the result was computed from")
        return Predictions.unpack(io.BytesIO(content))
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: the predictions of {cell.spec} cannot be used: {error}") from error


def published(directory: Path | None = None) -> list[Source]:
    """All cells of the entries `directory/<dataset>/<method>.json`, or of those that came with rdbench.

    Raises InputError if the directory is not there or an entry is not valid.
    """
    if directory is not None and not directory.is_dir():
        raise InputError(f"no published entries at {directory}: no such directory")
    root = directory or leaderboard_directory("results")
    return [source for path in sorted(root.glob("*/*.json")) for source in entry_sources(path)]


def entry_sources(path: Path) -> list[Source]:
    """The cells of the entry at `.../<dataset>/<method>.json`. Raises InputError if it is not valid."""
    entry = read_entry(path)
    sources = []
    for cell in entry.cells:
        held = cell.predictions_sha256 in entry.predictions
        predictions = partial(entry_predictions, entry, cell, path) if held else None
        reference = entry.reference.get(cell.spec.digest())
        sources.append(Source(cell, f"{path.parent.name}/{path.name}", predictions, reference=reference))
    return sources


def stored(store: Store) -> list[Source]:
    """All finished cells of a run. Raises InputError if one cannot be read."""
    return [
        Source(result, path.relative_to(store.root).as_posix(), partial(read_predictions, path, result), path)
        for path, result in store.results()
    ]


def write_entries(sources: Iterable[Source], out: Path) -> list[Path]:
    """Write a run's cells as entries `out/<dataset>/<method>.json`, one per method and dataset, predictions included.

    What the reference cost in the same run goes with them: costs of another machine or day are no measure. An entry
    that is there is replaced. Raises InputError if there is nothing to publish, or `out` lies in a store or cannot be
    written.
    """
    refuse_within(out)
    by_entry: dict[tuple[str, str], list[Source]] = {}
    reference_costs: dict[tuple[str, str, int], dict[str, Figure]] = {}
    for source in sources:
        if source.result.spec.method == REFERENCE:
            reference_costs.setdefault(comparable(source.result), source.result.cost)
        by_entry.setdefault((source.result.spec.dataset, source.result.spec.method), []).append(source)
    if not by_entry:
        raise InputError("there is no finished cell to publish; run `rdbench run` first")
    written = []
    for (dataset, method), cells in by_entry.items():
        path = out / slug(dataset) / f"{slug(method)}.json"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, _as_entry(cells, reference_costs).model_dump_json(by_alias=True, indent=1) + "\n")
            path.chmod(0o644)
        except OSError as error:
            raise InputError(f"cannot write the entry {path}: {error.strerror}") from error
        written.append(path)
    return written


def comparable(cell: CellResult) -> tuple[str, str, int]:
    """What two cells must have in common for their costs to be compared: images, teacher, settings and machine."""
    return cell.spec.group_id, cell.provenance.device, cell.provenance.threads


def _as_entry(sources: Sequence[Source], reference_costs: Mapping[tuple[str, str, int], dict[str, Figure]]) -> Entry:
    predictions = {}
    for source in sources:
        if source.directory is not None and source.predictions is not None:
            source.predictions()  # raises if the file is not what the result was computed from
            content = (source.directory / PREDICTIONS).read_bytes()
            predictions[source.result.predictions_sha256] = base64.b64encode(content).decode()
    cells = tuple(source.result for source in sources)
    beside = {
        cell.spec.digest(): reference_costs.get(comparable(cell)) for cell in cells if cell.spec.method != REFERENCE
    }
    reference = {digest: cost for digest, cost in beside.items() if cost is not None}
    return Entry(schema=1, cells=cells, predictions=predictions, reference=reference)

"""What a result's method and category are called: no two things that could give different numbers share a name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from rdbench.benchmark.results import CellResult, OptionValue
from rdbench.method_file import MethodFile
from rdbench.registry import find_methods

OF_A_RUN = ("map", "epochs", "batch", "precision")
"""Settings that the methods of a run share, so that others are to be seen."""


_at_hand: ContextVar[Mapping[str, MethodFile] | None] = ContextVar("_at_hand", default=None)


@contextmanager
def at_hand(files: Mapping[str, MethodFile]) -> Iterator[None]:
    """Results read in the block may be of these methods; else of those found without `--methods-dir`.

    Not handed on as an argument, because all that reads results would have to: each of them names methods.
    """
    before = _at_hand.set(files)
    try:
        yield
    finally:
        _at_hand.reset(before)


def files_at_hand() -> Mapping[str, MethodFile]:
    """The method files that say what the options of results mean, by the methods' names."""
    files = _at_hand.get()
    return find_methods() if files is None else files


def method_labels(cells: Sequence[CellResult]) -> list[str]:
    """One name per cell: the method, and in brackets what tells it from other cells of that method.

    Options stand there where they differ from the method file's defaults (`mc_dropout[p=0.3]`), or, if the file is not
    at hand, where they differ between the given cells. What else decides a cell's numbers (epochs, precision, source
    of the method file, ...) stands there where it differs between cells of one method on one dataset and backbone; and
    what a run sets, also where it differs from what most methods have there, or from the others' where most have none.
    """
    defaults = {name: file.defaults() for name, file in files_at_hand().items()}
    values: dict[tuple[str, ...], set[OptionValue]] = defaultdict(set)
    methods: dict[tuple[str, ...], dict[OptionValue, set[str]]] = defaultdict(lambda: defaultdict(set))
    shifts = _covering_shifts(cells)
    for cell in cells:
        scope = (cell.spec.method, cell.spec.dataset, cell.spec.backbone)
        settings = _settings(cell, shifts)
        for kind, traits in (("option", cell.spec.options), ("setting", settings)):
            for key, value in traits.items():
                values[*scope, kind, key].add(value)
        for key in OF_A_RUN:
            methods[*scope[1:], key][settings[key]].add(cell.spec.method)
    usual = {place: _most_have(by_value) for place, by_value in methods.items()}

    def label(cell: CellResult) -> str:
        scope = (cell.spec.method, cell.spec.dataset, cell.spec.backbone)
        known = defaults.get(cell.spec.method, {})
        shown = [
            f"{key}={value}"
            for key, value in cell.spec.options.items()
            if (value != known[key] if key in known else len(values[*scope, "option", key]) > 1)
        ]
        shown += [
            f"{key}={value}"
            for key, value in _settings(cell, shifts).items()
            if len(values[*scope, "setting", key]) > 1 or (key in OF_A_RUN and value != usual[*scope[1:], key])
        ]
        return f"{cell.spec.method}[{', '.join(shown)}]" if shown else cell.spec.method

    return [label(cell) for cell in cells]


def _most_have(methods: Mapping[OptionValue, set[str]]) -> OptionValue | None:
    """The value that more methods have than any other; None if no value is."""
    ordered = sorted(methods, key=lambda value: -len(methods[value]))
    if len(ordered) > 1 and len(methods[ordered[0]]) == len(methods[ordered[1]]):
        return None
    return ordered[0]


def _covering_shifts(cells: Sequence[CellResult]) -> dict[tuple[str, ...], str]:
    """For every choice of conditions the largest one here that has them all: a cell with fewer is no other thing."""
    present = sorted({cell.spec.conditions for cell in cells}, key=lambda conditions: (-len(conditions), conditions))
    return {
        conditions: next(" ".join(c[1:]) or "none" for c in present if set(conditions) <= set(c))
        for conditions in present
    }


def _settings(cell: CellResult, shifts: dict[tuple[str, ...], str]) -> dict[str, OptionValue]:
    """What decides a cell's numbers beside its options and its place in a table."""
    spec = cell.spec
    return {
        "weights": f"{spec.weights} {spec.weights_sha256[:8]}",
        "size": _size(spec.image_size),
        "map": _size(spec.map_size) if spec.map_size else "native",
        "epochs": spec.epochs,
        "batch": spec.batch_size,
        "precision": spec.precision,
        "protocol": spec.protocol,
        "source": spec.method_sha256[:8],
        "shifts": shifts[spec.conditions],
    }


def _size(height_width: tuple[int, int]) -> str:
    return f"{height_width[1]}x{height_width[0]}"


def category_labels(cells: Sequence[CellResult]) -> list[str]:
    """One name per cell; where cells of one category saw different images, each says which."""
    seen: dict[str, set[str]] = {}
    for cell in cells:
        seen.setdefault(cell.spec.category, set()).add(cell.spec.fingerprint)
    return [
        cell.spec.category
        if len(seen[cell.spec.category]) == 1
        else f"{cell.spec.category} (images {cell.spec.fingerprint[:8]})"
        for cell in cells
    ]

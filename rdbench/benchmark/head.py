"""What stands before the figures in a result file, read without them: they are nearly all of it. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

import pydantic_core

from rdbench.benchmark.results import CellSpec, Figure, Record, Split, Threshold
from rdbench.benchmark.store import read_result
from rdbench.errors import InputError

BYTES = 16_384
"""All before the figures takes some kilobytes, with hundreds of conditions too."""


class Head(Record):
    """The beginning of a :class:`CellResult`."""

    spec: CellSpec
    split: Split
    threshold: Threshold
    cost: dict[str, Figure]


def read_head(path: Path) -> Head:
    """The beginning of a result file; the figures after it are not looked at, but for whether they are cut off.

    Raises InputError as :func:`read_result`, which is asked if the file is not as it is written.
    """
    try:
        with path.open("rb") as file:
            found = pydantic_core.from_json(file.read(BYTES), allow_partial=True)
            file.seek(-1, os.SEEK_END)
            is_whole = file.read() == b"}"
        if is_whole and "pixel" in found:  # all before it is whole then
            return Head.model_validate({name: found[name] for name in Head.model_fields})
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError):  # which the whole is read for, to say what is wrong
        pass
    result = read_result(path)
    return Head(spec=result.spec, split=result.split, threshold=result.threshold, cost=result.cost)

"""`rdbench compare`, `readouts` and `curve`: what stored results say without another run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rdbench.cli.common import MethodsDir, say, stdout
from rdbench.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

    from rdbench.report.entries import Source

Stored = Annotated[Path, typer.Option(help="A directory that `rdbench run` wrote.")]
Format = Annotated[str, typer.Option("--format", "-f", help="table, csv or json.")]
Conditions = Annotated[
    list[str] | None, typer.Option("--condition", help="As in the results, or all; repeatable; clean if not given.")
]
Methods = Annotated[
    list[str] | None, typer.Option("--method", "-m", help="As in the results; repeatable; all if not given.")
]
Drawing = Annotated[Path | None, typer.Option(help="A figure too, as .html.")]


def compare(
    methods: Annotated[
        list[str], typer.Argument(help="Two or more methods as in the results, in quotes: 'mc_dropout\\[p=0.3]'.")
    ],
    runs: Stored = Path("runs"),
    metric: Annotated[list[str] | None, typer.Option(help="Repeatable; the main ones if not given.")] = None,
    condition: Conditions = None,
    format: Format = "table",
    out: Drawing = None,
    methods_dir: MethodsDir = None,
) -> None:
    """Test the first method against each of the others over the cells that they have in common."""
    from rdbench.registry import find_methods
    from rdbench.report.comparison import compare_methods
    from rdbench.report.figures import check_figure_path, comparison_figure, write_figure
    from rdbench.report.variants import at_hand

    check_figure_path(out)
    with at_hand(find_methods(methods_dir)):
        found = compare_methods(_sources(runs, format), methods, metric or (), condition or ())
    _print(found, found.rows, format, found.words)
    if out is not None:
        write_figure(comparison_figure(found), out, f"{methods[0]} against {', '.join(methods[1:])}")
        say(f"written: {out}", error=True)


def readouts(
    runs: Stored = Path("runs"),
    method: Methods = None,
    condition: Conditions = None,
    format: Format = "table",
    methods_dir: MethodsDir = None,
) -> None:
    """Say what each way of reading members out is worth, beside margin, chance and oracle."""
    from rdbench.registry import find_methods
    from rdbench.report.readouts import compare_readouts
    from rdbench.report.variants import at_hand

    with at_hand(find_methods(methods_dir)):
        found = compare_readouts(_sources(runs, format), method or (), condition or ())
    _print(found, found.rows, format, found.words)


def curve(
    runs: Stored = Path("runs"),
    method: Methods = None,
    condition: Conditions = None,
    format: Format = "table",
    out: Drawing = None,
    methods_dir: MethodsDir = None,
) -> None:
    """Say what the first k members would have said, for every k, from one run."""
    from rdbench.registry import find_methods
    from rdbench.report.figures import check_figure_path, curve_figure, write_figure
    from rdbench.report.member_curve import member_curves
    from rdbench.report.variants import at_hand

    check_figure_path(out)
    with at_hand(find_methods(methods_dir)):
        found = member_curves(_sources(runs, format), method or (), condition or ())
    _print(found, found.rows, format, found.words)
    if out is not None:
        write_figure(curve_figure(found), out, "Figures over the number of members")
        say(f"written: {out}", error=True)


def _sources(runs: Path, format: str) -> list[Source]:
    from rdbench.benchmark.store import open_store
    from rdbench.report.entries import stored

    if format not in ("table", "csv", "json"):
        raise InputError(f"--format {format}: table, csv or json is wanted")
    found = stored(open_store(runs, create=False))
    if not found:
        raise InputError(f"no finished cell in {runs}")
    return found


def _print(shown: RenderableType, rows: pd.DataFrame, format: str, words: list[str]) -> None:
    """The table, or its rows for machines; then what there is to say, on stderr where stdout is for machines."""
    from rdbench.report.tidy import as_csv, as_json

    if format == "table":
        stdout.print(shown)
    else:
        sys.stdout.write(as_csv(rows) if format == "csv" else as_json(rows))
    for line in words:
        say(line, error=format != "table")

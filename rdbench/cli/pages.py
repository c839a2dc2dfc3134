"""`rdbench leaderboard`, `report`, `submit`, `validate`, `verify` and `predict`: what comes of results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rdbench.cli.common import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_NOT_POSSIBLE, MethodsDir, Root, Runs, own_stderr, say
from rdbench.errors import InputError
from rdbench.words import count

if TYPE_CHECKING:
    from rdbench.report.entries import Source

Site = Annotated[Path, typer.Option(help="Where the page goes.")]
Pictures = Annotated[bool, typer.Option("--gallery/--no-gallery", help="Show the pictures that your own run kept.")]


def leaderboard(
    runs: Annotated[
        Path | None, typer.Option(help="A directory that `rdbench run` wrote; else runs, if it is there.")
    ] = None,
    results: Annotated[Path | None, typer.Option(help="Published entries; else those of this installation.")] = None,
    out: Site = Path("site"),
    gallery: Pictures = True,
    methods_dir: MethodsDir = None,
) -> None:
    """Write the leaderboard as a page that opens from the file system."""
    from rdbench.benchmark.store import Store
    from rdbench.report.entries import published, stored

    own = _stored(runs) if runs else stored(Store(Path("runs")))
    _write([*own, *published(results)], out, gallery, methods_dir)


def report(
    runs: Runs = Path("runs"), out: Site = Path("report"), gallery: Pictures = True, methods_dir: MethodsDir = None
) -> None:
    """Write the same pages for one run alone."""
    _write(_stored(runs), out, gallery, methods_dir)


def _stored(runs: Path) -> list[Source]:
    """The cells of a run. Raises InputError if there is none."""
    from rdbench.benchmark.store import open_store
    from rdbench.report.entries import stored

    found = stored(open_store(runs, create=False))
    if not found:
        raise InputError(f"no finished cell in {runs}")
    return found


def _write(cells: list[Source], out: Path, gallery: bool, methods_dir: Path | None) -> None:
    from rdbench.benchmark.progress import Reporter
    from rdbench.registry import find_methods
    from rdbench.report.leaderboard import write_site
    from rdbench.report.variants import at_hand

    with (
        at_hand(find_methods(methods_dir)),
        Reporter(own_stderr()) as reporter,
        reporter.step("reading predictions", len(cells), "cells") as step,
    ):
        page = write_site(cells, out, step.advance, with_pictures=gallery)
    say(f"written: {page}")


def submit(
    runs: Runs,
    out: Annotated[Path, typer.Option(help="The directory of published entries.")] = Path("leaderboard/results"),
) -> None:
    """Make published entries of a run, one file per method and data set."""
    from rdbench.report.entries import write_entries

    for path in write_entries(_stored(runs), out):
        say(f"written: {path}")


def validate(files: Annotated[list[Path], typer.Argument(help="Published entries, or folders of them.")]) -> None:
    """Check published entries against themselves; exit code 1 if anything does not agree."""
    from rdbench.report.validate import validate_entry

    sound = True
    for path in [entry for file in files for entry in _entries(file)]:
        problems = validate_entry(path)
        say(f"{path}: {'sound' if not problems else count(len(problems), 'problem')}")
        for problem in problems:
            say(f"  {problem}")
        sound = sound and not problems
    if not sound:
        raise typer.Exit(EXIT_FAILED)


def _entries(path: Path) -> list[Path]:
    """The entry itself, or all in a folder."""
    entries = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    if not entries:
        raise InputError(f"no published entry in {path}")
    return entries


def verify(
    what: Annotated[Path, typer.Argument(help="A directory that `rdbench run` wrote, or a published entry.")],
    cells: Annotated[
        int | None, typer.Option(min=0, help="How many cells to run once more, from the images on; 3 if not given.")
    ] = None,
    draw: Annotated[int, typer.Option(help="Which cells: the seed they are drawn by.")] = 0,
    root: Root = None,
    weights: Annotated[str | None, typer.Option(help="The teacher's weights, as they were given to the run.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    methods_dir: MethodsDir = None,
) -> None:
    """Compute image figures again from the stored predictions, and run some cells again.

    Exit code 1 if a cell differs or is damaged; 3 if one can be compared on another machine or setting only, or if
    --cells was given and not one could be run again.
    """
    from rdbench.benchmark.progress import Reporter
    from rdbench.benchmark.store import open_store
    from rdbench.report.entries import entry_sources
    from rdbench.verify import gather, lines, recompute, rerun

    sources, verdicts = (entry_sources(what), []) if what.is_file() else gather(open_store(what, create=False))
    if not sources and not verdicts:
        raise InputError(f"no finished cell in {what}")
    with Reporter(own_stderr()) as reporter:
        with reporter.step("computing again", len(sources), "cells") as step:
            verdicts += recompute(sources, step.advance)
        wanted = 3 if cells is None else cells
        verdicts += rerun(sources, wanted, draw, root=root, weights=weights, device=device, methods_dir=methods_dir,
                          reporter=reporter)  # fmt: skip
    for line in lines(verdicts):
        say(line)
    idle = wanted > 0 and all(verdict.outcome == "not possible" for verdict in verdicts if verdict.kind == "rerun")
    if idle:
        say("no cell could be run again: that the predictions come of these images and methods is not verified")
    if not all(verdict.sound for verdict in verdicts):
        raise typer.Exit(EXIT_FAILED)
    if (idle and cells is not None) or any(verdict.outcome == "not comparable here" for verdict in verdicts):
        raise typer.Exit(EXIT_NOT_POSSIBLE)


def predict(
    cell: Annotated[Path, typer.Argument(help="A cell's directory, of a run with --keep-models.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    out: Annotated[Path | None, typer.Option(help="A directory for figures: image, anomaly and uncertainty.")] = None,
    weights: Annotated[str | None, typer.Option(help="The teacher's weights, as they were given to the run.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    methods_dir: MethodsDir = None,
) -> None:
    """Score, decision and uncertainty of single images, and whether to send them to review.

    An image that cannot be read is named at the end, and the exit code is 2.
    """
    from rdbench.predict import predict_images

    unreadable: list[InputError] = []
    for said in predict_images(cell, images, out, weights, device, methods_dir, unreadable.append):
        say(f"{said.path}: {', '.join(said.words())}")
    for error in unreadable:
        say(f"Error: {error}", error=True)
    if unreadable:
        raise typer.Exit(EXIT_BAD_INPUT)

"""`rdbench leaderboard`, `report`, `submit`, `validate` and `predict`: what comes of results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rdbench.cli.common import EXIT_FAILED, MethodsDir, Runs, say, stderr

if TYPE_CHECKING:
    from rdbench.report.entries import Source

Site = Annotated[Path, typer.Option(help="Where the page goes.")]


def leaderboard(
    runs: Annotated[Path, typer.Option(help="A directory that `rdbench run` wrote.")] = Path("runs"),
    results: Annotated[Path | None, typer.Option(help="Published entries; else those of this installation.")] = None,
    out: Site = Path("site"),
) -> None:
    """Write the leaderboard as a page that opens from the file system."""
    from rdbench.benchmark.store import open_store
    from rdbench.report.entries import published, stored

    own = stored(open_store(runs, create=False)) if runs.is_dir() else []
    _write([*own, *published(results)], out)


def report(runs: Runs = Path("runs"), out: Site = Path("report")) -> None:
    """Write the same pages for one run alone."""
    from rdbench.benchmark.store import open_store
    from rdbench.report.entries import stored

    _write(stored(open_store(runs, create=False)), out)


def _write(cells: list[Source], out: Path) -> None:
    from rdbench.benchmark.progress import Reporter
    from rdbench.report.leaderboard import write_site

    with Reporter(stderr) as reporter, reporter.step("reading predictions", len(cells), "cells") as step:
        page = write_site(cells, out, step.advance)
    say(f"written: {page}")


def submit(
    runs: Runs,
    out: Annotated[Path, typer.Option(help="The directory of published entries.")] = Path("leaderboard/results"),
) -> None:
    """Make published entries of a run, one file per method and data set."""
    from rdbench.benchmark.store import open_store
    from rdbench.report.entries import stored, write_entries

    for path in write_entries(stored(open_store(runs, create=False)), out):
        say(f"written: {path}")


def validate(files: Annotated[list[Path], typer.Argument(help="Published entries.")]) -> None:
    """Check published entries against themselves; exit code 1 if anything does not agree."""
    from rdbench.report.validate import validate_entry

    sound = True
    for path in files:
        problems = validate_entry(path)
        say(f"{path}: {'sound' if not problems else f'{len(problems)} problems'}")
        for problem in problems:
            say(f"  {problem}")
        sound = sound and not problems
    if not sound:
        raise typer.Exit(EXIT_FAILED)


def predict(
    cell: Annotated[Path, typer.Argument(help="A cell's directory, of a run with --keep-models.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    out: Annotated[Path | None, typer.Option(help="A directory for figures: image, anomaly and uncertainty.")] = None,
    weights: Annotated[str | None, typer.Option(help="The teacher's weights, as they were given to the run.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    methods_dir: MethodsDir = None,
) -> None:
    """Score, decision and uncertainty of single images, and whether to send them to review."""
    from rdbench.predict import predict_images

    for said in predict_images(cell, images, out, weights, device, methods_dir):
        decision = "anomalous" if said.anomalous else "normal"
        say(
            f"{said.path}: {decision} (score {said.score:.4g}, threshold {said.threshold:.4g}), "
            f"{'review' if said.review else 'no review'} (uncertainty {said.uncertainty:.3g}, "
            f"review above {said.doubtful:.3g})"
        )

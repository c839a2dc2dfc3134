"""The command line: each command parses, calls one function and prints."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from rdbench import __version__
from rdbench.cli import bench, compare, data, methods, pages, sweeps
from rdbench.cli.common import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    MethodsDir,
    Precision,
    Root,
    Runs,
    say,
    stdout,
)
from rdbench.errors import InputError
from rdbench.rd.runtime import share_cores
from rdbench.words import count

app = typer.Typer(
    name="rdbench",
    help="Benchmark uncertainty in visual anomaly detection by Reverse Distillation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(methods.app, name="methods")
app.add_typer(data.datasets_app, name="datasets")
app.add_typer(data.shifts_app, name="shifts")
app.command()(data.export)
app.command()(bench.bench)
for command in (
    *(compare.compare, compare.readouts, compare.curve),
    *(sweeps.sweep, sweeps.status, sweeps.merge),
    *(pages.leaderboard, pages.report, pages.predict, pages.submit, pages.validate, pages.verify),
):
    app.command()(command)


@app.command()
def run(
    method: Annotated[list[str], typer.Option("--method", "-m", help="Methods, with commas or repeated.")],
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="See `rdbench datasets`.")] = "toy",
    root: Root = None,
    category: Annotated[
        list[str] | None, typer.Option("--category", "-c", help="Repeatable; all if not given.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Repeatable; 0 if not given.")] = None,
    shift: Annotated[list[str] | None, typer.Option(help="KIND:SEVERITY, as lighting:3; repeatable.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Teacher: embedded (toy), resnet18, resnet34, resnet50, wide_resnet50_2.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="The teacher's state dict, or `random` for a smoke test.")] = None,
    image_size: Annotated[str, typer.Option(help="Pixels, or WIDTHxHEIGHT; multiples of 32.")] = "256",
    map_size: Annotated[str, typer.Option(help="Size for pixel figures: native, pixels, or WIDTHxHEIGHT.")] = "native",
    epochs: Annotated[int | None, typer.Option(help="200 if not given, 20 on toy.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 16,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="key=value or method.key=value; repeatable.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Precision = "fp32",
    alpha: Annotated[float, typer.Option(help="False-alarm level of the decision threshold.")] = 0.10,
    out: Annotated[Path, typer.Option(help="Where results go; finished cells there are not run again.")] = Path("runs"),
    methods_dir: MethodsDir = None,
    keep_models: Annotated[bool, typer.Option("--keep-models", help="Keep each cell's trained model.")] = False,
    gallery: Annotated[
        bool, typer.Option(help="Keep a picture of up to four test images per cell, chosen by rule, for its page.")
    ] = True,
    workers: sweeps.Workers = None,
    cell_timeout: sweeps.CellTimeout = None,
    shard: sweeps.ShardText = None,
    engine: sweeps.EngineName = "local",
    address: sweeps.Address = None,
    cpus: sweeps.Cpus = 1,
    gpus: sweeps.Gpus = None,
    sync_data: sweeps.SyncData = False,
    keep_memory: sweeps.KeepMemory = True,
) -> None:
    """Run methods on a data set and store every cell's predictions and figures."""
    from rdbench.benchmark.plan import make_settings

    settings = make_settings(
        methods=method,
        dataset=dataset,
        root=root,
        categories=category or (),
        options=option or (),
        seeds=seed or (),
        shifts=shift or (),
        backbone=backbone,
        weights=weights,
        image_size=image_size,
        map_size=map_size,
        epochs=epochs,
        batch_size=batch_size,
        device=device,
        precision=precision,
        alpha=alpha,
        out=out,
        methods_dir=methods_dir,
        keep_models=keep_models,
        gallery=gallery,
        keep_memory=keep_memory,
        sharded=shard is not None,
    )
    sweeps.run_lines(
        [settings],
        engine=engine,
        workers=workers,
        cell_timeout=cell_timeout,
        shard=shard,
        address=address,
        cpus=cpus,
        gpus=gpus,
        sync_data=sync_data,
    )


@app.command()
def evaluate(
    runs: Runs = Path("runs"),
    alpha: Annotated[float | None, typer.Option(help="Another false-alarm level; else each cell's own.")] = None,
    intervals: Annotated[bool, typer.Option(help="Bootstrap the 95 % intervals.")] = True,
) -> None:
    """Compute all image metrics again from the stored predictions."""
    from rdbench.benchmark.evaluate import evaluate_store
    from rdbench.benchmark.store import open_store

    if alpha is not None and not 0 < alpha < 1:
        raise InputError(f"--alpha {alpha}: between 0 and 1 is wanted")
    evaluated = evaluate_store(open_store(runs, create=False), alpha, intervals=intervals)
    say(f"{count(evaluated, 'cell')} evaluated in {runs}")


@app.command()
def results(
    runs: Runs = Path("runs"),
    format: Annotated[str, typer.Option("--format", "-f", help="table, csv, json or markdown.")] = "table",
    condition: Annotated[
        list[str] | None,
        typer.Option(help="Of a table: as in the results, or all; repeatable. Else every one, for markdown clean."),
    ] = None,
    methods_dir: MethodsDir = None,
) -> None:
    """Print stored results: a summary table, every figure as tidy rows, or tables that say what beats the margin."""
    from rdbench.benchmark.store import open_store
    from rdbench.registry import find_methods
    from rdbench.report.tables import summary_table
    from rdbench.report.tidy import as_csv, as_json, tidy
    from rdbench.report.variants import at_hand

    if format not in ("table", "csv", "json", "markdown"):
        raise InputError(f"--format {format}: table, csv, json or markdown is wanted")
    if condition and format in ("csv", "json"):
        raise InputError(
            f"--condition with --format {format}: it is for tables; {format} has every condition in a column"
        )
    store = open_store(runs, create=False)
    found = [result for _, result in store.results()]
    if not found:
        raise InputError(f"no finished cell in {runs}")
    with at_hand(find_methods(methods_dir)):
        if format == "markdown":
            from rdbench.report.entries import stored
            from rdbench.report.markdown import markdown

            sys.stdout.write(markdown(stored(store), condition or ()))
        elif format == "table":
            stdout.print(summary_table(found, conditions=condition or ()))
        else:
            rows = tidy(found)
            sys.stdout.write(as_csv(rows) if format == "csv" else as_json(rows))


def _version(value: bool) -> None:
    if value:
        say(f"rdbench {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Benchmark uncertainty in visual anomaly detection by Reverse Distillation."""


def main() -> None:
    """Entry point: what is wrong with the input becomes one line and exit code 2, with the machine 1."""
    share_cores()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without Unicode gets what it can show
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # here, where a full disk behind a pipe can be said
    except InputError as error:
        say(f"Error: {error}", error=True)
        raise SystemExit(EXIT_BAD_INPUT) from None
    except OSError as error:
        with suppress(OSError):  # closed with nothing to write
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        say(f"Error: {error}", error=True)
        raise SystemExit(EXIT_FAILED) from None
    finally:
        _leave_threads()


def _leave_threads() -> None:
    """End here, with the exit code that is under way, if a method's thread would keep the process for ever."""
    guard = sys.modules.get("rdbench.benchmark.guard")  # there if a method's code has run
    if guard is not None and guard.threads_left():
        end = sys.exc_info()[1]
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(end.code if isinstance(end, SystemExit) and isinstance(end.code, int) else EXIT_FAILED if end else 0)

"""`rdbench sweep`, `merge` and `status`, and what `rdbench run` shares with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from rdbench.cli.common import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_INTERRUPTED, Runs, own_stderr, say, stdout
from rdbench.words import count

if TYPE_CHECKING:
    from rdbench.benchmark.plan import RunSettings

ENGINE = "Where cells run"
Workers = Annotated[
    int | None,
    typer.Option(
        help="Worker processes, which share the cores and GPUs; if not given, cells run in the command's own process.",
        rich_help_panel=ENGINE,
    ),
]
CellTimeout = Annotated[
    float | None,
    typer.Option(help="Give a cell up after so many seconds in its method's own code.", rich_help_panel=ENGINE),
]
ShardText = Annotated[
    str | None, typer.Option("--shard", help="I/N: this part of the groups; N are all.", rich_help_panel=ENGINE)
]
EngineName = Annotated[str, typer.Option("--engine", help="local, or ray for a cluster.", rich_help_panel=ENGINE)]
Address = Annotated[str | None, typer.Option(help="Of the Ray cluster: auto or HOST:PORT.", rich_help_panel=ENGINE)]
Cpus = Annotated[int, typer.Option(help="Cores per group on Ray, and its threads.", rich_help_panel=ENGINE)]
Gpus = Annotated[float | None, typer.Option(help="GPUs per group on Ray, 0.5 for two on one.", rich_help_panel=ENGINE)]
SyncData = Annotated[
    bool, typer.Option("--sync-data", help="Send images to Ray's nodes, once each.", rich_help_panel=ENGINE)
]
KeepMemory = Annotated[
    bool,
    typer.Option(help="Keep freed memory for the next step, which is faster.", rich_help_panel=ENGINE),
]


def run_lines(
    lines: Sequence[RunSettings],
    *,
    engine: str,
    workers: int | None,
    cell_timeout: float | None,
    shard: str | None,
    address: str | None,
    cpus: int,
    gpus: float | None,
    sync_data: bool,
    show_plan: bool = False,
    dry_run: bool = False,
) -> None:
    """Plan, run and report; ends the command with the exit code that fits."""
    from rdbench.benchmark.engines.choose import choose_engine
    from rdbench.benchmark.planning import Shard, make_plan
    from rdbench.benchmark.progress import Reporter
    from rdbench.benchmark.run import run_plan
    from rdbench.report.tables import summary_table
    from rdbench.report.variants import at_hand

    out = lines[0].out
    part = Shard.parse(shard) if shard is not None else None
    chosen = choose_engine(
        engine,
        device=lines[0].device,
        workers=workers,
        cell_timeout=cell_timeout,
        address=address,
        cpus=cpus,
        gpus=gpus,
        sync_data=sync_data,
    )
    try:
        with Reporter(own_stderr()) as reporter, chosen:
            for caution in dict.fromkeys(line.caution for line in lines if line.caution):
                reporter.line(f"Caution: {caution}")
            plan = make_plan(lines, reporter, chosen, part, create=not dry_run)
            if show_plan:
                from rdbench.benchmark.forecast import describe_plan

                for line in describe_plan(plan, workers or 1):
                    say(line)
            if dry_run:
                return
            outcome = run_plan(plan, reporter, chosen)
    except KeyboardInterrupt:
        say("interrupted: what is finished is kept, the same command goes on from here", error=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if outcome.finished or outcome.failures:
        with at_hand({name: file for line in lines for name, file in line.methods.items()}):
            stdout.print(summary_table(outcome.results, outcome.failures, brief=True))
        fresh = len(outcome.finished) - outcome.reused
        say(f"{count(fresh, 'cell')} run, {outcome.reused} there already; results in {out}")
    for message in outcome.bad_input:
        say(f"Error: {message}", error=True)
    if outcome.bad_input or any(failure.bad_input for failure in outcome.failures):
        raise typer.Exit(EXIT_BAD_INPUT)
    if outcome.failures:
        raise typer.Exit(EXIT_FAILED)


def sweep(
    file: Annotated[Path, typer.Argument(help="The sweep, in YAML: docs/scaling.md.")],
    out: Annotated[Path, typer.Option(help="Where results go; finished cells there are not run again.")] = Path("runs"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    workers: Workers = None,
    cell_timeout: CellTimeout = None,
    shard: ShardText = None,
    engine: EngineName = "local",
    address: Address = None,
    cpus: Cpus = 1,
    gpus: Gpus = None,
    sync_data: SyncData = False,
    keep_memory: KeepMemory = True,
) -> None:
    """Run all the runs of a sweep file, after printing what that comes to."""
    from rdbench.benchmark.sweep import read_sweep

    run_lines(
        read_sweep(file, out=out, device=device, keep_memory=keep_memory, sharded=shard is not None),
        engine=engine,
        workers=workers,
        cell_timeout=cell_timeout,
        shard=shard,
        address=address,
        cpus=cpus,
        gpus=gpus,
        sync_data=sync_data,
        show_plan=True,
        dry_run=dry_run,
    )


def merge(
    runs: Annotated[list[Path], typer.Argument(help="Directories that `rdbench run` or `sweep` wrote.")],
    out: Annotated[Path, typer.Option(help="Where the joined results go.")],
) -> None:
    """Join results of several runs, refusing two different results for one cell."""
    from rdbench.benchmark.merge import merge_stores

    merged = merge_stores(runs, out)
    say(f"{count(merged.copied, 'cell')} copied, {merged.equal} there already; results in {out}")


def status(runs: Runs = Path("runs")) -> None:
    """Say what is finished, at work, failed and left over in a directory of results, also while a run goes on."""
    from rdbench.benchmark.status import read_status

    found = read_status(runs)
    kinds = {"finished": found.finished, "failed": found.failed, "damaged": found.damaged}
    table = Table("dataset", *kinds, box=None, header_style="bold", pad_edge=False)
    for dataset in sorted(set().union(*kinds.values())):
        table.add_row(escape(dataset), *(str(cells[dataset]) for cells in kinds.values()))
    if table.rows:
        stdout.print(table)
    for line in found.lines():
        say(line)

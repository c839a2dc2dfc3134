"""`rdbench datasets`, `rdbench shifts` and `rdbench export`: the data that goes in, and the maps that go out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from rdbench.cli.common import EXIT_FAILED, MethodsDir, Root, progress, say, stdout
from rdbench.errors import InputError, reason
from rdbench.words import count

datasets_app = typer.Typer(help="List data sets; unpack, check and write them.")
shifts_app = typer.Typer(help="List the shifts and look at them.")

Categories = Annotated[list[str] | None, typer.Option("--category", "-c", help="Repeatable; all if not given.")]
Dataset = Annotated[str, typer.Argument(help="A data set's name.")]


@datasets_app.callback(invoke_without_command=True)
def datasets(context: typer.Context, root: Root = None) -> None:
    """List the data sets, where to get them, and what is found of them."""
    if context.invoked_subcommand is not None:
        return
    from rdbench.datasets import DATASETS, list_categories

    for name, info in DATASETS.items():
        try:
            found = f"{count(len(list_categories(name, root)), 'category')} found"
        except InputError:
            found = "not found"
        stdout.print(f"[bold]{name}[/bold]  {found}", highlight=False)
        lines = (info.summary, "; ".join(filter(None, (info.size, info.licence))), info.url)
        stdout.print(Padding(escape("\n".join(filter(None, lines))), (0, 0, 0, 2)), highlight=False)


@datasets_app.command()
def prepare(
    dataset: Dataset,
    archives: Annotated[list[Path], typer.Argument(help="Official archives: tar, tar.gz, tar.xz or zip.")],
    root: Annotated[Path, typer.Option(help="Where to unpack to.")],
) -> None:
    """Unpack official archives; all of it or nothing."""
    from rdbench.datasets.archive import prepare as unpack

    with progress("unpacking") as advance:
        found = unpack(dataset, archives, root, lambda files: advance(files, None))
    say(f"{count(len(found), 'category')} in {root}: {', '.join(found)}")


@datasets_app.command()
def verify(
    dataset: Dataset,
    root: Root = None,
    category: Annotated[
        list[str] | None, typer.Option("--category", "-c", help="Repeatable; all if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Check counts and read every image and mask; exit code 1 if anything is wrong."""
    from rdbench.datasets import integrity

    with progress("reading images") as advance:
        checks = integrity.verify(dataset, root, category or (), on_file=advance)
    faults = sum(len(check.faults) for check in checks)
    if as_json:
        print(json.dumps(integrity.as_json(dataset, checks), indent=1))
    else:
        for check in checks:
            counts = ", ".join(f"{split} {images}" for split, images in check.counts.items())
            say(f"{check.category}: {counts}" + ("" if check.faults else ": sound"))
            if check.custom:
                say(f"  results on it count as those of custom data: {check.custom}")
            for fault in check.faults:
                say(f"  {fault.kind}: {fault.message}")
        say(f"{count(faults, 'fault')} in {count(len(checks), 'category')}")
    if faults:
        raise typer.Exit(EXIT_FAILED)


@datasets_app.command("export")
def export_toy(
    dataset: Dataset,
    directory: Annotated[Path, typer.Argument(help="A new or empty directory.")],
    layout: Annotated[str, typer.Option(help="mvtec_ad or mvtec_ad2.")] = "mvtec_ad2",
) -> None:
    """Write the drawn data set as real files in an official layout."""
    from rdbench.benchmark.store import refuse_within
    from rdbench.datasets import toy

    if dataset != "toy":
        raise InputError(f"only toy is drawn and can be exported, not {dataset!r}")
    refuse_within(directory)
    toy.export(directory, layout)  # type: ignore[arg-type]
    say(f"toy written to {directory}, laid out as {layout}")


@shifts_app.callback(invoke_without_command=True)
def shifts(context: typer.Context) -> None:
    """List the kinds of shift and what each severity is."""
    if context.invoked_subcommand is not None:
        return
    from rdbench.shifts import KINDS

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("shift", "group"):
        table.add_column(title, no_wrap=True)
    for title in ("what it is", "severity 1", "severity 5"):
        table.add_column(title)
    for kind in KINDS.values():
        table.add_row(kind.name, kind.group, kind.summary, kind.levels[0], kind.levels[-1])
    stdout.print(table)
    stdout.print(
        "\nKIND:SEVERITY is one condition; a kind or a group alone is all its severities. lighting, blur and noise "
        "with a severity stand for exposure, defocus and sensor. adshift is the preset of published work.",
        highlight=False,
    )


@shifts_app.command()
def preview(
    image: Annotated[Path, typer.Argument(help="Any image.")],
    out: Annotated[Path, typer.Option(help="A PNG file.")] = Path("sheet.png"),
    kind: Annotated[list[str] | None, typer.Option(help="A kind or a group; repeatable; all if not given.")] = None,
    seed: Annotated[int, typer.Option(help="Another draws other directions and places.")] = 0,
) -> None:
    """Draw an image under kinds x severities as one contact sheet.

    What is drawn by chance, a direction say, is another than in a run, which draws by the image's key in its data set.
    """
    from rdbench.benchmark.store import refuse_within
    from rdbench.shifts import kinds_of
    from rdbench.shifts.preview import contact_sheet

    refuse_within(out)
    kinds = [each for name in kind or ("all",) for each in kinds_of(name)]
    try:
        contact_sheet(image, list(dict.fromkeys(kinds)), seed).save(out)
    except (OSError, ValueError) as error:  # the latter for a name that says no kind of image
        why = reason(error) if isinstance(error, OSError) else error
        raise InputError(f"cannot write the sheet to {out}: {why}") from error
    say(f"contact sheet written: {out}")


def export(
    dataset: Dataset,
    run: Annotated[Path, typer.Option(help="A directory that `rdbench run --keep-models` wrote.")],
    out: Annotated[Path, typer.Option(help="The archive to write, ending in .tar.gz.")],
    root: Root = None,
    method: Annotated[str | None, typer.Option("--method", "-m", help="Which, if the run has several.")] = None,
    seed: Annotated[int | None, typer.Option(help="Which, if the run has several.")] = None,
    weights: Annotated[str | None, typer.Option(help="The teacher's weights, as they were given to the run.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    methods_dir: MethodsDir = None,
) -> None:
    """Write the archive that the MVTec AD 2 server takes: maps of both private splits."""
    if dataset != "mvtec_ad2":
        raise InputError(f"only mvtec_ad2 has a server to submit to, not {dataset!r}")
    from rdbench.benchmark.submission import write_submission

    with progress("private images") as advance:
        written = write_submission(run, out, root, method, seed, weights, device, methods_dir, advance)
    say(f"{count(written.maps, 'map')} written to {written.path}")
    if written.lacking:
        say(f"the server wants all eight objects; not in it: {', '.join(written.lacking)}")

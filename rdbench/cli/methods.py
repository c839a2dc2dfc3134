"""`rdbench methods`: what can be run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from rdbench.cli.common import EXIT_FAILED, MethodsDir, say, stdout
from rdbench.errors import InputError

app = typer.Typer(help="List methods, show their options, write and check one.")


@app.callback(invoke_without_command=True)
def methods(context: typer.Context, methods_dir: MethodsDir = None) -> None:
    """List the methods that can be run; a broken file is one row that says why."""
    if context.invoked_subcommand is not None:
        return
    from rdbench.registry import find_methods

    table = Table("method", "what it is", "from", box=None, header_style="bold", pad_edge=False)
    for found in find_methods(methods_dir).values():
        text = f"[red]cannot run: {escape(found.problem)}[/red]" if found.problem else escape(found.summary)
        table.add_row(escape(found.name), text, escape(found.origin))
    stdout.print(table)


@app.command()
def show(name: Annotated[str, typer.Argument(help="A method's name.")], methods_dir: MethodsDir = None) -> None:
    """Show what a method is and its options."""
    from rdbench.registry import find_methods, get_method

    method = get_method(name, find_methods(methods_dir))
    if method.problem:
        raise InputError(f"method {name} ({method.path}): {method.problem}")
    stdout.print(f"{method.name}  ({method.path})\n", style="bold", markup=False, highlight=False, soft_wrap=True)
    for paragraph in method.description.split("\n\n"):
        text = paragraph if paragraph.startswith(" ") else " ".join(paragraph.split())
        stdout.print(text + "\n", markup=False, highlight=False)
    table = Table("option", "default", "values", "what it does", box=None, header_style="bold", pad_edge=False)
    for option in method.options:
        values = " | ".join(map(str, option.choices)) or option.type
        table.add_row(option.name, str(option.default), escape(values), escape(option.help))
    stdout.print(table if method.options else "no options")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="What the method shall be called, as my_method.")],
    dir: Annotated[Path, typer.Option(help="Where the file goes.")] = Path("methods"),
) -> None:
    """Write a method file that runs at once, to be made into one's own."""
    from rdbench.check.new import new_method

    path = new_method(name, dir)
    elsewhere = "" if dir == Path("methods") else f" --methods-dir {dir}"
    say(f"{path} is written; what to try next:")
    say(f"  rdbench methods check {name}{elsewhere}")
    say(f"  rdbench run --method {name},deterministic --dataset toy{elsewhere}")


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A method's name.")],
    option: Annotated[list[str] | None, typer.Option("--option", "-o", help="key=value; repeatable.")] = None,
    methods_dir: MethodsDir = None,
) -> None:
    """Test a method against the protocol on tiny images, in seconds, and say what is wrong."""
    from rdbench.check.checks import check_method

    rows = check_method(name, option or (), methods_dir)
    table = Table("check", "", "", box=None, header_style="bold", pad_edge=False)
    for row in rows:
        style = {"passed": "green", "warning": "yellow", "FAILED": "red", "skipped": "dim"}[row.outcome]
        table.add_row(row.check, f"[{style}]{row.outcome}[/{style}]", escape(row.words))
    stdout.print(table, highlight=False)
    if any(row.outcome == "FAILED" for row in rows):
        raise typer.Exit(EXIT_FAILED)

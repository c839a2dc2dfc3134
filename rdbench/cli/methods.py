"""`rdbench methods`: what can be run."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from rdbench.cli.common import MethodsDir, stdout
from rdbench.errors import InputError

app = typer.Typer(help="List methods and show their options.")


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

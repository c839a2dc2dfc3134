"""Writes a method file that runs at once. Imports no torch."""

from __future__ import annotations

import keyword
import re
from importlib.resources import files
from pathlib import Path

from rdbench.errors import InputError
from rdbench.registry import find_methods


def method_source(name: str) -> str:
    """The template as the method `name`: snake_case becomes the class's CamelCase."""
    source = (files("rdbench.check") / "template.py").read_text(encoding="utf-8")
    return source.replace("MyMethod", "".join(map(str.capitalize, name.split("_"))))


def new_method(name: str, directory: Path) -> Path:
    """Write the template to `directory`/`name`.py; return its path.

    Raises InputError if the name cannot be a method's or is taken, or the file cannot be written.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name) or keyword.iskeyword(name):
        raise InputError(f"method name {name!r}: give lower-case letters, digits and underscores, as in my_method")
    path = directory / f"{name}.py"
    if path.exists():
        raise InputError(f"{path} exists; give another name, or delete it first")
    if (taken := find_methods().get(name)) is not None:
        raise InputError(f"the name {name!r} is taken by {taken.path}; give another")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(method_source(name))
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; give another --dir") from error
    return path

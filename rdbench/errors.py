"""Errors that are for people: one clear line, exit code 2, nothing lost."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from difflib import get_close_matches


class InputError(Exception):
    """The user's input cannot be used. The message says what was wrong, where, and what to do."""


class BrokenMethod(Exception):
    """A method file cannot be used; only its own cells fail."""


def reason(error: OSError) -> str:
    """Why the system refused, without numbers and paths; of a folder's copy, which collects reasons, the first."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        return str(error.args[0][0][2])
    return error.strerror or str(error)


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """An :class:`InputError` for a misspelt `name`, offering the nearest of the `known` names."""
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names) or 'none'}"
    return InputError(f"unknown {kind} {name!r}; {hint}")

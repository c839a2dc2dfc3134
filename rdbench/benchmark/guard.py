"""What surrounds a stranger's code, so that whatever it does to what it was handed costs its own cell only."""

from __future__ import annotations

import io
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout

import torch
from torch import Tensor

from rdbench.registry import BrokenMethod

MOST_PRINTED = 4000
"""Characters that a method may print in a process; the rest is not shown."""

_printed: Counter[str] = Counter()


@contextmanager
def guarded_call(name: str) -> Iterator[None]:
    """Around a method's import, `fit`, `save`, `load` and `predict`: what it sets for the process is put back.

    What it prints goes to stderr, as much as `MOST_PRINTED` allows for each `name`. Raises BrokenMethod where it would
    end the program.
    """
    settings = process_settings()
    try:
        with redirect_stdout(_Bounded(name)):
            yield
    except SystemExit as end:
        raise BrokenMethod(f"the method would end the program: SystemExit({end.code!r})") from end
    finally:
        restore_settings(settings)


class Untouched:
    """Tensors that a method may read and not change. Use as a context around its calls, as often as wanted.

    What was changed in place is put back when the call ends, however it ends; BrokenMethod is raised if anything was.
    """

    def __init__(self, what: str, tensors: Iterable[Tensor]) -> None:
        self._what = what
        self._tensors = [(tensor, tensor.clone()) for tensor in tensors]

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with torch.no_grad():
            differ = [(_bits(tensor) != _bits(was)).any() for tensor, was in self._tensors]
            changed = torch.stack(differ).tolist()  # all in one: a GPU is waited for once
            for (tensor, was), differs in zip(self._tensors, changed, strict=True):
                if differs:
                    tensor.copy_(was)
        if any(changed) and kind is None:
            raise BrokenMethod(f"the method changed {self._what} in place; work on a copy: tensor.clone()")


def _bits(tensor: Tensor) -> Tensor:
    """The tensor as integers, in which a NaN equals itself."""
    return tensor.view((torch.uint8, torch.int16, torch.int32, torch.int64)[tensor.element_size().bit_length() - 1])


def process_settings() -> dict[str, object]:
    """What holds for the whole process and a method could change, by name."""
    return {
        "the working directory": os.getcwd(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's number of threads": torch.get_num_threads(),
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
    }


def restore_settings(were: dict[str, object]) -> None:
    """Put back what :func:`process_settings` gave."""
    if process_settings() == were:
        return
    os.chdir(str(were["the working directory"]))
    dtype, threads = were["torch's default dtype"], were["torch's number of threads"]
    assert isinstance(dtype, torch.dtype)
    assert isinstance(threads, int)
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)
    torch.set_grad_enabled(bool(were["torch's gradient mode"]))
    torch.use_deterministic_algorithms(bool(were["torch's deterministic algorithms"]))


class _Bounded(io.TextIOBase):
    """Passes the first `MOST_PRINTED` characters of a method's prints on to stderr."""

    def __init__(self, name: str) -> None:
        self._name = name

    def write(self, text: str) -> int:
        before = _printed[self._name]
        _printed[self._name] += len(text)
        if before < MOST_PRINTED:
            sys.stderr.write(text[: MOST_PRINTED - before])
            if _printed[self._name] >= MOST_PRINTED:
                sys.stderr.write(f"\n{self._name} has printed {MOST_PRINTED} characters; more is not shown\n")
        return len(text)

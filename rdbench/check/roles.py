"""Finds networks that run without the benchmark counting their passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from rdbench.benchmark.cost import ROLES


@contextmanager
def uncounted_modules() -> Iterator[Counter[str]]:
    """Count, by class, the calls of modules with parameters of their own outside every module with a role."""
    calls: Counter[str] = Counter()
    depth = 0

    def enter(module: nn.Module, _: object) -> None:
        nonlocal depth
        depth += getattr(module, "role", None) in ROLES

    def leave(module: nn.Module, _: object, __: object) -> None:
        nonlocal depth
        if getattr(module, "role", None) in ROLES:
            depth -= 1
        elif not depth and next(module.parameters(recurse=False), None) is not None:
            calls[type(module).__name__] += 1

    hooks = [
        nn.modules.module.register_module_forward_pre_hook(enter),
        nn.modules.module.register_module_forward_hook(leave),
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()

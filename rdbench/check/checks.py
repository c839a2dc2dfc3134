"""Holds one method against the protocol, on tiny drawn images, and says in words what is wrong.

The checks call the method as the benchmark does, through its own routines. What they see and what they cannot is in
docs/adding_a_method.md.
"""

from __future__ import annotations

import ast
import gc
import shutil
import sys
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from rdbench.benchmark.cost import ROLES, count_passes
from rdbench.benchmark.fitting import fit, load_fitted, seed_everything
from rdbench.benchmark.predicting import check_prediction
from rdbench.check.compare import (
    FORBIDDEN,
    first_difference,
    largest_move,
    names_used,
    new_tensor_bytes,
    of_image,
    saved_files,
)
from rdbench.check.guard import Guard, Guarded, Wrong
from rdbench.check.world import TEST, WILD, World
from rdbench.errors import InputError
from rdbench.protocol import FitContext, Prediction
from rdbench.registry import MethodFile, OptionValue, find_methods, get_method, load_method, parse_options

TOLERANCE = 1e-5
"""How far an image's prediction may move with its batch, relative to the largest anomaly: rounding, no more."""
MAX_PRINTED = 2000
"""Characters that a method may print over all the checks."""
MAX_GROWTH = 16 * 1024
"""Bytes by which memory may grow from one prediction to the next; the batch's maps alone are 64 KiB."""


@dataclass(frozen=True)
class Row:
    """What came of one check."""

    check: str
    outcome: Literal["passed", "FAILED", "skipped"]
    words: str = ""


class Skip(Exception):
    """A check does not apply; the message says why."""


def check_method(name: str, pairs: Sequence[str] = (), methods_dir: Path | None = None) -> list[Row]:
    """Check the method `name` with the options in `key=value` pairs.

    Raises InputError if there is no such method or option.
    """
    methods = find_methods(methods_dir)
    file = get_method(name, methods)
    if file.problem:
        return [Row("file", "FAILED", f"{file.path}: {file.problem}")]
    choices = parse_options([name], pairs, methods)[name]
    if len(choices) > 1:
        raise InputError("options: give one value each; a check is of one choice of options")
    with tempfile.TemporaryDirectory(prefix="rdbench-check-") as scratch:
        checks = _Checks(file, choices[0], World(Path(scratch).resolve()))
        with checks.world.decoy():
            return checks.run()


class _Checks:
    """The checks of one method, in order; later ones use what earlier ones made."""

    def __init__(self, file: MethodFile, options: dict[str, OptionValue], world: World) -> None:
        self.file, self.options, self.world = file, options, world
        self.guard = Guard(file.path, world.teacher)
        self.outcomes: dict[str, Row] = {}
        self.fits = 0

    def run(self) -> list[Row]:
        after = "prediction"
        touched = self.guard.changed
        random_words = "draw from a generator of one's own, seeded by context.seed: torch.Generator().manual_seed(...)"
        self._row("file", self._file)
        self._row("fit and save", self._fit, needs="file")
        self._row("load", self._load, needs="fit and save")
        self._row("prediction", self._prediction, needs="load")
        self._row("same again", self._same_again, needs=after)
        self._row("saved whole", self._saved_whole, needs=after)
        self._row("batch", self._batch, needs=after)
        self._row("cost", self._cost, needs=after)
        self._row("predicting", self._predicting, needs=after)
        self._row("memory", self._memory, needs=after)
        self._touched("teacher", touched["teacher"], "it is shared: work on a copy.deepcopy of it")
        self._touched("inputs", touched["inputs"], "other methods get the same tensors: work on a clone")
        self._touched("shared students", touched["students"], "other methods use it: work on a copy.deepcopy of it")
        drawn = {words: None for words in touched["random"] if words.startswith("predict")}
        self._touched("random state", drawn, random_words, note="; ".join(touched["random"]))
        self._touched("settings", touched["settings"], "they hold for other methods too: leave them as they are")
        files = "a method sees no files but those in the directory that save and load are given"
        self._touched("files", self.guard.audit.files, files)
        self._touched("callers", self.guard.audit.looks, "a method knows what it is handed, no more")
        self._row("output", self._output)
        return list(self.outcomes.values())

    def _row(self, name: str, check: Callable[[], str], needs: str = "") -> None:
        if needs and self.outcomes[needs].outcome != "passed":
            self.outcomes[name] = Row(name, "skipped", f"needs `{needs}` to pass")
            return
        try:
            row = Row(name, "passed", check())
        except Skip as reason:
            row = Row(name, "skipped", str(reason))
        except (Wrong, InputError) as error:
            row = Row(name, "FAILED", str(error))
        except Exception as error:  # the benchmark's own routines stumbled over what the method made
            row = Row(name, "FAILED", f"{type(error).__name__}: {error}")
        self.outcomes[name] = row

    def _touched(self, name: str, found: dict[str, None], advice: str, note: str = "") -> None:
        """A row for what the guard saw over all calls."""
        if found:
            self.outcomes[name] = Row(name, "FAILED", f"{_first(found)}; {advice}")
        elif self.outcomes["load"].outcome == "passed":
            self.outcomes[name] = Row(name, "passed", note)
        else:
            self.outcomes[name] = Row(name, "skipped", "nothing was predicted")

    def _new(self, **options: OptionValue) -> Guarded:
        """The method from a freshly imported file, so that nothing is handed on but by saving and loading."""
        sys.modules.pop(f"rdbench_method_{self.file.name}_{self.file.sha256[:10]}", None)
        with self.guard.running("import"):
            return Guarded(load_method(self.file, {**self.options, **options}), self.guard)

    def _fitted(self, **options: OptionValue) -> tuple[Guarded, Path]:
        """The method fitted once more, and where it was saved."""
        self.fits += 1
        directory = self.world.scratch / f"fit_{self.fits}"
        method = self._new(**options)
        fit(method, self.world.train, self.world.context, self.world.shared, "fp32", directory)
        return method, directory

    def _loaded(self, directory: Path, **options: OptionValue) -> Guarded:
        """The method loaded from a copy of what was saved, in a context that does not train."""
        copy = Path(tempfile.mkdtemp(dir=self.world.scratch)) / "moved"
        shutil.copytree(directory, copy)
        method = self._new(**options)
        load_fitted(method, _no_training(self.world.context), self.world.shared, copy)
        return method

    def _predict(self, method: Guarded, indices: Sequence[int] = range(TEST)) -> Prediction:
        batch = self.world.batch(list(indices))
        with torch.inference_mode():
            seed_everything(self.world.spec.seed)
            prediction = method.predict(batch)
            check_prediction(prediction, len(indices), batch.images.shape[-2:])
        return prediction

    def _file(self) -> str:
        named = names_used(ast.parse(self.file.path.read_bytes()))
        for module, why in FORBIDDEN.items():
            if any(name == module or name.startswith(f"{module}.") for name in named):
                raise Wrong(f"the file uses {module}: {why}; rdbench.protocol, .rd, .uq and .metrics are for methods")
        if not self.file.summary:
            raise Wrong("the file has no docstring; `rdbench methods` shows its first line")
        if nameless := [option.name for option in self.file.options if not option.help]:
            raise Wrong(f"option {nameless[0]} has no help; put a string that says what it does below the field")
        self._new()
        return ", ".join(f"{name}={value}" for name, value in self.options.items()) or "no options"

    def _fit(self) -> str:
        self.fitted, self.saved = self._fitted()
        files = [path for path in (self.saved / "model").rglob("*") if path.is_file()]
        return f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1024:,.0f} KiB"

    def _load(self) -> str:
        steps = 0

        def count(*_: object) -> None:
            nonlocal steps
            steps += 1

        hook = register_optimizer_step_post_hook(count)
        try:
            with count_passes() as passes:
                self.method = self._loaded(self.saved)
        finally:
            hook.remove()
        if steps or passes:
            did = f"takes {steps} steps of an optimizer" if steps else f"runs networks on {max(passes.values())} images"
            raise Wrong(f"load {did}; what is learnt belongs into fit, and into what save writes")
        return ""

    def _prediction(self) -> str:
        self.said = self._predict(self.method)
        for name, value in vars(self.said).items():
            if isinstance(value, Tensor) and value.device != self.world.context.device:
                raise Wrong(f"prediction.{name} is on {value.device}, wanted the batch's {self.world.context.device}")
        return ", ".join(name for name, value in vars(self.said).items() if value is not None)

    def _same_again(self) -> str:
        if difference := first_difference(self.said, self._predict(self.method)):
            raise Wrong(f"predicting the same batch again gives another {difference}; predict must not keep a state")
        self.fitted_again, self.saved_again = self._fitted()
        if difference := first_difference(self.said, self._predict(self._loaded(self.saved_again))):
            raise Wrong(
                f"fitting again with the same seed gives another {difference}; take every seed from context.seed, "
                "and use no order or time of the machine's"
            )
        return "two predictions and two fits, bit for bit"

    def _saved_whole(self) -> str:
        if difference := first_difference(self.said, self._predict(self._loaded(self.saved))):
            raise Wrong(f"loading twice gives another {difference}; load must become the same method every time")
        try:
            fitted = self._predict(self.fitted)
        except (Wrong, InputError, Exception):
            return "two loads, bit for bit; what was fitted does not predict before it is loaded, nor has to"
        if difference := first_difference(self.said, fitted):
            raise Wrong(f"what was loaded gives another {difference} than what was fitted; save it exactly")
        return "fitted and loaded twice, bit for bit"

    def _batch(self) -> str:
        """Each test image's prediction alone, in reverse order, and beside a wild one."""
        worst = 0.0
        reverse = list(reversed(range(TEST)))
        for what, indices in {
            "alone": [0],
            "in another order": reverse,
            "beside a very different image": [WILD, 1, WILD, 0],
            "beside another image": [2, 0],
        }.items():
            other = self._predict(self.method, indices)
            for position, index in enumerate(indices):
                if index == WILD:
                    continue
                moved, name = largest_move(of_image(self.said, index), of_image(other, position), self.said)
                if moved > TOLERANCE:
                    raise Wrong(
                        f"an image {what} gets another {name} than with the others, by {moved:.1e} of the largest "
                        "value; an image's prediction must not depend on its batch: no batch norm in train mode, no "
                        "mean or rank over the batch, random draws the same for every image"
                    )
                worst = max(worst, moved)
        return f"differs by {worst:.0e} of the largest value at most"

    def _cost(self) -> str:
        batch = self.world.batch(list(range(TEST)))
        uncounted: Counter[str] = Counter()
        inside = 0

        def enter(module: nn.Module, _: object) -> None:
            nonlocal inside
            inside += getattr(module, "role", None) in ROLES

        def leave(module: nn.Module, _: object, __: object) -> None:
            nonlocal inside
            if getattr(module, "role", None) in ROLES:
                inside -= 1
            elif not inside and next(module.parameters(recurse=False), None) is not None:
                uncounted[type(module).__name__] += 1

        hooks = [
            nn.modules.module.register_module_forward_pre_hook(enter),
            nn.modules.module.register_module_forward_hook(leave),
        ]
        try:
            with torch.inference_mode(), count_passes() as passes:
                self.method.predict(batch)
        finally:
            for hook in hooks:
                hook.remove()
        missing = ", ".join(uncounted)
        if missing and not passes:
            raise Wrong(
                f"passes are not counted: {missing} run in networks without a role; set `role` of each network's "
                'class to "teacher", "bottleneck" or "decoder"'
            )
        per_image = ", ".join(f"{passes[role] / TEST:g} of the {role}" for role in ROLES if passes[role])
        words = f"passes per image beside the shared teacher's: {per_image or 'none'}"
        return words + (f"; not counted, as outside a network with a role: {missing}" if missing else "")

    def _predicting(self) -> str:
        if not self.file.predicting:
            raise Skip("no options that matter to predict alone")
        if saved_files(self.saved) != saved_files(self.saved_again):
            raise Skip("two equal fits save other bytes (a time?), so that nothing can be compared")
        found = {name: self._another(name) for name in self.file.predicting}
        others = {name: value for name, value in found.items() if value is not None}
        if not others:
            raise Skip(f"no other value of {', '.join(self.file.predicting)} was found that the method takes")
        words = ", ".join(f"{name}={value}" for name, value in others.items())
        _, directory = self._fitted(**others)
        if saved_files(directory) != saved_files(self.saved):
            raise Wrong(f"{words} changes what is saved; `predicting` may name only options that fitting ignores")
        self._predict(self._loaded(self.saved, **others))
        return f"{words} saves the same bytes, and predicts from them"

    def _another(self, name: str) -> OptionValue | None:
        """Another value of the option, one that the method takes."""
        option = next(option for option in self.file.options if option.name == name)
        value = self.options[name]
        candidates: list[Any] = [choice for choice in option.choices if choice != value]
        if isinstance(value, bool):
            candidates = [not value]
        elif isinstance(value, int | float) and not option.choices:
            candidates = [value + 1, value - 1] if isinstance(value, int) else [value / 2, value + 0.1]
        for candidate in candidates:
            try:
                self._new(**{name: candidate})
            except Wrong:
                continue
            return candidate  # type: ignore[no-any-return]
        return None

    def _memory(self) -> str:
        sizes = []
        batch = list(range(TEST))
        gc.freeze()  # what is there by now need not be looked through each time
        tracemalloc.start()
        try:
            for _ in range(3):
                self._predict(self.method, batch)
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0] + new_tensor_bytes())
        finally:
            tracemalloc.stop()
            gc.unfreeze()
        growth = min(later - sooner for sooner, later in pairwise(sizes))
        if growth > MAX_GROWTH:
            raise Wrong(f"memory grows by {growth / 1024:,.0f} KiB with every batch; predict must keep nothing")
        return ""

    def _output(self) -> str:
        printed = self.guard.printed
        if printed > MAX_PRINTED:
            raise Wrong(f"prints {printed:,} characters, wanted at most {MAX_PRINTED:,}; a run has many cells")
        return f"prints {printed} characters" if printed else "prints nothing"


def _no_training(context: FitContext) -> FitContext:
    """The context as a kept method gets it for loading, much later."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise InputError("asks for training; load must read all it needs from its directory")

    return replace(context, train=refuse, trained=refuse)


def _first(found: dict[str, None], most: int = 3) -> str:
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(list(found)[:most]) + more

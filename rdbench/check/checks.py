"""Holds one method against the protocol, on tiny drawn images, and says in words what is wrong.

The checks call the method as the benchmark does, through its own routines. What they see and what they cannot is in
docs/adding_a_method.md.
"""

from __future__ import annotations

import ast
import gc
import tempfile
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from rdbench.benchmark.cost import ROLES, count_passes
from rdbench.check.differences import (
    FORBIDDEN,
    first_difference,
    largest_move,
    names_used,
    new_tensor_bytes,
    of_image,
    saved_files,
)
from rdbench.check.roles import uncounted_modules
from rdbench.check.subject import Subject
from rdbench.check.watch import Wrong
from rdbench.check.world import TEST, WILD, World
from rdbench.errors import BrokenMethod, InputError
from rdbench.method_file import OptionValue
from rdbench.registry import find_methods, get_method, parse_options

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
    outcome: Literal["passed", "warning", "FAILED", "skipped"]
    words: str = ""


class Doubt(Exception):
    """What is seen may be a mistake or meant so; the message says what it is."""


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
        world = World(Path(scratch).resolve())
        with world.decoy():
            return _Checks(Subject(file, choices[0], world)).run()


class _Checks:
    """The checks of one method, in order; later ones use what earlier ones made."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.file, self.options = subject.file, subject.options
        self.outcomes: dict[str, Row] = {}

    def run(self) -> list[Row]:
        after = "prediction"
        touched = self.subject.guard.changed
        random_words = "draw from a generator of one's own, seeded by context.seed: torch.Generator().manual_seed(...)"
        self._row("file", self._file)
        self._row("fit and save", self._fit, needs="file")
        self._row("load", self._load, needs="fit and save")
        self._row("prediction", self._prediction, needs="load")
        self._row("uncertainty", self._uncertainty, needs=after)
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
        self._touched("files", self.subject.guard.audit.files, files)
        self._touched("callers", self.subject.guard.audit.looks, "a method knows what it is handed, no more")
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
        except Doubt as doubt:
            row = Row(name, "warning", str(doubt))
        except (Wrong, InputError, BrokenMethod) as error:
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

    def _file(self) -> str:
        named = names_used(ast.parse(self.file.path.read_bytes()))
        for module, why in FORBIDDEN.items():
            if any(name == module or name.startswith(f"{module}.") for name in named):
                raise Wrong(f"the file uses {module}: {why}; rdbench.protocol, .rd, .uq and .metrics are for methods")
        if not self.file.summary:
            raise Wrong("the file has no docstring; `rdbench methods` shows its first line")
        if nameless := [option.name for option in self.file.options if not option.help]:
            raise Wrong(f"option {nameless[0]} has no help; put a string that says what it does below the field")
        self.subject.new()
        return ", ".join(f"{name}={value}" for name, value in self.options.items()) or "no options"

    def _fit(self) -> str:
        self.fitted, self.saved = self.subject.fitted()
        files = saved_files(self.saved)
        return f"{len(files)} files, {sum(map(len, files.values())) / 1024:,.0f} KiB"

    def _load(self) -> str:
        steps = 0

        def count(*_: object) -> None:
            nonlocal steps
            steps += 1

        hook = register_optimizer_step_post_hook(count)
        try:
            with count_passes() as passes:
                self.method = self.subject.loaded(self.saved)
        finally:
            hook.remove()
        if steps or passes:
            did = f"takes {steps} steps of an optimizer" if steps else f"runs networks on {max(passes.values())} images"
            raise Wrong(f"load {did}; what is learnt belongs into fit, and into what save writes")
        return ""

    def _prediction(self) -> str:
        self.said = self.subject.predict(self.method)
        return ", ".join(name for name, value in vars(self.said).items() if value is not None)

    def _uncertainty(self) -> str:
        values = self.subject.predict(self.method, [*range(TEST), WILD]).uncertainty
        if (values == values[0]).all():
            raise Doubt(
                f"it is {values[0]:g} for every image, a very different one too: it tells no decision from another; "
                "see that it is computed from the images, unless it is meant so"
            )
        return f"from {values.min():.2g} to {values.max():.2g}"

    def _same_again(self) -> str:
        if difference := first_difference(self.said, self.subject.predict(self.method)):
            raise Wrong(f"predicting the same batch again gives another {difference}; predict must not keep a state")
        self.fitted_again, self.saved_again = self.subject.fitted()
        if difference := first_difference(self.said, self.subject.predict(self.subject.loaded(self.saved_again))):
            raise Wrong(
                f"fitting again with the same seed gives another {difference}; take every seed from context.seed, "
                "and use no order or time of the machine's"
            )
        return "two predictions and two fits, bit for bit"

    def _saved_whole(self) -> str:
        if difference := first_difference(self.said, self.subject.predict(self.subject.loaded(self.saved))):
            raise Wrong(f"loading twice gives another {difference}; load must become the same method every time")
        try:
            fitted = self.subject.predict(self.fitted)
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
            other = self.subject.predict(self.method, indices)
            for position, index in enumerate(indices):
                if index == WILD:
                    continue
                moved, name = largest_move(of_image(self.said, index), of_image(other, position), self.said)
                if moved > TOLERANCE:
                    raise Wrong(
                        f"an image {what} gets another {name} than with the others, by {moved:.1e} of the largest "
                        "value; an image's prediction must not depend on its batch: no batch norm in train mode, no "
                        "mean or rank over the batch, random draws the same for every image, nothing so small that "
                        "it is all rounding"
                    )
                worst = max(worst, moved)
        return f"differs by {worst:.0e} of the largest value at most"

    def _cost(self) -> str:
        batch = self.subject.world.batch(list(range(TEST)))
        with torch.inference_mode(), uncounted_modules() as uncounted, count_passes() as passes:
            self.method.predict(batch)
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
        _, directory = self.subject.fitted(**others)
        if saved_files(directory) != saved_files(self.saved):
            raise Wrong(f"{words} changes what is saved; `predicting` may name only options that fitting ignores")
        self.subject.predict(self.subject.loaded(self.saved, **others))
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
                self.subject.new(**{name: candidate})
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
                self.subject.predict(self.method, batch)
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
        printed = self.subject.guard.printed
        if printed > MAX_PRINTED:
            raise Wrong(f"prints {printed:,} characters, wanted at most {MAX_PRINTED:,}; a run has many cells")
        return f"prints {printed} characters" if printed else "prints nothing"


def _first(found: dict[str, None], most: int = 3) -> str:
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(list(found)[:most]) + more

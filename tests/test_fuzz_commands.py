"""Every value that a command takes is a stranger's too: odd numbers, names and paths are used, or refused in words.

Planning is of real data, and what is read or predicted is real; the work of a group alone is made up.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import typer
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from typer.models import ArgumentInfo

from rdbench.benchmark.store import Store
from rdbench.cli import app, main
from rdbench.report.entries import stored, write_entries
from tests.command import QUICK, Command
from tests.datasets import trees
from tests.fuzzing import STUB, make_up_work
from tests.test_fuzz import damaged, mutate

pytestmark = pytest.mark.long

fuzz = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip

SWEEP = """\
defaults:
  categories: [twill]
  image_size: 64
  epochs: 1
  alpha: 0.2
runs:
  - methods: [deterministic, tta]
    seeds: [0, 1]
    shifts: [lighting:3]
  - methods: mc_dropout
    options: {p: [0.1, 0.2], mc_dropout.samples: 2}
    batch_size: 8
    gallery: false
"""

USUAL: Mapping[str, Mapping[str, str]] = {
    "run": {"method": "deterministic", "dataset": "toy", "category": "twill", "image_size": "64", "epochs": "1",
            "out": "out/runs"},
    "sweep": {"file": "sweep.yaml", "out": "out/runs"},
    "merge": {"runs": "runs", "out": "out/merged"},
    "leaderboard": {"runs": "runs", "results": "entries", "out": "out/site"},
    "report": {"runs": "runs", "out": "out/report"},
    "submit": {"runs": "runs", "out": "out/entries"},
    "validate": {"files": "entries"},
    "verify": {"what": "runs", "cells": "1", "root": "data"},
    "predict": {"cell": "cell", "images": "image.png", "out": "out/figures"},
    "compare": {"methods": "mc_dropout[samples=2]", "runs": "runs", "out": "out/compared.html"},
    "curve": {"runs": "runs", "out": "out/curve.html"},
    "export": {"dataset": "mvtec_ad2", "run": "runs", "root": "data", "method": "mc_dropout", "out": "out/maps.tar.gz"},
    "bench": {},
    "datasets export": {"dataset": "toy", "directory": "out/toy"},
    "datasets prepare": {"dataset": "mvtec_ad2", "archives": "vial.tar", "root": "out/data"},
    "datasets verify": {"dataset": "mvtec_ad2", "root": "data"},
    "shifts preview": {"image": "image.png", "kind": "exposure", "out": "out/sheet.png"},
    "methods new": {"name": "mine", "dir": "out/methods"},
    "methods check": {"name": "deterministic"},
    "methods show": {"name": "deterministic"},
}  # fmt: skip
"""By command and parameter: what works, in the folder that `place` makes. Others are left out unless they are odd."""

STUBBED = ("bench", "methods check")
"""Commands whose work is refused here, once all that comes before it is done."""

WRITTEN = ("out", "dir", "directory")
"""Parameters that say where something is written; `evaluate` writes to its runs, `prepare` to its root."""

NUMBERS = (
    "-1", "0", "1", "2", "3", "64", "65", "1_000", "9" * 30, "-" + "9" * 30, str(2**31), str(2**62), str(2**63),
    "0.5", "1e-320", "1e308", "1e999", "nan", "inf", "-inf", "-0.0", "0x10", "", "٣", "½", "1,2", "64x32", "1/2",
)  # fmt: skip
NAMES = (
    "", " ", ".", "..", "../x", "a/b", "<script>alert(1)</script>", "[red]x[/]", "[/]", "x" * 300, "a\nb", "-x", "--",
    "=", "p=", "=1", "samples=1,2", "deterministic", "tta", "toy", "cuda:9", "cuda:x", "meta", "lighting:9", "all",
    "clean", "native", "random", "json", "\udcff", "\u202etxt", "%s{0}", "None", "bf16", "mvtec_ad2", "mine", "{{ 1 }}",
)  # fmt: skip
YAML = (
    "&a 1", "*a", "!!python/none 1", "!x 1", ".inf", ".nan", "2001-01-01", "[", "{", "{}", "[[[[[[1]]]]]]", "? 1", "|",
)  # fmt: skip
PATHS = (
    ".", "data", "data/mine", "runs", "runs/mvtec_ad2", "cell", "image.png", "sweep.yaml", "entries", "out", "~", "-",
    "out/a/b.html", "out/x.png", "out/x.tar.gz", "x" * 300, "nowhere/x", "image.png/x", "/dev/null", "/dev/null/x",
    "/proc/x", "a\nb.png", "out/<b>.html", "\udcff", "runs/.work", "out/" + "y/" * 60 + "z.html",
    "out/" + "y" * 252 + ".html", "loop",
)  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    """One that takes a value."""

    name: str
    kind: type
    """int, float, Path or str."""
    flag: str
    """Empty for an argument."""

    def values(self) -> st.SearchStrategy[str]:
        """Odd ones."""
        if self.kind is Path:
            return st.sampled_from(PATHS)
        if self.kind is str:
            return st.sampled_from((*NAMES, *NUMBERS)) | st.text(max_size=8)
        return st.sampled_from(NUMBERS) | st.integers().map(str) | st.floats().map(str)


def commands(group: typer.Typer, before: str = "") -> Iterator[tuple[str, Callable[..., object]]]:
    """Every command's function by its name, as it is typed."""
    for command in group.registered_commands:
        assert command.callback is not None
        yield before + (command.name or command.callback.__name__), command.callback
    for info in group.registered_groups:
        assert info.typer_instance is not None
        yield from commands(info.typer_instance, f"{before}{info.name} ")


def parameters(function: Callable[..., object]) -> Iterator[Parameter]:
    """Those of a command's parameters that take a value."""
    for name, hint in get_type_hints(function, include_extras=True).items():
        if name != "return":
            annotation, info = get_args(hint)
            kinds = {annotation, *get_args(annotation), *(a for each in get_args(annotation) for a in get_args(each))}
            flag = "" if isinstance(info, ArgumentInfo) else f"--{name.replace('_', '-')}"
            for kind in kinds & {int, float, Path, str}:
                yield Parameter(name, kind, flag)


COMMANDS = {name: [*parameters(function)] for name, function in commands(app)}


def typed(command: str, given: Mapping[str, str]) -> list[str]:
    """The command line that gives the parameters these values."""
    options, arguments = command.split(), ["--"]
    for parameter in COMMANDS[command]:
        if parameter.name in given:
            value = given[parameter.name]
            if parameter.flag:
                options.append(f"{parameter.flag}={value}")
            else:
                arguments.append(value)
    return [*options, *arguments, *(["deterministic"] if command == "compare" else [])]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every command works as `USUAL` has it; one cell of its runs is real and has its model."""
    folder = tmp_path_factory.mktemp("fuzz") / "inside"
    trees.mvtec_ad2(folder / "data", "mine")
    trees.draw(folder / "image.png")
    (folder / "out").mkdir()
    (folder / "sweep.yaml").write_text(SWEEP)
    with tarfile.open(folder / "vial.tar", "w") as archive:
        archive.add(folder / "data/mine", "vial")
    run = ("run", "-m", "mc_dropout", "-o", "samples=2", "--dataset", "mvtec_ad2", "--root", folder / "data", *QUICK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["rdbench", *map(str, run), "--keep-models", "--out", str(folder / "runs")])
        with suppress(SystemExit):
            main()
    store = Store(folder / "runs")
    [(directory, result)] = store.results()
    spec = result.spec.model_copy(update={"method": "deterministic", "options": {}})
    other = result.model_copy(update={"spec": spec})
    store.write(other, directory / "predictions.npz")
    (folder / "cell").symlink_to(directory)
    (folder / "loop").symlink_to("loop")
    write_entries(stored(store), folder / "entries")
    return folder


@pytest.fixture
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same as the working directory, with what takes long made up or refused."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "5000")
    make_up_work(monkeypatch)
    for name in ("TRAIN", "CALIBRATION", "PARTS"):
        monkeypatch.setattr(f"rdbench.datasets.toy.{name}", 1)
    return place


def state(folder: Path) -> dict[Path, tuple[int, int]]:
    """Every file and folder below one, with its size and time of change."""
    found = {}
    for directory, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(directory, name)
            stat = path.lstat()
            found[path] = (stat.st_size, stat.st_mtime_ns) if name in files else (0, 0)
    return found


def squeezed(text: str) -> str:
    return "".join(text.split())


@fuzz
@given(data=st.data())
def test_every_value_is_used_or_refused_by_name(rdbench: Command, inside: Path, data: st.DataObject) -> None:
    """In words that name the value or what it is for, and nothing is written but where the command says."""
    command, parameter = data.draw(st.sampled_from([(name, each) for name in COMMANDS for each in COMMANDS[name]]))
    value = data.draw(parameter.values())
    assume("\0" not in value)
    given = {**USUAL.get(command, {"runs": "runs"}), parameter.name: value}
    kept = {path: path.read_bytes() for path in inside.iterdir() if path.is_file()}
    before = state(inside.parent)
    done = rdbench(*typed(command, given))
    after = state(inside.parent)
    for path in sorted(after.keys() - before.keys(), reverse=True):
        path.unlink() if path.is_symlink() or not path.is_dir() else path.rmdir()
    for path, content in kept.items():  # as the next example needs it
        path.write_bytes(content)
    assert done.code in (0, 1, 2, 3), done.err
    if done.code == 2:
        forms = {value, repr(value), repr(value)[1:-1], str(Path(value))}
        forms |= {piece for piece in re.split(r"[:,=./]", value) if len(piece) > 2}  # a letter is in any message
        names = forms | {parameter.flag or parameter.name.upper()} | ({STUB} if command in STUBBED else set())
        assert any(squeezed(name) in squeezed(done.err) for name in names - {""}), done.err
    places = [given[name] for name in WRITTEN if name in given]
    places += [given["runs"]] if command == "evaluate" else [given["root"]] if command.endswith("prepare") else []
    allowed = [Path(os.path.realpath(inside / place)) for place in places]
    for path, _ in after.items() ^ before.items():
        assert any(place in (path, *path.parents) or path in place.parents for place in allowed), path


@settings(fuzz, max_examples=40)
@given(data=st.data())
def test_a_sweep_is_run_or_refused_with_its_file(rdbench: Command, inside: Path, data: st.DataObject) -> None:
    """Values and keys replaced, words written otherwise, bytes damaged."""
    kind = data.draw(st.sampled_from(["content", "words", "words", "bytes"]))
    content = SWEEP.encode()
    if kind == "content":
        content = yaml.safe_dump(mutate(yaml.safe_load(SWEEP), data), allow_unicode=True).encode()
    elif kind == "words":
        words = re.split(r"(\w+(?:\.\w+)?)", SWEEP)
        where = data.draw(st.integers(0, len(words) // 2 - 1))
        words[2 * where + 1] = data.draw(st.sampled_from((*NAMES, *NUMBERS, *YAML)))
        content = "".join(words).encode("utf-8", "surrogateescape")
    else:
        content = damaged(content, data)
    (inside / "odd.yaml").write_bytes(content)
    done = rdbench("sweep", "odd.yaml", "--out", "out/sweep")
    shutil.rmtree(inside / "out/sweep", ignore_errors=True)
    assert done.code in (0, 2), done.err
    assert ("odd.yaml" in done.err) == (done.code == 2), done.err
    assert not os.listdir(inside / "out")

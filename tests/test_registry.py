"""Method files are found, read and refused without being imported."""

from __future__ import annotations

import os
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest

from rdbench.errors import BrokenMethod, InputError
from rdbench.registry import find_methods, get_method, load_method, parse_options
from tests.command import Command

GOOD = '''"""A method for the test.

More about it.
"""

from dataclasses import dataclass
from typing import Literal

open("{marker}", "w").close()


@dataclass
class Good:
    samples: int = 3
    """How many samples."""
    where: Literal["here", "there"] = "here"
    """Which place."""
    rate: float = 0.5
    fast: bool = False

    def __post_init__(self):
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate must be in [0, 1), got {{self.rate}}")

    def fit(self, train, context): ...
    def predict(self, batch): ...
    def save(self, directory): ...
    def load(self, directory, context): ...
'''

BROKEN = {
    "syntax": ("def f(:\n", "syntax error in line 1"),
    "empty": ("", "one public class with `predict` is wanted, found none"),
    "incomplete": (
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    def predict(self, batch): ...\n",
        "class A lacks fit, save, load",
    ),
    "two": (
        "class A:\n    def predict(self, b): ...\nclass B:\n    def predict(self, b): ...\n",
        "found A, B",
    ),
    "undefaulted": (GOOD.replace("samples: int = 3", "samples: int"), "option samples of class Good has no default"),
    "computed": (GOOD.replace("int = 3", "int = 1 + len('ab')"), "default is no literal"),
    "typed": (GOOD.replace("samples: int = 3", "samples: list = 3"), "its type is list"),
    "plain": (GOOD.replace("@dataclass\n", ""), "class Good is no dataclass"),
    "binary": (b"\x00\xff", "null"),
    "defaulted": (GOOD.replace("rate: float = 0.5", "rate: float = None"), "its default None is no float"),
    "chosen": (GOOD.replace('] = "here"', '] = "nowhere"'), "its default 'nowhere' is no choice"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    methods = tmp_path / "mine"
    methods.mkdir()
    (methods / "good.py").write_text(GOOD.format(marker=tmp_path / "imported"))
    return methods


def test_a_method_is_read_but_not_imported(folder: Path) -> None:
    method = find_methods(folder)["good"]
    assert (method.problem, method.summary, method.class_name) == ("", "A method for the test.", "Good")
    assert [(o.name, o.type, o.default, o.help, o.choices) for o in method.options] == [
        ("samples", "int", 3, "How many samples.", ()),
        ("where", "choice", "here", "Which place.", ("here", "there")),
        ("rate", "float", 0.5, "", ()),
        ("fast", "bool", False, "", ()),
    ]
    assert not (folder.parent / "imported").exists()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_a_row_that_says_why(folder: Path, name: str) -> None:
    source, reason = BROKEN[name]
    path = folder / f"{name}.py"
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    methods = find_methods(folder)
    assert reason in methods[name].problem
    assert not methods["good"].problem
    with pytest.raises(BrokenMethod):
        load_method(methods[name], {})


def test_a_built_in_name_is_not_taken_over(folder: Path) -> None:
    (folder / "deterministic.py").write_text(GOOD.format(marker=folder.parent / "x"))
    methods = find_methods(folder)
    assert methods["deterministic"].origin == "built in"
    assert "is taken by" in methods[str(folder / "deterministic.py")].problem
    with pytest.raises(InputError, match=r"mine.deterministic\.py: the name 'deterministic' is taken by .*; rename"):
        get_method("deterministic", methods)
    assert get_method("tta", methods).origin == "built in"


@pytest.mark.parametrize("command", [("methods", "check"), ("methods", "show"), ("run", "--method")])
def test_a_taken_name_that_is_asked_for_is_refused(rdbench: Command, folder: Path, command: tuple[str, ...]) -> None:
    """And the built-in is not run in its place."""
    (folder / "deterministic.py").write_text(GOOD.format(marker=folder.parent / "x"))
    done = rdbench(*command, "deterministic", "--methods-dir", folder)
    assert done.code == 2
    assert "deterministic.py: the name 'deterministic' is taken by" in done.error()


def test_a_copy_of_a_method_takes_no_name(folder: Path) -> None:
    """Who works in a checkout beside an installed package has every file twice."""
    built_in = find_methods()["deterministic"]
    (folder / "deterministic.py").write_bytes(built_in.path.read_bytes())
    methods = find_methods(folder)
    assert get_method("deterministic", methods) == built_in
    assert str(folder / "deterministic.py") not in methods


def test_a_misspelt_name_gets_the_nearest(folder: Path) -> None:
    with pytest.raises(InputError, match="unknown method 'god'; did you mean good"):
        get_method("god", find_methods(folder))


def test_options_are_parsed_by_type_and_go_to_whom_they_fit(folder: Path) -> None:
    methods = find_methods(folder)
    names = ["good", "deterministic"]
    options = parse_options(names, ["samples=7", "good.where=there", "fast=true"], methods)
    assert options["good"] == [{"samples": 7, "where": "there", "rate": 0.5, "fast": True}]
    assert options["deterministic"] == [methods["deterministic"].defaults()]


def test_values_with_commas_make_every_combination(folder: Path) -> None:
    options = parse_options(["good"], ["samples=1,2,2", "where=here, there", "rate=0.1"], find_methods(folder))
    assert [(choice["samples"], choice["where"], choice["rate"]) for choice in options["good"]] == [
        (1, "here", 0.1),
        (1, "there", 0.1),
        (2, "here", 0.1),
        (2, "there", 0.1),
    ]
    with pytest.raises(InputError, match="'' is no int"):
        parse_options(["good"], ["samples=1,"], find_methods(folder))


def test_options_for_predicting_alone_are_read(folder: Path) -> None:
    source = GOOD.format(marker=folder.parent / "x")
    method_class = source.replace("    samples: int", '    predicting = ("samples",)\n    samples: int')
    (folder / "sampler.py").write_text(method_class)
    (folder / "misled.py").write_text(method_class.replace('("samples",)', '("sample",)'))
    methods = find_methods(folder)
    assert (methods["sampler"].problem, methods["sampler"].predicting) == ("", ("samples",))
    assert methods["good"].predicting == ()
    assert "must be a tuple of its options' names" in methods["misled"].problem


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("samples", "write it as key=value"),
        ("sample=3", "did you mean samples"),
        ("samples=many", "'many' is no int"),
        ("rate=nan", "'nan' is no finite number"),
        ("where=nowhere", "'nowhere' is not one of here, there"),
        ("fast=perhaps", "neither true nor false"),
        ("other.samples=3", "'other' is not among those to run"),
    ],
)
def test_a_bad_option_is_one_clear_line(folder: Path, pair: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_options(["good"], [pair], find_methods(folder))


def test_a_whole_number_is_a_float_where_one_is_wanted(folder: Path) -> None:
    (folder / "whole.py").write_text(
        GOOD.format(marker=folder.parent / "x").replace("rate: float = 0.5", "rate: float = 0")
    )
    methods = find_methods(folder)
    assert parse_options(["whole"], ["rate=0"], methods) == parse_options(["whole"], [], methods)


def test_a_class_that_raises_anything_else_is_broken(folder: Path) -> None:
    (folder / "odd.py").write_text(
        GOOD.format(marker=folder.parent / "x").replace("raise ValueError", "raise IndexError")
    )
    with pytest.raises(BrokenMethod, match="IndexError"):
        load_method(find_methods(folder)["odd"], {"rate": 2.0})


def test_a_method_may_refuse_a_value(folder: Path) -> None:
    methods = find_methods(folder)
    options = parse_options(["good"], ["rate=1.5"], methods)
    with pytest.raises(InputError, match=r"method good: rate must be in \[0, 1\), got 1.5"):
        load_method(methods["good"], options["good"][0])


def test_a_file_that_does_not_import_breaks_alone(folder: Path) -> None:
    (folder / "bad_import.py").write_text("import does_not_exist\n" + GOOD.format(marker=folder.parent / "x"))
    methods = find_methods(folder)
    assert not methods["bad_import"].problem
    with pytest.raises(BrokenMethod, match=r"does not import: ModuleNotFoundError"):
        load_method(methods["bad_import"], {})


def test_what_runs_is_what_was_hashed(folder: Path) -> None:
    """Neither what Python keeps in `__pycache__` of a file of the same size and time, nor a file changed since."""
    path = folder / "good.py"
    source = path.read_text() + "\nANSWER = 1\n"
    path.write_text(source)
    py_compile.compile(str(path), doraise=True)
    moment = path.stat()
    path.write_text(source.replace("ANSWER = 1", "ANSWER = 2"))
    os.utime(path, ns=(moment.st_atime_ns, moment.st_mtime_ns))
    method = find_methods(folder)["good"]
    assert sys.modules[type(load_method(method, {})).__module__].ANSWER == 2
    path.write_text(source.replace("ANSWER = 1", "ANSWER = 3"))
    now = find_methods(folder)["good"]
    path.write_text(source)
    with pytest.raises(BrokenMethod, match=r"good\.py was changed after it had been read"):
        load_method(now, {})


def test_methods_come_from_installed_packages_too(tmp_path: Path) -> None:
    package = tmp_path / "their_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "theirs.py").write_text(GOOD.format(marker=tmp_path / "imported"))
    info = tmp_path / "their_package-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[rdbench.methods]\ntheirs = their_package.theirs\n")
    code = "from rdbench.registry import find_methods; m = find_methods()['theirs']; print(m.problem, m.origin)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "package their-package"


def test_a_file_that_ends_the_program_when_it_is_imported_is_broken(tmp_path: Path) -> None:
    """Or `rdbench run` would end without a word, and with the exit code of success."""
    method = """import sys
from dataclasses import dataclass

@dataclass
class Quits:
    def fit(self, train, context): ...
    def predict(self, batch): ...
    def save(self, directory): ...
    def load(self, directory, context): ...

sys.exit(0)
"""
    (tmp_path / "quits.py").write_text(method)
    with pytest.raises(BrokenMethod, match="does not import: SystemExit: 0"):
        load_method(find_methods(tmp_path)["quits"], {})

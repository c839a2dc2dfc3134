"""What a method file says of itself: its name, options and help, read from its syntax tree without importing it."""

from __future__ import annotations

import ast
import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from rdbench.reading import read_bounded

FUNCTIONS = ("fit", "predict", "save", "load")
BUILT_IN, PACKAGE = "built in", "package "
MAX_SOURCE_BYTES = 1_000_000

OptionValue = bool | int | float | str


@dataclass(frozen=True)
class Option:
    """One option of a method: a field of its dataclass."""

    name: str
    type: str
    """ "int", "float", "bool", "str" or "choice"."""
    default: OptionValue
    help: str
    choices: tuple[OptionValue, ...] = ()

    def parse(self, text: str) -> OptionValue:
        """The value that `text` stands for. Raises ValueError in words."""
        if self.type == "choice":
            for choice in self.choices:
                if str(choice) == text:
                    return choice
            raise ValueError(f"{text!r} is not one of {', '.join(map(str, self.choices))}")
        if self.type == "bool":
            if text.lower() not in ("true", "false"):
                raise ValueError(f"{text!r} is neither true nor false")
            return text.lower() == "true"
        convert: type[int] | type[float] | type[str] = {"int": int, "float": float}.get(self.type, str)
        try:
            value = convert(text)
        except ValueError:
            raise ValueError(f"{text!r} is no {self.type}") from None
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{text!r} is no finite number")
        return value


@dataclass(frozen=True)
class MethodFile:
    """A method file as its syntax tree shows it; `problem` is empty or says why it cannot run."""

    name: str
    path: Path
    origin: str
    """Where it was found, in words."""
    sha256: str = ""
    summary: str = ""
    description: str = ""
    class_name: str = ""
    options: tuple[Option, ...] = ()
    predicting: tuple[str, ...] = ()
    """Options that matter to `predict` alone."""
    problem: str = ""

    @property
    def is_installed(self) -> bool:
        """Whether it is built in or a package's, so that it is found wherever a command is run."""
        return self.origin == BUILT_IN or self.origin.startswith(PACKAGE)

    def defaults(self) -> dict[str, OptionValue]:
        """The options' defaults by name."""
        return {option.name: option.default for option in self.options}


def read_method_file(path: Path, origin: str) -> MethodFile:
    """Read one method file's syntax tree; what is wrong with it is in `problem`, never raised."""
    try:
        return _parsed(path, origin, read_bounded(path, MAX_SOURCE_BYTES))
    except SyntaxError as error:
        problem = f"syntax error in line {error.lineno}: {error.msg}"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except (ValueError, RecursionError, MemoryError) as error:
        problem = str(error) or type(error).__name__
    return MethodFile(path.stem, path, origin, problem=problem)


@lru_cache(maxsize=256)
def _parsed(path: Path, origin: str, source: bytes) -> MethodFile:
    """What the source says. Kept: each line of a sweep asks for all methods, and parsing them takes 15 ms."""
    tree = ast.parse(source)
    node = _method_class(tree)
    description = ast.get_docstring(tree) or ""
    return MethodFile(
        name=path.stem,
        path=path,
        origin=origin,
        sha256=hashlib.sha256(source).hexdigest(),
        summary=description.split("\n")[0],
        description=description,
        class_name=node.name,
        options=(options := tuple(_options(node))),
        predicting=_predicting(node, options),
    )


def _method_class(tree: ast.Module) -> ast.ClassDef:
    """The one public class that has `predict`. Raises ValueError in words."""
    classes = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and "predict" in _functions(node)
    ]
    if len(classes) != 1:
        names = ", ".join(node.name for node in classes)
        raise ValueError(f"one public class with `predict` is wanted, found {names or 'none'}")
    node = classes[0]
    missing = [name for name in FUNCTIONS if name not in _functions(node)]
    if missing and not node.bases:
        raise ValueError(f"class {node.name} lacks {', '.join(missing)}")
    if not any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        raise ValueError(f"class {node.name} is no dataclass")
    return node


def _functions(node: ast.ClassDef) -> set[str]:
    return {item.name for item in node.body if isinstance(item, ast.FunctionDef)}


def _options(node: ast.ClassDef) -> Iterable[Option]:
    """The dataclass's fields; the string below a field is its help."""
    for item, following in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        name = item.target.id
        if item.value is None:
            raise ValueError(f"option {name} of class {node.name} has no default")
        try:
            default = ast.literal_eval(item.value)
        except ValueError:
            raise ValueError(f"option {name} of class {node.name}: its default is no literal") from None
        text = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            text = " ".join(str(following.value.value).split())
        kind, choices = _option_type(name, item.annotation)
        if kind == "float" and type(default) is int:
            default = float(default)
        fits = default in choices if kind == "choice" else type(default).__name__ == kind
        if not fits:
            raise ValueError(f"option {name} of class {node.name}: its default {default!r} is no {kind}")
        yield Option(name, kind, default, text, choices)


def _predicting(node: ast.ClassDef, options: Iterable[Option]) -> tuple[str, ...]:
    """The names in the class's `predicting`, if it has one."""
    for item in node.body:
        if isinstance(item, ast.Assign) and any(ast.unparse(target) == "predicting" for target in item.targets):
            names = ast.literal_eval(item.value)
            known = {option.name for option in options}
            if not isinstance(names, tuple) or not known.issuperset(names):
                raise ValueError(f"predicting of class {node.name} must be a tuple of its options' names, is {names!r}")
            return names
    return ()


def _option_type(name: str, annotation: ast.expr) -> tuple[str, tuple[OptionValue, ...]]:
    if isinstance(annotation, ast.Name) and annotation.id in ("int", "float", "bool", "str"):
        return annotation.id, ()
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value).endswith("Literal"):
        values = ast.literal_eval(annotation.slice)
        return "choice", values if isinstance(values, tuple) else (values,)
    raise ValueError(f"option {name}: its type is {ast.unparse(annotation)}, wanted int, float, bool, str or Literal")

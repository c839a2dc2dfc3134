"""Finds method files, and makes methods of them.

A method file is found in `methods/` of this package (or of the checkout), in `./methods`, in `--methods-dir`, and
through the entry-point group `rdbench.methods`. The file's name is the method's name. It is imported when it runs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import sys
from collections.abc import Iterable, Mapping
from importlib.machinery import PathFinder
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdbench.errors import BrokenMethod, InputError, unknown
from rdbench.method_file import (
    BUILT_IN,
    FUNCTIONS,
    MAX_SOURCE_BYTES,
    PACKAGE,
    MethodFile,
    OptionValue,
    read_method_file,
)
from rdbench.reading import read_bounded

if TYPE_CHECKING:
    from rdbench.protocol import Method

ENTRY_POINTS = "rdbench.methods"


def find_methods(methods_dir: Path | None = None) -> dict[str, MethodFile]:
    """Every method file by name, broken ones included; the first place that has a name keeps it.

    Another file of that name stands under its path, with the name as its problem; `get_method` refuses the name then.

    Raises InputError if `methods_dir` is given and is no directory.
    """
    if methods_dir is not None and not methods_dir.is_dir():
        raise InputError(f"--methods-dir {methods_dir}: no such directory")
    found: dict[str, MethodFile] = {}
    for path, origin in _candidates(methods_dir):
        name = path.stem
        if name not in found:
            found[name] = read_method_file(path, origin)
        elif not _is_same(path, found[name]):
            message = f"the name {name!r} is taken by {found[name].path}; rename this file"
            found[str(path)] = MethodFile(name, path, origin, problem=message)
    return found


def _is_same(path: Path, method: MethodFile) -> bool:
    """Whether it is the method's file or a copy of it, as in a checkout beside an installed package."""
    if path.resolve() == method.path.resolve():
        return True
    return method.sha256 != "" and read_method_file(path, "").sha256 == method.sha256


def _candidates(methods_dir: Path | None) -> Iterable[tuple[Path, str]]:
    package = Path(__file__).parent
    built_in = package / "methods" if (package / "methods").is_dir() else package.parent / "methods"
    folders = [(built_in, BUILT_IN), (Path("methods"), "./methods")]
    if methods_dir is not None:
        folders.append((methods_dir, str(methods_dir)))
    for folder, origin in folders:
        if folder.is_dir():
            for path in sorted(folder.glob("*.py")):
                if not path.stem.startswith("_"):
                    yield path, origin
    for entry in entry_points(group=ENTRY_POINTS):
        yield _module_path(entry.value), f"{PACKAGE}{entry.dist.name if entry.dist else entry.name}"


def _module_path(module: str) -> Path:
    """Where a dotted module lies, found without importing its parents."""
    search: list[str] | None = None
    spec = None
    for part in module.split(":")[0].split("."):
        spec = PathFinder.find_spec(part, search)
        if spec is None:
            break
        search = list(spec.submodule_search_locations or [])
    return Path(spec.origin) if spec and spec.origin else Path(*module.split(".")).with_suffix(".py")


def get_method(name: str, methods: Mapping[str, MethodFile]) -> MethodFile:
    """The method of that name, broken or not.

    Raises InputError that offers the nearest names, or says that two files have the name: either may be meant.
    """
    if name not in methods:
        raise unknown("method", name, (method.name for method in methods.values()))
    for key, other in methods.items():
        if other.name == name != key:
            raise InputError(f"{other.path}: {other.problem}")
    return methods[name]


def parse_options(
    names: Iterable[str], pairs: Iterable[str], methods: Mapping[str, MethodFile]
) -> dict[str, list[dict[str, OptionValue]]]:
    """Choices of options for each named method, defaults filled in, from `key=value` or `method.key=value` pairs.

    A plain key goes to every named method that has it. Values with commas between them (`p=0.1,0.3`) make one choice
    for each, and lists of several options make every combination. A later pair for the same option replaces an earlier.

    Raises InputError for what no method understands.
    """
    values: dict[str, dict[str, list[OptionValue]]] = {
        name: {key: [value] for key, value in methods[name].defaults().items()} for name in names
    }
    runnable = [name for name in values if not methods[name].problem]
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"option {pair!r}: write it as key=value")
        method, _, field = key.rpartition(".")
        if method and method not in values:
            raise InputError(f"option {pair!r}: the method {method!r} is not among those to run: {', '.join(values)}")
        takers = [
            (name, option)
            for name in ([method] if method else runnable)
            for option in methods[name].options
            if option.name == field
        ]
        if not takers:
            known = {option.name for name in runnable for option in methods[name].options}
            raise unknown(f"option of {method or ', '.join(runnable)}", field, known)
        for name, option in takers:
            try:
                texts = [text] if option.type == "str" else text.split(",")
                values[name][field] = list(dict.fromkeys(option.parse(each.strip()) for each in texts))
            except ValueError as error:
                raise InputError(f"option {field} of {name}: {error}") from None
    return {
        name: [dict(zip(choices, chosen, strict=True)) for chosen in itertools.product(*choices.values())]
        for name, choices in values.items()
    }


def load_method(method: MethodFile, options: Mapping[str, OptionValue]) -> Method:
    """Import the method file and make its method with these options.

    Raises BrokenMethod if the file cannot be used and InputError if the method refuses an option's value.
    """
    if method.problem:
        raise BrokenMethod(f"{method.path}: {method.problem}")
    module_name = f"rdbench_method_{method.name}_{method.sha256[:10]}"
    module = sys.modules.get(module_name)
    if module is None:
        spec = importlib.util.spec_from_file_location(module_name, method.path)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # dataclasses look their module up
        try:
            # Not by the spec's loader: what runs is to be what was hashed, not what lies in `__pycache__` or was
            # written meanwhile.
            exec(compile(_source(method), method.path, "exec"), module.__dict__)
        except BaseException as error:  # whatever a stranger's file raises, or that it would end the program
            sys.modules.pop(module_name, None)
            if isinstance(error, KeyboardInterrupt | BrokenMethod):
                raise
            raise BrokenMethod(f"{method.path} does not import: {type(error).__name__}: {error}") from error
    method_class: Any = getattr(module, method.class_name, None)
    missing = [name for name in FUNCTIONS if not callable(getattr(method_class, name, None))]
    if missing:
        raise BrokenMethod(f"{method.path}: class {method.class_name} lacks {', '.join(missing)}")
    try:
        instance: Method = method_class(**options)
    except ValueError as error:
        raise InputError(f"method {method.name}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever a stranger's class raises
        raise BrokenMethod(f"{method.path}: {type(error).__name__}: {error}") from error
    return instance


def _source(method: MethodFile) -> bytes:
    """The file as it was when its syntax tree was read. Raises BrokenMethod if it is another now."""
    try:
        source = read_bounded(method.path, MAX_SOURCE_BYTES)
    except OSError as error:
        raise BrokenMethod(f"{method.path} cannot be read: {error.strerror}") from error
    if hashlib.sha256(source).hexdigest() != method.sha256:
        raise BrokenMethod(f"{method.path} was changed after it had been read; run the same command again")
    return source

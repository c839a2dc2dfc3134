"""A sweep file: many runs in one YAML file, checked before anything starts. Imports no torch.

```yaml
defaults:                       # of every run below
  datasets: [mvtec_ad2]
  root: /data
  seeds: [0, 1, 2]
  shifts: [lighting:3, blur:3]
runs:
  - methods: [deterministic, tta]
  - methods: [mc_dropout]
    options: {p: [0.1, 0.2], mc_dropout.samples: 20}
    backbones: [resnet18, wide_resnet50_2]
```

The keys are the options of `rdbench run`. Lists of options make every combination, and so do datasets and backbones.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from os.path import expanduser  # pathlib's raises where there is no such user
from pathlib import Path
from typing import Any

import yaml

from rdbench.benchmark.plan import RunSettings, check_device, make_settings
from rdbench.errors import InputError, unknown
from rdbench.reading import read_bounded

MAX_BYTES = 1_000_000
MAX_DEPTH = 6

Scalar = str | int | float | bool

LISTS = ("methods", "datasets", "categories", "seeds", "shifts", "backbones")
TEXTS = ("root", "weights", "image_size", "map_size", "precision", "methods_dir")
NUMBERS: dict[str, type] = {
    "epochs": int, "batch_size": int, "alpha": float, "keep_models": bool, "gallery": bool, "cpus": int, "gpus": float,
}  # fmt: skip
KEYS = (*LISTS, *TEXTS, *NUMBERS, "options")
MAY_BE_EMPTY = ("categories", "shifts")
"""Lists that mean something without a value: every category, and no shift though the defaults have some."""


@dataclass(frozen=True)
class _Value:
    """The values of one key, and where they stand."""

    values: tuple[Scalar, ...]
    lines: tuple[int, ...]
    """Of each value."""
    line: int
    """Of the first."""

    def line_of(self, said: Collection[str]) -> int | None:
        """Where the first value stands that is among these words, a number written in whatever way."""
        return next((at for value, at in zip(self.values, self.lines, strict=True) if _names(value) & {*said}), None)


Entry = dict[str, _Value]
"""The keys of a run; an option `p` is under "options.p"."""


def read_sweep(
    path: Path, *, out: Path, device: str, keep_memory: bool = True, sharded: bool = False
) -> list[RunSettings]:
    """The runs of a sweep file; `sharded` as in :func:`make_settings`.

    Raises InputError that names the file and the line.
    """
    check_device(device)
    try:
        text = read_bounded(path, MAX_BYTES).decode()
    except OSError as error:
        raise InputError(f"cannot read the sweep {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is no text in UTF-8") from None
    return [
        settings
        for entry, line in _entries(path, text)
        for settings in _settings(path, entry, line, out, device, keep_memory, sharded)
    ]


def _settings(
    path: Path, entry: Entry, line: int, out: Path, device: str, keep_memory: bool, sharded: bool
) -> Iterator[RunSettings]:
    """One for each data set and backbone of a run."""
    # Of ~, which a shell makes the home folder of before a command sees it. What begins otherwise stays as it is.
    texts = {key: expanduser(str(each.values[0])) for key, each in entry.items() if key in TEXTS}
    numbers: dict[str, Any] = {key: each.values[0] for key, each in entry.items() if key in NUMBERS}
    lists = {key: tuple(map(str, entry[key].values)) if key in entry else () for key in LISTS}
    pairs = [
        f"{key.removeprefix('options.')}={','.join(map(str, each.values))}"
        for key, each in entry.items()
        if key.startswith("options.")
    ]
    place = partial(_place, path, entry, line)
    for dataset, backbone in itertools.product(lists["datasets"] or ("toy",), lists["backbones"] or (None,)):
        try:
            settings = make_settings(
                methods=lists["methods"],
                dataset=dataset,
                root=Path(texts["root"]) if "root" in texts and dataset != "toy" else None,
                categories=lists["categories"],
                options=pairs,
                seeds=[int(seed) for seed in lists["seeds"]],
                shifts=lists["shifts"],
                backbone=backbone,
                weights=texts.get("weights"),
                image_size=texts.get("image_size", "256"),
                map_size=texts.get("map_size", "native"),
                epochs=numbers.get("epochs"),
                batch_size=numbers.get("batch_size", 16),
                device=device,
                precision=texts.get("precision", "fp32"),
                alpha=float(numbers.get("alpha", 0.10)),
                out=out,
                methods_dir=Path(texts["methods_dir"]) if "methods_dir" in texts else None,
                keep_models=numbers.get("keep_models", False),
                gallery=numbers.get("gallery", True),
                keep_memory=keep_memory,
                sharded=sharded,
                cpus=numbers.get("cpus"),
                gpus=numbers.get("gpus"),
            )
        except InputError as error:
            raise InputError(f"{place(str(error))}: {error}") from None
        yield replace(settings, place=place)


def _place(path: Path, entry: Entry, line: int, message: str) -> str:
    """File and line of the value or key that the message names, else of where the run begins, which is `line`."""
    quoted = re.findall(r"'([^']+)'", message)
    words = set(re.findall(r"[\w-][\w.-]*\b", message))
    first = message.split()[0].removeprefix("--").replace("-", "_")

    def is_about(key: str) -> bool:
        if first == "method":  # that refuses a value of an option
            return key.startswith("options.") and words.issuperset(key.split(".")[1:])
        return key in (first, first + "s")

    for key, each in entry.items():
        if each.line_of(quoted) or key.rpartition(".")[2] in quoted:
            return f"{path}, line {each.line_of(quoted) or each.line}"
    found = (each.line_of(words) or each.line for key, each in entry.items() if is_about(key))
    return f"{path}, line {next(found, line)}"


def _names(value: Scalar) -> set[str]:
    """What a message may call the value: as it is written, the kind of a shift, a number in its shortest way."""
    text = str(value)
    names = {text, text.partition(":")[0]}
    with suppress(ValueError):
        names.add(f"{float(text):g}")
    return names


def _entries(path: Path, text: str) -> Iterator[tuple[Entry, int]]:
    """Each run with the defaults filled in, and the line where it begins."""
    try:
        _refuse_traps(path, text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{where}: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"{path}: a list `runs:` is wanted, and `defaults:` if there are any")
    top = _pairs(path, root, ("defaults", "runs"))
    runs = top.get("runs")
    if not isinstance(runs, yaml.SequenceNode) or not runs.value:
        raise InputError(f"{path}, line {_line(runs or root)}: a list `runs:` is wanted, each with its `methods:`")
    defaults = _entry(path, top["defaults"]) if "defaults" in top else {}
    for node in runs.value:
        entry = defaults | _entry(path, node)
        if "methods" not in entry:
            raise InputError(f"{path}, line {_line(node)}: this run has no `methods:`")
        yield entry, _line(node)


def _refuse_traps(path: Path, text: str) -> None:
    """Refuse what makes a small file large or slow to read, aliases and deep nesting, and tags, which mean nothing."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise InputError(f"{path}, line {event.start_mark.line + 1}: nested too deeply")
        if isinstance(event, yaml.AliasEvent):
            where = event.start_mark.line + 1
            raise InputError(f"{path}, line {where}: aliases (*name) are not read; use `defaults:` for what runs share")
        if getattr(event, "tag", None) is not None:
            raise InputError(f"{path}, line {event.start_mark.line + 1}: tags ({event.tag}) are not read; leave it out")


def _entry(path: Path, node: yaml.Node) -> Entry:
    entry: Entry = {}
    for key, value in _pairs(path, node, KEYS).items():
        if key == "options":
            options = _pairs(path, value, None)
            entry |= {f"options.{name}": _values(path, name, each, None) for name, each in options.items()}
        else:
            kind = NUMBERS.get(key, int if key == "seeds" else None)
            entry[key] = _values(path, key, value, kind)
            if key not in LISTS and len(entry[key].values) != 1:
                raise InputError(f"{path}, line {_line(value)}: {key} takes one value, not a list")
    return entry


def _values(path: Path, key: str, node: yaml.Node, kind: type | None) -> _Value:
    """One value or a list of them, each a number, a truth value or a text."""
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not nodes and key not in MAY_BE_EMPTY:
        raise InputError(f"{path}, line {_line(node)}: {key} has no value; leave it out, or give it one")
    values = []
    for each in nodes:
        value = _scalar(each, kind)
        if kind is float and type(value) is int:
            value = float(value)
        if value is None or (kind is not None and type(value) is not kind):
            wanted = {int: "a whole number", float: "a number", bool: "true or false"}.get(kind or str, "a plain value")
            raise InputError(f"{path}, line {_line(each)}: {key} wants {wanted}")
        values.append(value)
    return _Value(tuple(values), tuple(map(_line, nodes)), _line(node))


def _scalar(node: yaml.Node, kind: type | None) -> Scalar | None:
    """The value, None if it is none of ours. Texts and options are as written: 007, 1e-3, on and 12:30 stay so."""
    tag = node.tag.rpartition(":")[2]
    if not isinstance(node, yaml.ScalarNode) or tag == "null":
        return None
    text: str = node.value
    try:
        match tag if kind is not None else "str":
            case "int":
                return int(text)
            case "float":
                return float(text)
            case "bool":
                return text.lower() in ("true", "yes", "on")
    except ValueError:
        return text
    return text


def _pairs(path: Path, node: yaml.Node, known: tuple[str, ...] | None) -> Mapping[str, yaml.Node]:
    """Keys and values of a mapping. Refuses a key that is not known or is there twice."""
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{path}, line {_line(node)}: keys with values (`key: value`) are wanted here")
    pairs: dict[str, yaml.Node] = {}
    for key, value in node.value:
        name = str(key.value)
        if known is not None and name not in known:
            raise InputError(f"{path}, line {_line(key)}: {unknown('key', name, known)}")
        if name in pairs:
            raise InputError(f"{path}, line {_line(key)}: {name} is there twice")
        pairs[name] = value
    return pairs


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1

"""What is to be run: dataset x category x method x options x seed -> cells, in groups that share their work.

Imports no torch: everything a user can get wrong in words is found here, before anything heavy starts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rdbench.datasets import DATASETS, list_categories
from rdbench.errors import InputError, unknown
from rdbench.method_file import MethodFile, OptionValue
from rdbench.rd.backbones import get_backbone
from rdbench.registry import find_methods, get_method, parse_options
from rdbench.shifts import Condition, leaves_alone, parse_shift

RELEASED_EPOCHS = 200
TOY_EPOCHS = 20
MAX_SIDE = 8192


@dataclass(frozen=True, order=True)
class Share:
    """What a group asks for of a Ray node; None is what the command's own options say."""

    cpus: int | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        """Raises InputError for what no node can have."""
        if self.cpus is not None and self.cpus < 1:
            raise InputError(f"--cpus {self.cpus}: at least 1 is wanted")
        if self.gpus is not None and not (0 <= self.gpus <= 1 or self.gpus % 1 == 0 < self.gpus):
            raise InputError(f"--gpus {self.gpus}: a fraction or a whole number is wanted")

    def __str__(self) -> str:
        asked = [f"--cpus {self.cpus}"] if self.cpus is not None else []
        asked += [f"--gpus {self.gpus:g}"] if self.gpus is not None else []
        return " ".join(asked) or "no --cpus or --gpus of its own"


@dataclass(frozen=True)
class RunSettings:
    """What `rdbench run` was asked for, checked. `methods` and `options` are keyed by method name."""

    dataset: str
    root: Path | None
    categories: tuple[str, ...]
    methods: dict[str, MethodFile]
    options: dict[str, list[dict[str, OptionValue]]]
    """The choices of options that each method is run with."""
    seeds: tuple[int, ...]
    shifts: tuple[Condition, ...]
    backbone: str
    weights: Path | str | None
    image_size: tuple[int, int]
    map_size: tuple[int, int] | None
    epochs: int
    batch_size: int
    device: str
    precision: str
    alpha: float
    out: Path
    keep_models: bool
    gallery: bool
    keep_memory: bool = True
    share: Share = Share()
    place: Callable[[str], str] | None = field(default=None, repr=False, compare=False)
    """File and line of what a message is about, if this stands in a file."""

    def refusal(self, message: str) -> InputError:
        """The error that says this, and where what it is about was asked for."""
        return InputError(f"{self.place(message)}: {message}" if self.place else message)

    @property
    def groups(self) -> list[tuple[str, int]]:
        """(category, seed) of every group: all methods of a group share images, features and student."""
        return [(category, seed) for seed in self.seeds for category in self.categories]

    @property
    def caution(self) -> str:
        """What can be run and is hardly meant: shifts that do nothing at this image size, in words; mostly nothing."""
        idle = [str(shift) for shift in self.shifts if leaves_alone(shift, self.image_size)]
        if not idle:
            return ""
        leave = "leaves" if len(idle) == 1 else "leave"
        height, width = self.image_size
        return (
            f"{', '.join(idle)} {leave} images of {width} x {height} pixels as they are: figures under "
            f"{'it' if len(idle) == 1 else 'them'} will be those of clean images (docs/shifts.md)"
        )


def make_settings(
    *,
    methods: Sequence[str],
    dataset: str,
    root: Path | None,
    categories: Sequence[str],
    options: Sequence[str],
    seeds: Sequence[int],
    shifts: Sequence[str],
    backbone: str | None,
    weights: str | None,
    image_size: str,
    map_size: str,
    epochs: int | None,
    batch_size: int,
    device: str,
    precision: str,
    alpha: float,
    out: Path,
    methods_dir: Path | None,
    keep_models: bool,
    gallery: bool = True,
    keep_memory: bool = True,
    sharded: bool = False,
    cpus: int | None = None,
    gpus: float | None = None,
) -> RunSettings:
    """Check what the command line was given. Raises InputError at the first thing that cannot be used.

    `sharded`: several machines plan this, and are to plan the same, whatever each of them has on its disk.
    """
    check_device(device)
    known = find_methods(methods_dir)
    names = list(dict.fromkeys(name.strip() for group in methods for name in group.split(",") if name.strip()))
    if not names:
        raise InputError("--method names none; `rdbench methods` lists them")
    chosen = {name: get_method(name, known) for name in names}
    on_toy = dataset == "toy"
    if on_toy and root is not None:
        raise InputError(f"--root {root}: toy is drawn and reads no files; name the data set there with --dataset")
    backbone_name = backbone or ("embedded" if on_toy else "wide_resnet50_2")
    get_backbone(backbone_name)
    chosen_categories = _categories(dataset, root, categories, sharded)
    checks = [
        (precision in ("auto", "fp32", "bf16"), f"--precision {precision}: auto, fp32 or bf16"),
        (epochs is None or 1 <= epochs <= 1_000_000, f"--epochs {epochs}: from 1 to 1,000,000"),
        (1 <= batch_size <= 4096, f"--batch-size {batch_size}: from 1 to 4,096"),
        (0 < alpha < 1, f"--alpha {alpha}: between 0 and 1"),
        (all(seed >= 0 for seed in seeds), f"--seed {min(seeds, default=0)}: not negative"),
        (all(seed < 2**62 for seed in seeds), f"--seed {max(seeds, default=0)}: less than 2**62"),
    ]
    for holds, message in checks:
        if not holds:
            raise InputError(message + " is wanted")
    return RunSettings(
        dataset=dataset,
        root=root,
        categories=chosen_categories,
        methods=chosen,
        options=parse_options(names, options, chosen),
        seeds=tuple(dict.fromkeys(seeds)) or (0,),
        shifts=tuple(sorted({condition for text in shifts for condition in parse_shift(text)}, key=str)),
        backbone=backbone_name,
        weights=_weights(weights),
        image_size=parse_size("--image-size", image_size, multiple=32),
        map_size=None if map_size == "native" else parse_size("--map-size", map_size, multiple=1),
        epochs=epochs or (TOY_EPOCHS if on_toy else RELEASED_EPOCHS),
        batch_size=batch_size,
        device=device,
        precision=precision,
        alpha=alpha,
        out=out,
        keep_models=keep_models,
        gallery=gallery,
        keep_memory=keep_memory,
        share=Share(cpus, gpus),
    )


def check_device(device: str) -> None:
    """Raises InputError if there is no such kind of device."""
    if device not in ("auto", "cpu", "cuda") and not device.startswith("cuda:"):
        raise InputError(f"--device {device}: auto, cpu, cuda or cuda:N is wanted")


def _categories(dataset: str, root: Path | None, named: Sequence[str], sharded: bool) -> tuple[str, ...]:
    """Those named, else those found here; for shards, never those found: else the official ones, which must be here."""
    present = list_categories(dataset, root)
    official = DATASETS[dataset].categories
    if sharded and not named and not official:
        raise InputError(
            f"categories of {dataset} are to be named for --shard, the same on every machine: each would plan what it "
            f"finds, this one {', '.join(present)}"
        )
    wanted = tuple(dict.fromkeys(named)) or (official if sharded else tuple(present))
    missing = [category for category in wanted if category not in present]
    for category in missing:
        if not sharded or category not in official:
            raise unknown(f"category of {dataset}", category, present)
    if missing:
        raise InputError(
            f"categories of {dataset} that are not on this machine: {', '.join(missing)}; every shard plans the same, "
            f"so put them there, or name the ones to run, the same on every machine (here: {', '.join(present)})"
        )
    return wanted


def _weights(weights: str | None) -> Path | str | None:
    if weights is None or weights == "random":
        return weights
    path = Path(weights)
    if not path.is_file():
        raise InputError(f"--weights {path}: no such file")
    return path


def parse_size(flag: str, text: str, multiple: int) -> tuple[int, int]:
    """(height, width) from "256" or "320x256" (width x height); RD itself needs multiples of 32."""
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if match is None:
        raise InputError(f"{flag} {text}: write one number, or WIDTHxHEIGHT")
    width = int(match[1])
    height = int(match[2] or width)
    for side in (height, width):
        if side % multiple or not 32 <= side <= MAX_SIDE:
            of = f"a multiple of {multiple} " if multiple > 1 else ""
            raise InputError(f"{flag} {text}: each side must be {of}from 32 to {MAX_SIDE}")
    return height, width

"""`rdbench bench`: how fast this machine is."""

from __future__ import annotations

from typing import Annotated

import typer
from rich import box
from rich.table import Table

from rdbench.cli.common import Precision, stdout
from rdbench.errors import InputError
from rdbench.words import count

NORMAL_IMAGES, EPOCHS = 240, 200


def bench(
    backbone: Annotated[str, typer.Option(help="As in `rdbench run`; its weights are drawn.")] = "resnet18",
    image_size: Annotated[str, typer.Option(help="Pixels: one number, or WIDTHxHEIGHT.")] = "256",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step.")] = 16,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Precision = "fp32",
    rounds: Annotated[int, typer.Option(min=1, help="How often each part is timed, in turns.")] = 5,
) -> None:
    """Say how fast this machine runs Reverse Distillation, beside what its convolutions allow."""
    from rdbench.benchmark.plan import parse_size
    from rdbench.rd.backbones import get_backbone

    get_backbone(backbone)
    size = parse_size("--image-size", image_size, multiple=32)
    if precision not in ("auto", "fp32", "bf16"):
        raise InputError(f"--precision {precision}: auto, fp32 or bf16 is wanted")
    import torch

    from rdbench.benchmark.device import choose_device
    from rdbench.benchmark.speed import LIMITS, TRAINING, measure_machine
    from rdbench.rd.precision import resolve_precision
    from rdbench.rd.runtime import keep_freed_memory

    keep_freed_memory()
    at = choose_device(device)
    kind = resolve_precision(precision, at)
    found = measure_machine(backbone, size, batch_size, kind, at, rounds)
    threads = f", {torch.get_num_threads()} threads" if at.type == "cpu" else ""
    table = Table(
        title=f"{backbone}, {size[1]} x {size[0]} px, batches of {batch_size}, {kind} on {at}{threads}",
        title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False,
        caption=f"Medians of {count(rounds, 'round')}. Limit: a plain {LIMITS[at.type]}.",
        caption_justify="left", caption_style="dim",
    )  # fmt: skip
    for name in ("Part", "GFLOP per image", "ms per image", "GFLOP/s", "of the limit"):
        table.add_column(name, justify="left" if name == "Part" else "right")
    for speed in found:
        figures = (
            f"{speed.gflop:.3g}",
            f"{speed.ms:.3g}",
            f"{speed.gflop_per_second:,.0f}",
            f"{speed.limit_share:.0%}",
        )
        table.add_row(speed.part, *figures)
    stdout.print(table)
    [step] = [speed for speed in found if speed.part == TRAINING]
    minutes = step.ms * NORMAL_IMAGES * EPOCHS / 60_000
    stdout.print(f"One training, {NORMAL_IMAGES} images and {EPOCHS} epochs: about {minutes:,.1f} minutes.")

"""A training step of Reverse Distillation beside anomalib 2.7's, in turns in one process.

    python tests/speed/training.py --backbone resnet18 --backbone wide_resnet50_2    # needs anomalib in the environment

Both on drawn images of 256 px in batches of 16, untrained weights, so nothing is downloaded. anomalib's step is what
its training loop does: encoder, bottleneck, decoder, loss, backward, Adam, in float32. rdbench's is what a run does:
the teacher's features are there (computed once for all epochs), then the same in bf16 where the machine has it, or in
the precision asked for. GFLOP/s and the bottlenecks' parameters stand beside times because the networks differ:
anomalib's WideResNet50-2 bottleneck is smaller than RD4AD's.
"""

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import nn

from rdbench.benchmark.device import choose_device
from rdbench.benchmark.speed import LIMIT, LIMITS, STEPS, TRAINING, SameBatch, interleaved, measured_parts
from rdbench.rd.backbones import get_backbone
from rdbench.rd.precision import resolve_precision
from rdbench.rd.runtime import keep_freed_memory
from rdbench.rd.student import build_student
from rdbench.rd.training import SIDE_BY_SIDE, TrainingSettings, train_students, trained_at_once

GOALS = {"resnet18": 2.0, "wide_resnet50_2": 3.0}
BATCH, SIZE = 16, (256, 256)


def main() -> None:
    """Print ms per image, GFLOP/s, the ratio, and the share of what a plain convolution reaches."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", action="append", dest="backbones", choices=GOALS, help="repeatable")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of rdbench alone")
    parser.add_argument("--keep-memory", action="store_true", help="Tune the allocator for anomalib's steps too.")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    precision = resolve_precision(arguments.precision, device)
    for backbone in arguments.backbones or ["resnet18"]:
        ours, flop = measured_parts(backbone, SIZE, BATCH, precision, device)
        calls = {name: ours[name] for name in (LIMIT, TRAINING)}
        theirs, their_flop, their_parameters = anomalib_step(backbone, device)
        parameters = count_parameters(build_student(get_backbone(backbone), 0).bottleneck)
        if arguments.keep_memory:
            keep_freed_memory()
            seconds = interleaved(calls | {"anomalib": theirs}, device, arguments.rounds)
        else:  # glibc cannot be told to give memory back again: anomalib goes first
            seconds = interleaved({"anomalib": theirs}, device, arguments.rounds)
            keep_freed_memory()
            seconds |= interleaved(calls, device, arguments.rounds)
        step = median(seconds[TRAINING]) / STEPS[device.type] / BATCH
        peer = median(seconds["anomalib"]) / BATCH
        limit = flop[LIMIT] * BATCH / median(seconds[LIMIT])
        print(f"{backbone}, {precision}, {device}, {torch.get_num_threads()} threads, medians of {arguments.rounds}")
        print(
            f"  anomalib  {1000 * peer:7.1f} ms per image  {their_flop / peer / 1e9:6.0f} GFLOP/s  {their_parameters}"
        )
        print(f"  rdbench   {1000 * step:7.1f} ms per image  {flop[TRAINING] / step / 1e9:6.0f} GFLOP/s  {parameters}")
        print(f"  {peer / step:.2f} times faster (goal {GOALS.get(backbone, 1)})")
        print(f"  {flop[TRAINING] / step / limit:.0%} of {limit / 1e9:.0f} GFLOP/s, a {LIMITS[device.type]}")
        if trained_at_once(device, precision) > 1:
            several = members_step(backbone, precision, device, arguments.rounds)
            print(f"  {SIDE_BY_SIDE} members beside each other: {1000 * several:.2f} ms per image of each")


def members_step(backbone: str, precision: str, device: torch.device, rounds: int) -> float:
    """Seconds that a step of each of an ensemble's members takes per image, of `SIDE_BY_SIDE` trained together."""
    found, half = get_backbone(backbone), torch.bfloat16 if precision == "bf16" else torch.float32
    features = tuple(
        torch.rand(BATCH, channels, SIZE[0] // stride, SIZE[1] // stride, device=device, dtype=half)
        .contiguous(memory_format=torch.channels_last)
        for channels, stride in zip(found.channels, (4, 8, 16), strict=True)
    )  # fmt: skip
    batch = SameBatch(torch.empty(BATCH, 3, *SIZE, device=device), features, STEPS[device.type])
    students = [build_student(found, seed) for seed in range(SIDE_BY_SIDE)]
    settings = TrainingSettings(epochs=1, batch_size=BATCH, precision=precision)
    train = partial(train_students, students, batch, settings, range(SIDE_BY_SIDE), device)
    (seconds,) = interleaved({"members": train}, device, rounds).values()
    return median(seconds) / STEPS[device.type] / SIDE_BY_SIDE / BATCH


def anomalib_step(backbone: str, device: torch.device) -> tuple[Callable[[], object], float, str]:
    """A training step of anomalib's model as its Lightning module configures it, its FLOP per image, its bottleneck."""
    from anomalib.models.image.reverse_distillation.anomaly_map import AnomalyMapGenerationMode
    from anomalib.models.image.reverse_distillation.loss import ReverseDistillationLoss
    from anomalib.models.image.reverse_distillation.torch_model import ReverseDistillationModel

    from rdbench.benchmark.cost import count_flop

    layers = ["layer1", "layer2", "layer3"]
    model = ReverseDistillationModel(backbone, SIZE, layers, AnomalyMapGenerationMode.ADD, pre_trained=False)
    model = model.to(device).train()
    loss = ReverseDistillationLoss()
    parameters = [*model.decoder.parameters(), *model.bottleneck.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.005, betas=(0.5, 0.99))
    images = torch.randn(BATCH, 3, *SIZE, device=device)

    def step() -> None:
        optimizer.zero_grad()
        loss(*model(images)).backward()
        optimizer.step()

    return step, count_flop(step) / BATCH, count_parameters(model.bottleneck)


def count_parameters(bottleneck: nn.Module) -> str:
    """In words."""
    return f"bottleneck of {sum(p.numel() for p in bottleneck.parameters()) / 1e6:.1f} M parameters"


if __name__ == "__main__":
    main()

"""The recipe of the embedded teacher: distil ImageNet's ResNet18 on drawn images alone.

    python -m rdbench.rd.distill --weights resnet18.pth --out embedded.safetensors --minutes 100

It starts where :mod:`rdbench.rd.layerwise` ends, from layers that are fitted one by one.

Reverse Distillation compares features by their cosine, so what has to survive is the angle between the features of
different places. Each scale of the small network is asked for two things: that a linear map of its features gives
back the teacher's (the map is thrown away), and that the cosines between places equal the teacher's. Both errors are
divided by the variance within the image, so that a faint texture counts as much as a bold one; 1 is what a constant
would reach.

A checkpoint beside the output lets the same command go on where it was stopped.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, cast

import safetensors.torch
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from rdbench.errors import InputError
from rdbench.rd.backbones import IMAGENET_MEAN, IMAGENET_STD
from rdbench.rd.embedded import EmbeddedNet
from rdbench.rd.layerwise import fit_layers, linear_map
from rdbench.rd.precision import autocast, resolve_precision
from rdbench.rd.runtime import keep_freed_memory
from rdbench.rd.teacher import Teacher, load_teacher
from rdbench.rd.textures import GROUP, draw

TEACHER_CHANNELS, STUDENT_CHANNELS = (64, 128, 256), (32, 64, 128)
PLACES = 96
"""Places per image whose cosines are compared, with each other and with those of one other image."""


class Drawings(IterableDataset[Tensor]):
    """Batches of drawn images without end. The one for each step depends on the seed and the step alone."""

    def __init__(self, batch_size: int, size: int, seed: int, step: int, device: str) -> None:
        self.batch_size, self.size, self.seed, self.step, self.device = batch_size, size, seed, step, device

    def __iter__(self) -> Iterator[Tensor]:
        worker = get_worker_info()
        first, stride, device = (worker.id, worker.num_workers, "cpu") if worker else (0, 1, self.device)
        for step in itertools.count(self.step + first, stride):
            generator = torch.Generator(device).manual_seed(self.seed * 2**32 + step)
            yield draw(self.batch_size, self.size, generator)


def main(
    weights: Annotated[Path, typer.Option(help="ImageNet's ResNet18, torchvision's state dict.")],
    out: Annotated[Path, typer.Option(help="Where the trained weights go (safetensors, float16).")],
    minutes: Annotated[float, typer.Option(help="Train for so long; ignored with --steps.")] = 100,
    steps: Annotated[int, typer.Option(help="Train for so many steps.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Images per step, in fours.")] = 32,
    size: Annotated[int, typer.Option(help="Pixels of a drawn image's side.")] = 192,
    start_images: Annotated[int, typer.Option(help="Drawn images on which each layer is fitted at the start.")] = 512,
    learning_rate: float = 1e-3,
    save_every: Annotated[float, typer.Option(help="Minutes between checkpoints.")] = 4,
    echo: Annotated[
        int, typer.Option(help="Steps per drawn batch: the others take one of the last sixteen again.")
    ] = 1,
    workers: Annotated[int, typer.Option(help="Processes that draw, on the CPU; 0 draws on the device itself.")] = 1,
    seed: int = 0,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
) -> None:
    """Distil ImageNet's ResNet18 into the embedded teacher."""
    if not weights.is_file():
        raise InputError(f"{weights} is no file; --weights takes torchvision's state dict of ResNet18")
    if batch_size < 2 * GROUP or batch_size % GROUP:
        raise InputError(f"--batch-size {batch_size} must be a multiple of {GROUP}, at least {2 * GROUP}")
    if size < 64 or echo < 1:
        raise InputError(f"--size {size} must be at least 64 and --echo {echo} at least 1")
    if not out.parent.is_dir():
        raise InputError(f"{out.parent} is no folder; --out takes a file in one that is there")
    keep_freed_memory()
    precision = resolve_precision("auto", torch.device(device))
    torch.manual_seed(seed)
    teacher = load_teacher("resnet18", weights, torch.device(device))
    network = EmbeddedNet().to(device)
    readouts = nn.ModuleList(
        nn.Conv2d(k, c, 1, bias=False) for k, c in zip(STUDENT_CHANNELS, TEACHER_CHANNELS, strict=True)
    ).to(device)
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    checkpoint = out.with_suffix(".checkpoint")
    if not checkpoint.exists():
        beginning = Drawings(batch_size, size, seed + 1, 0, device)
        images = torch.cat([*itertools.islice(beginning, -(-start_images // batch_size))])
        fit_from(teacher, network, readouts, (images.to(device) - mean) / std)
    average = AveragedModel(
        network,
        multi_avg_fn=get_ema_multi_avg_fn(0.99),  # type: ignore[no-untyped-call]
        use_buffers=True,
    )
    optimiser = torch.optim.AdamW([*network.parameters(), *readouts.parameters()], weight_decay=0.02)

    parts: dict[str, Any] = {"network": network, "readouts": readouts, "average": average, "optimiser": optimiser}
    step, before = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=device)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        step, before = saved["step"], saved["seconds"]
    begun, start, last_save = step, time.monotonic(), time.monotonic()

    def elapsed() -> float:
        return before + time.monotonic() - start

    def save() -> None:
        state = {name: part.state_dict() for name, part in parts.items()}
        state |= {"step": step, "seconds": elapsed()}
        torch.save(state, checkpoint.with_suffix(".part"))
        checkpoint.with_suffix(".part").replace(checkpoint)
        export(average.module, out)

    network.train()
    errors = torch.zeros(len(STUDENT_CHANNELS), 2, device=device)
    drawings = iter(DataLoader(Drawings(batch_size, size, seed, step, device), batch_size=None, num_workers=workers))
    recent: deque[tuple[Tensor, tuple[Tensor, ...]]] = deque(maxlen=16)
    while (progress := step / steps if steps else elapsed() / (60 * minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * min(1, (step + 1) / 50) * (1 - progress)
        if fresh := not recent or step % echo == 0:
            images = ((next(drawings).to(device) - mean) / std).contiguous(memory_format=torch.channels_last)
            with autocast(images.device, precision):
                recent.append((images, teacher(images)))
        images, wanted = recent[-1] if fresh else recent[int(torch.randint(len(recent), ()))]
        with autocast(images.device, precision):
            features = network(images)
            rebuilt = [readout(feature) for readout, feature in zip(readouts, features, strict=True)]
        scales = zip(features, rebuilt, wanted, strict=True)
        error = torch.stack([scale_errors(f.float(), r.float(), w.float()) for f, r, w in scales])
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(error.sum())
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        average.update_parameters(network)
        errors = errors.lerp(error.detach(), max(0.01, 1 / (step - begun + 1)))
        step += 1
        if step % 25 == 0:
            shown = "  ".join(f"{rebuild:.3f} {cosine:.3f}" for rebuild, cosine in errors.tolist())
            if not errors.isfinite().all():
                raise InputError(
                    f"the error is not finite at step {step}; try a smaller --learning-rate than {learning_rate}"
                )
            print(f"step {step}  {elapsed() / 60:.1f} min  error per scale (features, cosines): {shown}", flush=True)
        if time.monotonic() - last_save > 60 * save_every:
            save()
            last_save = time.monotonic()
    save()


@torch.no_grad()
def fit_from(teacher: Teacher, network: EmbeddedNet, readouts: nn.ModuleList, images: Tensor) -> None:
    """Set the weights that training starts from, on normalised images (N, 3, H, W)."""
    fit_layers(network.eval(), teacher.network, images)
    some = images[:128]
    for readout, features, wanted in zip(cast("Any", readouts), network(some), teacher(some), strict=True):
        readout.weight.copy_(linear_map(features, wanted))


def scale_errors(features: Tensor, rebuilt: Tensor, wanted: Tensor) -> Tensor:
    """What one scale gets wrong, two shares of variance: of the features, and of the cosines between places.

    `features` (B, k, h, w) are the small network's, `rebuilt` and `wanted` (B, C, h, w) their linear image and the
    teacher's. An image nearly without structure is held against a tenth of the batch's mean variance.
    """
    variance = wanted.var(dim=(2, 3)).sum(1)
    error = (rebuilt - wanted).square().mean(dim=(2, 3)).sum(1)
    rebuild = (error / (variance + 0.1 * variance.mean())).mean()

    count = features.shape[2] * features.shape[3]
    places = torch.randperm(count, device=features.device)[:PLACES]
    cosines = []
    for tensor in (features, wanted):
        directions = F.normalize(tensor.flatten(2)[:, :, places], dim=1)
        pairs = torch.cat([directions, directions.roll(1, 0)], dim=2)
        cosines.append(pairs.mT @ pairs)
    spread = cosines[1].var(dim=(1, 2))
    error = (cosines[0] - cosines[1]).square().mean(dim=(1, 2))
    return torch.stack([rebuild, (error / (spread + 0.1 * spread.mean())).mean()])


def export(network: nn.Module, path: Path) -> None:
    """Write the weights as float16 safetensors, in one move."""
    state = {
        name: (value.half() if value.is_floating_point() else value).cpu().contiguous()
        for name, value in network.state_dict().items()
    }
    path.with_suffix(".part").write_bytes(safetensors.torch.save(state))
    path.with_suffix(".part").replace(path)


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

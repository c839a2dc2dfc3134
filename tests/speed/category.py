"""The wall time of one category, as a user starts it: `rdbench run` in a process of its own.

    python tests/speed/category.py --backbone wide_resnet50_2                     # 240 images, 200 epochs, 256 px
    python tests/speed/category.py --backbone embedded --epochs 2 --images 40     # to try it

In bf16 where the machine has it. Drawn images in files, untrained teacher weights: what is timed does not depend on
them. The training's GFLOP/s count three times bottleneck and decoder per image and step, and stand beside the limit
that `rdbench bench` measures.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from rdbench.benchmark.device import choose_device
from rdbench.benchmark.speed import LIMIT, LIMITS, TRAINING, interleaved, measured_parts
from rdbench.benchmark.store import open_store
from rdbench.rd.precision import resolve_precision


def main() -> None:
    """Print the seconds of the whole command, of training, of inference per image, and the share of the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="wide_resnet50_2")
    parser.add_argument("--images", type=int, default=240, help="to train on")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--methods", default="deterministic")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "data", Path(folder) / "runs"
        write(root, arguments.images, arguments.size)
        command = [sys.executable, "-m", "rdbench.cli", "run", "--dataset=mvtec_ad2", "--weights=random"]
        command += ["--precision=auto"]
        command += [f"--{name}={getattr(arguments, name)}" for name in ("backbone", "epochs", "device")]
        command += [f"--root={root}", f"--image-size={arguments.size}", f"--method={arguments.methods}", f"--out={out}"]
        start = time.perf_counter()
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        wall = time.perf_counter() - start
        if done.returncode:
            sys.exit(done.stderr)
        results = [result for _, result in open_store(out, create=False).results()]
    device = choose_device(arguments.device)
    precision = resolve_precision("auto", device)
    parts, flop = measured_parts(arguments.backbone, (arguments.size, arguments.size), 16, precision, device)
    limit = flop[LIMIT] * 16 / median(interleaved({LIMIT: parts[LIMIT]}, device, 5)[LIMIT])
    print(f"{arguments.backbone}, {precision}, {device}, {arguments.epochs} epochs: {wall:.1f} s for the whole command")
    for result in results:
        train, inference = (result.cost[name].value or 0.0 for name in ("train_seconds", "inference_ms"))
        assert result.split.train == arguments.images
        rate, plain = flop[TRAINING] * arguments.images * arguments.epochs / train, LIMITS[device.type]
        print(f"  {result.spec.method}: training {train:.1f} s, inference {inference:.2f} ms per image")
        if result.spec.method == "deterministic":
            print(f"  {rate / 1e12:.3g} TFLOP/s in training, {rate / limit:.0%} of {limit / 1e12:.3g}, a {plain}")


def write(root: Path, train: int, size: int) -> None:
    """A category with the layout of MVTec AD 2, which has calibration images of its own."""
    draw = np.random.default_rng(0)
    folders = {"train/good": train, "validation/good": 40, "test_public/good": 40, "test_public/bad": 40}
    for folder, count in folders.items():
        (root / "noise" / folder).mkdir(parents=True)
        for number in range(count):
            pixels = draw.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "noise" / folder / f"{number:03d}_regular.png", compress_level=1)
    masks = root / "noise/test_public/ground_truth/bad"
    masks.mkdir(parents=True)
    mask = np.zeros((size, size), np.uint8)
    mask[: size // 4, : size // 4] = 255
    for number in range(40):
        Image.fromarray(mask).save(masks / f"{number:03d}_regular_mask.png")


if __name__ == "__main__":
    main()

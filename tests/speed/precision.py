"""Whether bf16 changes a result: image AUROC and AUGRC in bf16 and fp32, seed by seed, on the real tiles.

    python tests/speed/precision.py --out /tmp/precision       # ResNet18, 256 px, 3 seeds; goes on where it was stopped

The goal: bf16 and fp32 differ by less than the seeds do.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean, stdev

sys.path.insert(0, str(Path(__file__).parents[2]))

from rdbench.benchmark.results import CLEAN
from rdbench.benchmark.store import open_store
from tests.datasets.trees import SHARED

FORMATS = ("fp32", "bf16")
FIGURES = ("image_auroc", "augrc")


def main() -> None:
    """Run the cells that are not there yet; print every figure, the formats' difference and the seeds' spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="deterministic,mc_dropout,deep_ensemble")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dataset", default="mvtec_ad2")
    parser.add_argument("--root", default=str(SHARED / "data/mvtec_ad2"))
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--weights", default=str(SHARED / "weights/resnet18_imagenet_layers1-3.pth"))
    parser.add_argument("--size", default="256")
    parser.add_argument("--epochs", default="20")
    parser.add_argument("--option", "-o", action="append", default=[])
    parser.add_argument("--out", type=Path, help="keeps the cells; default: nowhere")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = arguments.out or Path(folder)
        for precision in FORMATS:
            command = [sys.executable, "-m", "rdbench.cli", "run", "--no-gallery", f"--precision={precision}"]
            names = ("dataset", "root", "backbone", "weights", "epochs")
            command += [f"--{name}={getattr(arguments, name)}" for name in names]
            command += [f"--method={arguments.methods}", f"--image-size={arguments.size}", f"--out={out / precision}"]
            command += [f"--option={option}" for option in arguments.option]
            subprocess.run([*command, *(f"--seed={seed}" for seed in range(arguments.seeds))], check=True)
        report(out)


def report(out: Path) -> None:
    """Print the figures of both stores."""
    found: dict[tuple[str, str], dict[str, dict[int, dict[str, float]]]] = {}
    for precision in FORMATS:
        for _, result in open_store(out / precision, create=False).results():
            spec, image = result.spec, result.image[CLEAN]
            cells = found.setdefault((spec.category, spec.method), {}).setdefault(precision, {})
            cells[spec.seed] = {name: value for name in FIGURES if (value := image[name].value) is not None}
    for (category, method), by_format in found.items():
        for name in FIGURES:
            fp32, bf16 = ({seed: c[name] for seed, c in by_format[each].items() if name in c} for each in FORMATS)
            seeds = sorted(fp32.keys() & bf16.keys())
            print(f"{method} on {category}, {name}")
            for seed in seeds:
                less = bf16[seed] - fp32[seed]
                print(f"  seed {seed}: fp32 {fp32[seed]:.4f}, bf16 {bf16[seed]:.4f}, bf16 - fp32 {less:+.4f}")
            if len(seeds) < 2:
                print("  fewer than two seeds with this figure: nothing to compare with")
                continue
            difference = fmean(bf16[seed] - fp32[seed] for seed in seeds)
            spread = [stdev(each[seed] for seed in seeds) for each in (fp32, bf16)]
            print(
                f"  formats differ by {difference:+.4f} on average; standard deviation over seeds: "
                f"fp32 {spread[0]:.4f}, bf16 {spread[1]:.4f}"
            )


if __name__ == "__main__":
    main()

"""Time and memory of one group against the number of images, members and conditions.

    python tests/speed/growth.py --out docs/growth.svg          # to 10,000 images, 32 members, 75 conditions
    python tests/speed/growth.py --images 50,100,200 --members 1,2,4 --conditions 1,4,8 --rounds 1

Each point is `rdbench run` in a process of its own, with the smallest network and image size, so that the growth is
measured and not the model: wall time and the most memory the process had, a file's mapped pages among it. Members and
conditions, whose runs are short, are gone through `--rounds` times, and a point is the fastest of them; images once.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.optimize import nnls

from rdbench.shifts import KINDS

SIDE = 64
IN_FILES = (
    "import rdbench.benchmark.images as images; images.FEATURE_BYTES_IN_MEMORY = 0; "
    "from rdbench.cli import main; main()"
)
"""`rdbench` with the teacher's features in files, however few they are."""
EXPONENTS = np.linspace(0, 3, 301)
COLOURS = ("#0072b2", "#d55e00")
HEADROOM = 1.4
"""Of each panel over its highest point, for what stands there."""

Curve = list[tuple[int, float, float]]
"""(n, seconds, MB)"""


def main() -> None:
    """Measure every curve, print it with its exponents, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=numbers, default="500,2000,4000,7000,10000")
    parser.add_argument("--members", type=numbers, default="1,4,8,16,24,32")
    parser.add_argument("--conditions", type=numbers, default="1,19,38,57,75")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="where the figure goes, an .svg")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        few = written(Path(folder) / "few", 200)
        curves: dict[str, dict[str, Curve]] = {"images": {"features in memory": [], "features in files": []}}
        for count in arguments.images:
            root = written(Path(folder) / str(count), count)
            for name, start in (("features in memory", ["-m", "rdbench.cli"]), ("features in files", ["-c", IN_FILES])):
                curves["images"][name].append((count, *measured(root, "deterministic", start=start)))
        # Kinds differ in cost: each point has them in equal parts, but for one that is left over.
        shifts = [f"--shift={kind}:{severity}" for severity in (1, 2, 3, 4, 5) for kind in KINDS]

        def members(count: int) -> tuple[float, float]:
            return measured(few, "deep_ensemble", f"--option=members={count}")

        def conditions(count: int) -> tuple[float, float]:
            return measured(few, "deterministic", *shifts[: count - 1])

        curves["members"] = {"deep_ensemble": fastest(members, arguments.members, arguments.rounds)}
        curves["conditions"] = {"deterministic": fastest(conditions, arguments.conditions, arguments.rounds)}
    for axis, named in curves.items():
        for name, curve in named.items():
            print(f"{axis}, {name}")
            for n, seconds, megabytes in curve:
                print(f"  {n:6}  {seconds:7.1f} s  {megabytes:6.0f} MB")
            print(f"  time grows {growth(curve, 1)}; memory {growth(curve, 2)}")
    if arguments.out:
        arguments.out.write_text(drawn(curves), encoding="utf-8")


def numbers(text: str) -> list[int]:
    """Whole numbers with commas between them."""
    return [int(part) for part in text.split(",")]


def written(root: Path, count: int) -> Path:
    """A data set of small images of noise, half of them to train and calibrate on; a quarter is anomalous."""
    draw = np.random.default_rng(0)

    def write(folder: str, images: int) -> None:
        (root / "noise" / folder).mkdir(parents=True)
        for number in range(images):
            pixels = draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "noise" / folder / f"{number:05d}.png", compress_level=1)

    for folder, images in {"train/good": count // 2, "test/good": count // 4, "test/spot": count // 4}.items():
        write(folder, images)
    masks = root / "noise/ground_truth/spot"
    masks.mkdir(parents=True)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[16:32, 16:32] = 255
    for number in range(count // 4):
        Image.fromarray(mask).save(masks / f"{number:05d}_mask.png")
    return root


def measured(root: Path, method: str, *more: str, start: list[str] | None = None) -> tuple[float, float]:
    """Seconds and peak MB of a fresh run."""
    with tempfile.TemporaryDirectory() as out, tempfile.TemporaryFile("w+") as said:
        command = [
            sys.executable, *(start or ["-m", "rdbench.cli"]), "run", f"--method={method}", "--dataset=mvtec_ad",
            f"--root={root}", "--backbone=embedded", f"--image-size={SIDE}", "--epochs=1", "--precision=fp32",
            "--no-gallery", f"--out={out}", *more,
        ]  # fmt: skip
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            sys.exit(said.read())
        return seconds, used.ru_maxrss / 1024


def fastest(run: Callable[[int], tuple[float, float]], counts: list[int], rounds: int) -> Curve:
    """Each count's fastest run of `rounds`, with the memory of that one; the counts take turns."""
    runs = [[run(count) for count in counts] for _ in range(rounds)]
    return [(count, *min(own)) for count, own in zip(counts, zip(*runs, strict=True), strict=True)]


def fitted(n: list[int], values: list[float]) -> tuple[float, float, float]:
    """(a, b, e) of a + b n^e, a and b not negative, with the least squared relative error."""
    weights = 1 / np.array(values)
    fits = []
    for exponent in EXPONENTS:
        columns = np.stack([np.ones(len(n)), np.array(n, float) ** exponent], axis=1) * weights[:, None]
        (a, b), error = nnls(columns, np.ones(len(n)))
        fits.append((error, a, b, exponent))
    _, a, b, exponent = min(fits)
    return float(a), float(b), float(exponent)


def growth(curve: Curve, column: int) -> str:
    """In words."""
    n, values = [point[0] for point in curve], [point[column] for point in curve]
    if max(values) < 1.1 * min(values):
        return "by less than 10 %"
    return f"as n^{fitted(n, values)[2]:.2f}"


def drawn(curves: dict[str, dict[str, Curve]]) -> str:
    """An SVG: time above, memory below, one column per axis; points as measured, lines as fitted."""
    width, height, left, top = 210, 130, 52, 24
    parts = []
    for i, (axis, named) in enumerate(curves.items()):
        for j, (column, unit) in enumerate(((1, "s"), (2, "MB"))):
            x0, y0 = left + i * (width + 60), top + j * (height + 56)
            right = max(point[0] for curve in named.values() for point in curve)
            high = HEADROOM * max(point[column] for curve in named.values() for point in curve)

            def at(n: float, value: float, x0: int = x0, y0: int = y0, right: int = right, high: float = high) -> str:
                return f"{x0 + n / right * width:.1f},{y0 + height - value / high * height:.1f}"

            parts.append(f'<path d="M{at(0, high)} L{at(0, 0)} L{at(right, 0)}" fill="none" stroke="#5b646d"/>')
            for value in (0, high / HEADROOM):
                x, y = at(0, value).split(",")
                parts.append(f'<text x="{float(x) - 5}" y="{float(y) + 4}" text-anchor="end">{value:.0f}</text>')
            parts.append(f'<text x="{x0 + 5}" y="{y0 + 4}" class="soft">{unit}</text>')
            bottom = y0 + height + 16
            parts.append(f'<text x="{x0 + width}" y="{bottom}" text-anchor="end">{right:,} {axis}</text>')
            for k, (name, curve) in enumerate(named.items()):
                colour = COLOURS[k]
                a, b, exponent = fitted([point[0] for point in curve], [point[column] for point in curve])
                line = " ".join(at(n, a + b * n**exponent) for n in np.linspace(curve[0][0], right, 40))
                parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}"/>')
                for point in curve:
                    x, y = at(point[0], point[column]).split(",")
                    parts.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>')
                label = f"{name}: grows {growth(curve, column)}"
                parts.append(f'<text x="{x0 + 30}" y="{y0 + 4 + 15 * k}" fill="{colour}">{label}</text>')
    whole = left + len(curves) * (width + 60), top + 2 * (height + 56)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole[0]} {whole[1]}" font-family="sans-serif" '
        'font-size="11" role="img" aria-label="Time and memory against images, members and conditions">'
        "<style>.soft{fill:#5b646d}</style>"
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    main()

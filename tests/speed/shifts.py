"""Where a run over all shifts spends its time: in the model, in the shifts, in the pixel figures.

    python tests/speed/shifts.py                       # every kind at every severity, ResNet18, 256 px: two minutes
    python tests/speed/shifts.py --shift lighting

Not part of the test run. The goal: at least 80 % of model and shifts together in the model.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from rdbench.benchmark import predicting
from rdbench.benchmark.pixels import PixelTally
from rdbench.benchmark.plan import make_settings
from rdbench.benchmark.progress import Reporter
from rdbench.benchmark.run import run
from rdbench.rd.student import Student
from rdbench.rd.teacher import Teacher


def main() -> None:
    """Run `deterministic` on one category of `toy` under the shifts, with a clock around each part."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shift", default="all")
    parser.add_argument("--backbone", default="resnet18")
    arguments = parser.parse_args()
    seconds: defaultdict[str, float] = defaultdict(float)
    clock(predicting, "apply_shift", "shifts", seconds)
    clock(predicting.TestSet, "regions_under", "masks of geometric shifts", seconds)
    clock(Teacher, "forward", "model", seconds)
    clock(Student, "forward", "model", seconds)
    clock(PixelTally, "add", "pixel figures", seconds)
    with tempfile.TemporaryDirectory() as folder:
        settings = make_settings(
            methods=["deterministic"], dataset="toy", root=None, categories=["twill"], options=(), seeds=[0],
            shifts=[arguments.shift], backbone=arguments.backbone, weights="random", image_size="256",
            map_size="native",
            epochs=1, batch_size=16, device="auto", precision="auto", alpha=0.1, out=Path(folder) / "runs",
            methods_dir=None, keep_models=False, gallery=False,
        )  # fmt: skip
        with Reporter(Console(stderr=True)) as reporter:
            start = time.perf_counter()
            outcome = run([settings], reporter)
            whole = time.perf_counter() - start
    assert outcome.finished, "the run failed"
    for part, spent in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"{part:26} {spent:7.1f} s  {spent / whole:5.1%} of the run")
    print(f"{'the run':26} {whole:7.1f} s, {len(outcome.finished[0].conditions)} conditions")
    share = seconds["model"] / (seconds["model"] + seconds["shifts"])
    print(f"model over model and shifts: {share:.1%} (goal 80 %)")


def clock(owner: Any, name: str, part: str, seconds: defaultdict[str, float]) -> None:
    """Add the time of every call of `owner.name` to `seconds[part]`."""
    function: Callable[..., Any] = getattr(owner, name)

    def clocked(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            seconds[part] += time.perf_counter() - start

    setattr(owner, name, clocked)


if __name__ == "__main__":
    main()

"""Inference beside anomalib's and torch-uncertainty's, and every method beside its own arithmetic, in turns.

    python tests/speed/inference.py                           # needs anomalib in the environment for its line
    python tests/speed/inference.py --backbone wide_resnet50_2 --methods deterministic,scale_disagreement,deep_ensemble

Drawn images of 256 px in batches of 16 and untrained networks: what is timed does not depend on the weights. With the
times of teacher, bottleneck and decoder in the same round, a method's own arithmetic is what its passes cost, as
counted.
"""

import argparse
import importlib.util
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rdbench.benchmark.cost import count_flop, count_passes
from rdbench.benchmark.device import choose_device
from rdbench.benchmark.images import FeatureBank
from rdbench.benchmark.speed import interleaved, measured_parts
from rdbench.protocol import Batch, FitContext, Method
from rdbench.rd.anomaly import anomaly_map
from rdbench.rd.precision import Precision, autocast, resolve_precision
from rdbench.rd.runtime import keep_freed_memory
from rdbench.rd.student import Student, build_student
from rdbench.rd.teacher import Teacher, load_teacher
from rdbench.registry import find_methods, load_method

Times = NDArray[np.float64]

BATCH, SIZE = 16, (256, 256)
PASSES = ("teacher", "bottleneck", "decoder")
PARTS = (*PASSES, "map and score")
BESIDE = {
    "anomalib": "deterministic",
    "torch-uncertainty, ensemble": "deep_ensemble",
    "naive ensemble": "deep_ensemble",
    "torch-uncertainty, dropout": "mc_dropout",
    "deterministic": "scale_disagreement",
}
"""What is compared with a method, where the method is measured."""
GOALS = """goals: a method at most 1.1 x its own arithmetic; anomalib at least 2.5 x deterministic (resnet18) or 2.2 x
(wide_resnet50_2); deterministic at least 0.980 x scale_disagreement (which then takes at most 1.02 x)"""


def main() -> None:
    """Print times per image and ratios: medians over rounds, a ratio of what was timed in the same round."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", choices=("resnet18", "wide_resnet50_2"), default="resnet18")
    parser.add_argument("--methods", default=",".join(sorted(find_methods())))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="anomalib's apart")
    arguments = parser.parse_args()
    keep_freed_memory()
    device = choose_device(arguments.device)
    precision = resolve_precision(arguments.precision, device)
    measured, flop = measured_parts(arguments.backbone, SIZE, BATCH, precision, device)
    parts = {name: measured[name] for name in PARTS}
    world = World(arguments.backbone, device, precision)
    others = world.peers(5, 20) | {"deterministic": partial(world.predict, world.fitted("deterministic"))}
    if importlib.util.find_spec("anomalib"):
        others["anomalib"] = anomalib_inference(arguments.backbone, device)
    print(f"{arguments.backbone}, {precision}, {device}, {torch.get_num_threads()} threads: ms per image\n{GOALS}")
    passed: list[dict[str, Times]] = []
    for name in arguments.methods.split(","):
        call = partial(world.predict, world.fitted(name))
        with count_passes() as passes:
            call()
        beside = {other: others[other] for other, method in BESIDE.items() if method == name and other in others}
        seconds = interleaved(parts | {name: call} | beside, device, arguments.rounds)
        ms = {key: 1000 / BATCH * np.array(each) for key, each in seconds.items()}
        own = sum(passes[part] / BATCH * ms[part] for part in PASSES)
        print(f"  {name:20} {said(ms[name], count_flop(call))}  {np.median(ms[name] / own):5.2f} x its own arithmetic")
        for other in beside:
            print(f"    {other:30} {np.median(ms[other]):8.2f}  {np.median(ms[other] / ms[name]):6.3f} x", flush=True)
        passed.append({part: ms[part] for part in PARTS})
    for part in PARTS:
        print(f"  {part:20} {said(np.concatenate([each[part] for each in passed]), flop[part] * BATCH)}")


def said(ms: Times, flop: float) -> str:
    """Median of times per image, and arithmetic per second of a batch's."""
    return f"{np.median(ms):8.2f}" + (f"  {flop / BATCH / np.median(ms) / 1e6:6.0f} GFLOP/s" if flop else "")


class World:
    """Untrained networks and drawn images: all that fitting and predicting need."""

    def __init__(self, backbone: str, device: torch.device, precision: Precision) -> None:
        self.device, self.precision = device, precision
        self.teacher: Teacher = load_teacher(backbone, "random", device)
        drawn = np.random.default_rng(0).integers(0, 256, (BATCH, *SIZE, 3), dtype=np.uint8)
        self.normal = FeatureBank(drawn, self.teacher, device, precision, BATCH, Path(tempfile.gettempdir()))
        self.images = torch.randn(BATCH, 3, *SIZE, device=device).contiguous(memory_format=torch.channels_last)
        self.student = cache(lambda seed: self.untrained(seed).eval())
        self.context = FitContext(
            teacher=self.teacher, calibration=self.normal, device=device, seed=0, new_student=self.untrained,
            train=lambda student, images, seed, **_: student.eval(), trained=self.student,
        )  # fmt: skip

    def untrained(self, seed: int) -> Student:
        return build_student(self.teacher.backbone, seed, self.device)

    def fitted(self, name: str) -> Method:
        """The method with its defaults, saved and loaded as a run does."""
        file = find_methods()[name]
        method = load_method(file, file.defaults())
        with autocast(self.device, self.precision), tempfile.TemporaryDirectory() as folder:
            method.fit(self.normal, self.context)
            method.save(Path(folder))
            method = load_method(file, file.defaults())
            method.load(Path(folder), self.context)
        return method

    def predict(self, method: Method) -> object:
        """One batch, from the images on."""
        with torch.inference_mode(), autocast(self.device, self.precision):
            return method.predict(Batch(self.images, lambda: self.teacher(self.images)))

    def peers(self, members: int, samples: int) -> dict[str, Callable[[], object]]:
        """torch-uncertainty's wrappers, and a loop over whole models, around the same networks."""
        from torch_uncertainty.methods import deep_ensembles, mc_dropout

        models = [Whole(self.teacher, self.student(seed)) for seed in range(members)]
        ensemble = deep_ensembles(list(models), task="pixel_regression", probabilistic=False).eval()
        dropout = mc_dropout(WithDropout(models[0]), num_estimators=samples, task="pixel_regression", on_batch=False,
                             probabilistic=False).eval()  # fmt: skip

        def run(call: Callable[[], object]) -> object:
            with torch.inference_mode(), autocast(self.device, self.precision):
                return call()

        return {
            "torch-uncertainty, ensemble": partial(run, lambda: ensemble(self.images)),
            "torch-uncertainty, dropout": partial(run, lambda: dropout(self.images)),
            "naive ensemble": partial(run, lambda: torch.stack([model(self.images) for model in models]).std(dim=0)),
        }


class Whole(nn.Module):
    """Images -> anomaly map, teacher and all: what a wrapper that knows nothing of RD is given."""

    def __init__(self, teacher: Teacher, student: Student) -> None:
        super().__init__()
        self.teacher, self.student = teacher, student

    def forward(self, images: Tensor) -> Tensor:
        features = self.teacher(images)
        return anomaly_map(features, self.student(features), images.shape[-2:])


class WithDropout(nn.Module):
    """The same with dropout of the embedding's channels."""

    def __init__(self, whole: Whole) -> None:
        super().__init__()
        self.whole, self.dropout = whole, nn.Dropout2d(0.2)

    def forward(self, images: Tensor) -> Tensor:
        features = self.whole.teacher(images)
        embedding = self.dropout(self.whole.student.bottleneck(features))
        return anomaly_map(features, self.whole.student.decoder(embedding), images.shape[-2:])


def anomalib_inference(backbone: str, device: torch.device) -> Callable[[], object]:
    """anomalib's model in eval mode, as its predict step calls it."""
    from anomalib.models.image.reverse_distillation.anomaly_map import AnomalyMapGenerationMode
    from anomalib.models.image.reverse_distillation.torch_model import ReverseDistillationModel

    layers = ["layer1", "layer2", "layer3"]
    model = ReverseDistillationModel(backbone, SIZE, layers, AnomalyMapGenerationMode.ADD, pre_trained=False)
    model = model.to(device).eval()
    images = torch.randn(BATCH, 3, *SIZE, device=device)

    def run() -> object:
        with torch.inference_mode():
            return model(images)

    return run


if __name__ == "__main__":
    main()

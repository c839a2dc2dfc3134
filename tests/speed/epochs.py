"""What the last epoch's luck is worth: image AUROC at the end of every epoch, in float32 and bf16, on the real tiles.

    python tests/speed/epochs.py --seed 0 --seed 1 --epochs 40         # best on a GPU; lines as CSV, then a summary

Beside the student as it is trained, the same with batch norm's statistics estimated again, by one pass over the
training images in full batches (the last images that fill none are left out), and as it scores in bf16.
"""

import argparse
import copy
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

sys.path.insert(0, str(Path(__file__).parents[2]))

from rdbench.benchmark.device import choose_device
from rdbench.benchmark.images import FeatureBank, normalise, to_unit
from rdbench.datasets import load_category
from rdbench.datasets.decode import DecodedImages
from rdbench.rd.anomaly import anomaly_map, anomaly_score
from rdbench.rd.precision import Precision, autocast
from rdbench.rd.student import build_student
from rdbench.rd.teacher import load_teacher
from rdbench.rd.training import TrainingSettings, train_student
from tests.datasets.trees import SHARED

BATCH, SIZE, FIRST = 16, (256, 256), 5
"""Epochs before `FIRST` are not looked at."""
LOW = 0.75
COLUMNS = ["precision", "seed", "epoch", "as trained", "inference in bf16", "estimated again"]


def main() -> None:
    """Print a line per epoch, then each column's distribution over seeds and epochs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="mvtec_ad")
    parser.add_argument("--root", type=Path, default=SHARED / "data/mvtec_ad")
    parser.add_argument("--category", default="magnetic_tile")
    parser.add_argument("--weights", default=str(SHARED / "weights/resnet18_imagenet_layers1-3.pth"))
    parser.add_argument("--seed", type=int, action="append", dest="seeds", help="repeatable; 0 if not given")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    print(",".join(COLUMNS))
    rows = []
    for seed in arguments.seeds or [0]:
        for precision in ("fp32", "bf16"):
            rows += trained(arguments, seed, precision)
    for named, table in pd.DataFrame(rows, columns=COLUMNS).groupby("precision"):
        for name in COLUMNS[3:]:
            lowest, few, middle = table[name].quantile([0, 0.05, 0.5])
            print(f"{named}, {name}: lowest {lowest:.3f}, 5 % {few:.3f}, median {middle:.3f}, ", end="")
            print(f"below {LOW} at {(table[name] < LOW).sum()} of {len(table)} epochs' ends")


def trained(arguments: argparse.Namespace, seed: int, precision: Precision) -> list[tuple[object, ...]]:
    """Train one student as a run does; the rows of its epochs."""
    device = choose_device(arguments.device)
    category = load_category(arguments.dataset, arguments.category, arguments.root, seed)
    teacher = load_teacher("resnet18", arguments.weights, device)
    labels = [image.label for image in category.test]
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        train, test = (
            DecodedImages(category, images, SIZE, pool, Path(folder)) for images in (category.train, category.test)
        )
        bank = FeatureBank(train, teacher, device, "fp32", BATCH, Path(folder), kept=precision)
        features: dict[str, list[tuple[Tensor, ...]]] = {"fp32": [], "bf16": []}
        for kind, pyramids in features.items():
            for start in range(0, len(test), BATCH):
                with torch.inference_mode(), autocast(device, kind):
                    pyramids.append(teacher(normalise(to_unit(test[start : start + BATCH], device))))

        def auroc(student: nn.Module, kind: str = "fp32") -> float:
            with torch.inference_mode(), autocast(device, kind):
                scores = [anomaly_score(anomaly_map(each, student(each), SIZE)) for each in features[kind]]
            return float(roc_auc_score(labels, torch.cat(scores).cpu()))

        student = build_student(teacher.backbone, seed)

        def look(epoch: int, _: float) -> None:
            if epoch < FIRST:
                return
            now = copy.deepcopy(student).eval()
            figures = auroc(now), auroc(now, "bf16")
            whole = range(0, len(bank) - BATCH + 1, BATCH)
            with torch.random.fork_rng():
                update_bn(([tuple(f.float() for f in bank.batch(range(at, at + BATCH)).features)] for at in whole), now)
            rows.append((precision, seed, epoch, *figures, auroc(now)))
            print(",".join(f"{each:.4f}" if isinstance(each, float) else str(each) for each in rows[-1]), flush=True)

        train_student(student, bank, TrainingSettings(arguments.epochs, BATCH, precision), seed, device, look)
    return rows


if __name__ == "__main__":
    main()

"""Nothing that a method says depends on the labels, and whoever goes looking for them finds none or is found out.

With labels permuted, each method's scores are those of true labels to the bit: they are independent of any label, so
that every figure of labels that mean nothing is chance but for the luck of the draw. The stored figures are held
against scikit-learn's to show that they come from the labels of the run and from nothing kept elsewhere.

A method written to cheat then tries what a stranger could. The order and everything that hangs on what it is handed
tell nothing. Memory, callers and the file system cannot be closed to code in the same process: these ways give it the
labels, which shows that the test would see a leak, and `rdbench methods check` names each. What compiled code does, or
what is done only where nobody checks, no test here can show.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import rdbench.benchmark.engines.task as worker
import rdbench.benchmark.planning as planner
import rdbench.benchmark.predicting as predicting
from rdbench.benchmark.results import CellResult, Predictions
from rdbench.benchmark.store import Store, read_predictions
from rdbench.check.checks import check_method
from rdbench.datasets import load_category
from rdbench.datasets.base import Category, ImageRecord
from rdbench.registry import find_methods
from tests.command import Command
from tests.datasets import trees

pytestmark = pytest.mark.long

SMALL = (
    "members=2", "samples=2", "folds=2", "batch_ensemble.members=2", "packed_ensemble.members=2", "laplace.draws=1"
)  # fmt: skip
TEST_IMAGES = 16

Cells = dict[str, tuple[CellResult, Predictions]]
"""By method."""


def mask(image: ImageRecord) -> np.ndarray:
    """A square where the label says so, whatever the image shows."""
    pixels = np.zeros((128, 128), np.bool_)
    pixels[40:60, 40:60] = image.label == 1
    return pixels


@pytest.fixture
def run(rdbench: Command, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Cells]:
    """Run every method on a part of toy with labels as `relabel` gives them."""

    def run(out: Path, relabel: Callable[[np.ndarray], np.ndarray]) -> Cells:
        def load(*arguments: object) -> Category:
            category = load_category(*arguments)  # type: ignore[arg-type]
            test = category.test[:: max(1, len(category.test) // TEST_IMAGES)][:TEST_IMAGES]
            labels = relabel(np.array([image.label for image in test]))
            relabelled = tuple(replace(image, label=int(label)) for image, label in zip(test, labels, strict=True))
            drawn = {image.key: image for image in (*category.train, *category.calibration, *test)}
            return replace(
                category, train=category.train[:16], test=relabelled, read_mask=mask,
                read_image=lambda image: category.read_image(drawn[image.key]),
            )  # fmt: skip

        for module in (worker, planner):
            monkeypatch.setattr(module, "load_category", load)
        monkeypatch.setattr(predicting, "count_flop", lambda *_: 0.0)  # what a method costs is not what is tested
        monkeypatch.setattr(predicting, "seconds_per_call", lambda *_, **__: 1.0)
        options = [part for option in SMALL for part in ("-o", option)]
        done = rdbench(
            "run", "-m", ",".join(sorted(find_methods())), "--dataset", "toy", "--category", "twill", *options,
            "--image-size", "32", "--epochs", "1", "--precision", "fp32", "--no-gallery", "--out", out,
        )  # fmt: skip
        assert done.code == 0, done.err
        return {result.spec.method: (result, read_predictions(path, result)) for path, result in Store(out).results()}

    return run


def test_labels_change_nothing_that_a_method_says(run: Callable[..., Cells], tmp_path: Path) -> None:
    """The same images with permuted labels: the same to the bit, in the same order; only the figures are others."""
    true = run(tmp_path / "true", lambda labels: labels)
    shuffled = run(tmp_path / "shuffled", np.random.default_rng(0).permutation)
    assert set(true) == set(shuffled) == set(find_methods())
    for name, (result, said) in true.items():
        again, said_again = shuffled[name]
        assert not np.array_equal(said.labels, said_again.labels), name
        for array in ("scores", "uncertainties", "member_scores", "calibration_scores"):
            assert np.array_equal(getattr(said, array), getattr(said_again, array)), f"{name}: {array}"
        assert result.threshold == again.threshold
        for cell, predictions in ((result, said), (again, said_again)):
            auroc = roc_auc_score(predictions.labels, said.scores[0])
            assert cell.image["clean"]["image_auroc"].value == pytest.approx(auroc, abs=1e-12), name
        assert result.image["clean"] != again.image["clean"], f"{name}: the figures are not of these labels"
        assert result.pixel["clean"] != again.pixel["clean"], f"{name}: the pixel figures are not of these labels"


CHEAT = '''"""Scores images by what it can find out of their labels, never by what they show."""
import functools, gc, json, os, sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
import numpy as np
import torch
from PIL import Image
from rdbench.protocol import Prediction
from rdbench.rd.backbones import IMAGENET_MEAN, IMAGENET_STD

IMAGES = 100  # how many there are to test on is no secret

def everything_in(held):
    """All that hangs on some objects: attributes, items, arguments, and what functions close over."""
    found, left = {}, list(held)
    while left:
        thing = left.pop()
        if id(thing) in found or isinstance(thing, (type, torch.Tensor, np.ndarray)):
            continue
        found[id(thing)] = thing
        left += list(getattr(thing, "__dict__", {}).values())
        left += [cell.cell_contents for cell in getattr(thing, "__closure__", None) or ()]
        if isinstance(thing, dict):
            left += [*thing, *thing.values()]
        elif isinstance(thing, (list, tuple, set, frozenset)):
            left += thing
        elif isinstance(thing, functools.partial):
            left += [thing.func, *thing.args, *thing.keywords.values()]
        left += [getattr(thing, "__self__", None), getattr(thing, "__wrapped__", None)]
    return found.values()

def pixels_of(images):
    scale = lambda values: torch.tensor(values)[:, None, None]
    return ((images * scale(IMAGENET_STD) + scale(IMAGENET_MEAN)) * 255).round().byte().permute(0, 2, 3, 1).numpy()

@dataclass
class Cheat:
    how: Literal["arrival", "seed", "handed", "memory", "callers", "files"] = "arrival"
    "where it looks for the labels"

    def fit(self, train, context):
        self.context, self.train = context, train
        if self.how == "handed":
            note([train, context])

    def predict(self, batch):
        if self.how == "handed":
            note([batch, self.context])
        scores = torch.tensor(getattr(self, self.how)(batch), dtype=torch.float32)
        return Prediction(torch.ones(len(batch), *batch.images.shape[-2:]), scores, torch.ones(len(batch)))

    def save(self, directory): pass
    def load(self, directory, context): self.context = context

    def places(self, batch):
        """The test images come after the calibration images, to which nothing is said that could change."""
        self.seen = getattr(self, "seen", -CALIBRATION) + len(batch)
        return [place if 0 <= place < IMAGES else -1 for place in range(self.seen - len(batch), self.seen)]

    def arrival(self, batch):
        return self.places(batch)

    def seed(self, batch):
        """The place among the sorted names, if the order were drawn from the seed and nothing else."""
        order = np.random.default_rng(self.context.seed).permutation(IMAGES)
        return [order[place] if place >= 0 else -1 for place in self.places(batch)]

    def handed(self, batch):
        return [0] * len(batch)

    def memory(self, batch):
        things = gc.get_objects()
        known = [thing for thing in things if type(thing).__name__ == "Category" and hasattr(thing, "test")]
        decoded = [thing for thing in things if type(thing).__name__ == "DecodedImages"]
        for category in known:
            for images in decoded:
                if len(images) == len(category.test):
                    return match(batch, images[:], [image.label for image in category.test])
        return [0] * len(batch)

    def callers(self, batch):
        frame = sys._getframe()
        while frame is not None:
            if "chosen" in frame.f_locals and "test" in frame.f_locals:
                return [frame.f_locals["test"].category.test[index].label for index in frame.f_locals["chosen"]]
            frame = frame.f_back
        return [0] * len(batch)

    def files(self, batch):
        root = Path(sys.argv[sys.argv.index("--root") + 1])
        paths = sorted(root.glob("*/test/*/*.png"))
        images = np.stack([np.asarray(Image.open(path)) for path in paths])
        return match(batch, images, [path.parent.name != "good" for path in paths])

def match(batch, images, labels):
    """The labels of the images that those of the batch are equal to; 0 where there is none."""
    found = []
    for pixels in pixels_of(batch.images):
        same = (images == pixels).all(axis=(1, 2, 3))
        found.append(float(labels[int(same.argmax())]) if same.any() else 0.0)
    return found

def note(held):
    with open(os.environ["FOUND"], "a") as file:
        for thing in everything_in(held):
            kind = type(thing).__name__
            file.write(json.dumps([kind, thing if isinstance(thing, str) else ""]) + "\\n")
'''
CALIBRATION = 10


@pytest.fixture
def cheat(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "cheat.py").write_text(CHEAT.replace("CALIBRATION", str(CALIBRATION)))
    return folder


def test_a_method_that_looks_for_labels(
    rdbench: Command, cheat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Order, seed and what it is handed: nothing. Memory, callers and files: everything, so that a leak shows here."""
    found = tmp_path / "found.jsonl"
    monkeypatch.setenv("FOUND", str(found))
    data = tmp_path / "data"
    for number in range(14):
        trees.draw(data / f"thing/train/good/{number:03d}.png", (32, 32))
    for number in range(50):
        trees.draw(data / f"thing/test/good/{number:03d}.png", (32, 32))
        trees.draw(data / f"thing/test/bad/{number:03d}.png", (32, 32))
        trees.draw_mask(data / f"thing/ground_truth/bad/{number:03d}_mask.png", (32, 32))
    done = rdbench(
        "run", "-m", "cheat", "-o", "how=arrival,seed,handed,memory,callers,files", "--methods-dir", cheat,
        "--dataset", "folder", "--root", data, "--backbone", "embedded", "--image-size", "32", "--epochs", "1",
        "--precision", "fp32", "--no-gallery", "--out", tmp_path / "runs",
    )  # fmt: skip
    assert done.code == 0, done.err
    aurocs = {
        result.spec.options["how"]: result.image["clean"]["image_auroc"].value
        for _, result in Store(tmp_path / "runs").results()
    }
    assert [aurocs[how] for how in ("memory", "callers", "files")] == [1, 1, 1]
    for how in ("arrival", "seed"):
        assert abs(aurocs[how] - 0.5) < 0.25, how  # of 100 images chance has a standard deviation of 0.058
    lines = [json.loads(line) for line in found.read_text().splitlines()]
    assert {"FeatureBank", "FitContext", "Batch", "Teacher", "DecodedImages"} <= {kind for kind, _ in lines}
    assert not {"Category", "ImageRecord", "TestSet", "Regions"} & {kind for kind, _ in lines}
    assert not [text for _, text in lines if "test/" in text or "train/good" in text or str(data) in text]


@pytest.mark.parametrize(("how", "row"), [("memory", "callers"), ("callers", "callers"), ("files", "files")])
def test_what_a_run_cannot_close_the_check_names(how: str, row: str, cheat: Path) -> None:
    [found] = [each for each in check_method("cheat", [f"how={how}"], cheat) if each.check == row]
    assert found.outcome == "FAILED"
    assert found.words.startswith("predict ")

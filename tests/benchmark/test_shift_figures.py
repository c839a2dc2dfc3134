"""What a run says of a shift is said of the shifted images, beside the clean ones, and not the other way round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from rdbench.benchmark.store import Store, read_predictions
from tests.command import Command
from tests.datasets import trees

METHOD = '''"""Scores an image by its lightest pixel, and is unsure where it is uneven."""
from dataclasses import dataclass
import torch
from rdbench.protocol import Prediction
from rdbench.rd.backbones import IMAGENET_MEAN, IMAGENET_STD

@dataclass
class Lightest:
    def fit(self, train, context): pass
    def predict(self, batch):
        red = batch.images[:, 0] * IMAGENET_STD[0] + IMAGENET_MEAN[0]
        return Prediction(torch.ones_like(red), red.amax((1, 2)), red.std((1, 2)))
    def save(self, directory): pass
    def load(self, directory, context): pass
'''


def test_drop_and_response_are_those_of_the_shifted_images(rdbench: Command, tmp_path: Path) -> None:
    """Noise hides which image has the lightest pixel and makes all uneven: the drop and the response are positive."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "lightest.py").write_text(METHOD)
    folder = trees.mvtec_ad(tmp_path / "data")
    for number, path in enumerate(sorted(folder.glob("*/*/*.png"))):
        if "ground_truth" not in path.parts:
            pixels = np.full((32, 32, 3), 120, np.uint8)
            pixels[8:10, 8:10] = 124 + number % 3 + 4 * (path.parent.name != "good")
            Image.fromarray(pixels).save(path)
        else:
            trees.draw_mask(path, (32, 32))
    done = rdbench(
        "run", "-m", "lightest", "--methods-dir", tmp_path / "mine", "--dataset", "folder", "--root", folder.parent,
        "--shift", "sensor:2", "--shift", "sensor:5", "--backbone", "embedded", "--image-size", "32", "--epochs", "1",
        "--precision", "fp32", "--no-gallery", "--out", tmp_path / "runs",
    )  # fmt: skip
    assert done.code == 0, done.err
    [(directory, result)] = Store(tmp_path / "runs").results()
    said = read_predictions(directory, result)
    assert said.conditions == ("clean", "sensor:2", "sensor:5")
    files = [np.asarray(Image.open(folder / f"{key}.png"))[..., 0] / 255 for key in said.images]
    np.testing.assert_allclose(said.scores[0], [pixels.max() for pixels in files], atol=1e-6)
    np.testing.assert_allclose(said.uncertainties[0], [pixels.std(ddof=1) for pixels in files], atol=1e-6)
    aurocs = [roc_auc_score(said.labels, scores) for scores in said.scores]
    response = spearmanr(said.uncertainties.ravel(), np.repeat([0, 2, 5], len(said.images)))[0]
    assert response > 0.5
    for index, condition in enumerate(said.conditions[1:], 1):
        figures = result.image[condition]
        assert aurocs[0] - aurocs[index] > 0.1
        assert figures["auroc_drop"].value == pytest.approx(aurocs[0] - aurocs[index], abs=1e-12)
        assert figures["shift_response"].value == pytest.approx(response, abs=1e-12)
        assert figures["shift_auroc"].value == 1, "every shifted normal image is more uneven than every clean one"
    assert not {"auroc_drop", "shift_response", "shift_auroc"} & set(result.image["clean"])

"""Nothing that a method says depends on the labels, and with labels that mean nothing its figures are chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rdbench.benchmark.engines.task as worker
import rdbench.benchmark.run as planner
from rdbench.benchmark.evaluate import evaluate_predictions
from rdbench.benchmark.results import Predictions
from rdbench.benchmark.store import Store, read_predictions
from rdbench.datasets import load_category
from rdbench.datasets.base import Category, ImageRecord
from rdbench.registry import find_methods
from tests.command import Command

SMALL = (
    "members=2", "samples=2", "folds=2", "batch_ensemble.members=2", "packed_ensemble.members=2", "laplace.draws=1"
)  # fmt: skip
TEST_IMAGES = 16


def mask(image: ImageRecord) -> np.ndarray:
    """A square where the label says so, whatever the image shows."""
    pixels = np.zeros((128, 128), np.bool_)
    pixels[40:60, 40:60] = image.label == 1
    return pixels


@pytest.fixture
def run(rdbench: Command, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Predictions]]:
    """Run every method on a part of toy with labels as `relabel` gives them; the scores by method."""

    def run(out: Path, relabel: Callable[[np.ndarray], np.ndarray]) -> dict[str, Predictions]:
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
        options = [part for option in SMALL for part in ("-o", option)]
        done = rdbench(
            "run", "-m", ",".join(sorted(find_methods())), "--dataset", "toy", "--category", "twill", *options,
            "--image-size", "64", "--epochs", "1", "--precision", "fp32", "--no-gallery", "--out", out,
        )  # fmt: skip
        assert done.code == 0, done.err
        return {result.spec.method: read_predictions(path, result) for path, result in Store(out).results()}

    return run


def test_labels_change_nothing_that_a_method_says(run: Callable[..., dict[str, Predictions]], tmp_path: Path) -> None:
    """The same images with permuted labels: every score and uncertainty is the same to the bit, in the same order."""
    permuted = np.random.default_rng(0)
    true = run(tmp_path / "true", lambda labels: labels)
    shuffled = run(tmp_path / "shuffled", permuted.permutation)
    assert set(true) == set(shuffled) == set(find_methods())
    for name, said in true.items():
        again = shuffled[name]
        assert not np.array_equal(said.labels, again.labels), name
        for array in ("scores", "uncertainties", "member_scores", "calibration_scores"):
            assert np.array_equal(getattr(said, array), getattr(again, array)), f"{name}: {array}"
        aurocs = [
            evaluate_predictions(replace(said, labels=permuted.permutation(said.labels)), 0.1, resamples=0)[1]["clean"][
                "image_auroc"
            ].value
            for _ in range(200)
        ]
        assert np.mean(aurocs) == pytest.approx(0.5, abs=0.05), f"{name}: labels that mean nothing are told apart"

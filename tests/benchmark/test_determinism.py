"""An image's prediction is the same in whatever batch it comes, and in however many processes it was made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rdbench.benchmark.images import to_numpy
from rdbench.benchmark.kept import KeptMethod
from rdbench.benchmark.results import Predictions
from rdbench.benchmark.store import Store, read_predictions
from rdbench.datasets import load_category
from rdbench.datasets.decode import decode_batches
from tests.command import QUICK, Command
from tests.datasets import trees
from tests.same import predictions_of

METHODS = ("deterministic", "mc_batchnorm", "mc_dropout")
"""One pass; batch norm with drawn statistics; drawn masks."""


@pytest.fixture
def runs(rdbench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two categories in this process, then in two workers with as many threads each."""
    for category in ("bottle", "cable"):
        trees.mvtec_ad(tmp_path / "data", category, train=14)
    run = ("run", "--dataset", "mvtec_ad", "--root", tmp_path / "data", "-m", ",".join(METHODS), *QUICK)
    run += ("-o", "samples=3", "-o", "batch=2", "--no-gallery", "--keep-models")
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    for name, workers in {"one": (), "two": ("--workers", "2")}.items():
        done = rdbench(*run, *workers, "--out", tmp_path / name)
        assert done.code == 0, done.err
    return tmp_path


def test_predictions_are_the_same_in_any_batch_and_any_number_of_processes(runs: Path) -> None:
    assert predictions_of(runs / "one") == predictions_of(runs / "two"), "to the bit, with as many threads"
    cells = [(path, result) for path, result in Store(runs / "one").results() if result.spec.category == "bottle"]
    assert len(cells) == len(METHODS)
    for directory, result in cells:
        stored, kept = read_predictions(directory, result), KeptMethod(directory, result, None, "cpu", None)
        assert result.spec.method == "deterministic" or stored.uncertainties.max() > 0
        for size in (1, 5):
            assert apart(stored, kept, size, runs / "data") < 1e-5, f"{result.spec} in batches of {size}"


def apart(stored: Predictions, kept: KeptMethod, size: int, root: Path) -> float:
    """How far a run's predictions, in batches of 16, are from the kept model's in batches of `size`.

    Over calibration and test images, relative to the largest score: these uncertainties are differences of scores.
    """
    spec = kept.result.spec
    category = load_category(spec.dataset, spec.category, root, spec.seed)
    differences = []
    stored_of = {
        category.calibration: (
            stored.calibration_scores, stored.calibration_uncertainties, stored.calibration_members
        ),
        category.test: (stored.scores[0], stored.uncertainties[0], stored.member_scores[0]),
    }  # fmt: skip
    for images, before in stored_of.items():
        said = [kept.predict(batch) for batch in decode_batches(category, images, spec.image_size, size)]
        for name, array in zip(("anomaly_score", "uncertainty", "member_scores"), before, strict=True):
            parts = [to_numpy(part) for each in said if (part := getattr(each, name)) is not None]
            if parts or array.size:
                differences.append(np.abs(np.concatenate(parts, axis=-1) - array).max())
    return float(max(differences) / stored.scores.max())

"""Results made up from a seed, for tests of what reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rdbench.benchmark.results import (
    CLEAN,
    CellResult,
    CellSpec,
    Figure,
    Predictions,
    Provenance,
    Split,
    Threshold,
)


def make_spec(**changes: object) -> CellSpec:
    """A cell's spec; `changes` replace its fields."""
    fields = {
        "protocol": 1,
        "dataset": "toy",
        "category": "weave",
        "method": "tta",
        "options": {"shift": 4},
        "method_sha256": "0" * 64,
        "seed": 0,
        "backbone": "embedded",
        "weights": "embedded",
        "weights_sha256": "1" * 64,
        "image_size": (256, 256),
        "map_size": None,
        "epochs": 10,
        "batch_size": 16,
        "precision": "fp32",
        "conditions": (CLEAN, "lighting:3"),
        "fingerprint": "2" * 64,
    }
    return CellSpec.model_validate(fields | changes)


def make_result(spec: CellSpec, predictions_sha256: str = "3" * 64) -> CellResult:
    """A result that fits the spec."""
    figures = {"image_auroc": Figure(value=0.9, low=0.8, high=0.95)}
    return CellResult(
        spec=spec,
        provenance=Provenance(
            created="2026-01-01T00:00:00+00:00",
            rdbench="0.1.0",
            packages={},
            git_commit="",
            git_dirty=None,
            device="CPU",
            platform="Linux",
            threads=2,
        ),
        split=Split(train=60, calibration=12, test=60, test_anomalous=30, calibration_source="drawn", custom=""),
        threshold=Threshold(alpha=0.1, value=1.0, level=1 / 13, attained=True),
        cost={"train_seconds": Figure(value=1.0)},
        pixel={CLEAN: {"pixel_auroc": Figure(value=None, note="no anomalous image")}},
        image=dict.fromkeys(spec.conditions, figures),
        predictions_sha256=predictions_sha256,
        interval="made up",
    )


def make_predictions(seed: int = 0, images: int = 40, members: int = 3, shift: float = 2.0) -> Predictions:
    """Two conditions and two lightings; every part is seen under both; anomalous scores lie `shift` higher."""
    random = np.random.default_rng(seed)
    parts = np.repeat(np.arange(images // 2), 2)
    labels = (parts % 2).astype(np.int8)
    scores = random.normal(size=(2, images)).astype("f4") + shift * labels.astype("f4")
    return Predictions(
        conditions=(CLEAN, "lighting:3"),
        images=tuple(f"test/{i:03}" for i in range(images)),
        parts=parts.astype(str),
        labels=labels,
        defects=np.where(labels == 1, "bad", "good"),
        lightings=np.array(["regular", "overexposed"] * (images // 2)),
        scores=scores,
        uncertainties=np.exp(-np.abs(scores - 1)).astype("f4"),
        member_scores=np.stack([scores + random.normal(size=scores.shape) for _ in range(members)], 1).astype("f4"),
        calibration_scores=random.normal(size=19).astype("f4"),
        calibration_uncertainties=np.ones(19, "f4"),
        calibration_members=np.empty((0, 19), "f4"),
    )


def write_predictions(directory: Path, predictions: Predictions) -> Path:
    """The predictions as a file."""
    path = directory / "made_up.npz"
    predictions.save(path)
    return path

"""Results made up in the real schema, for tests of what reads them. Their figures are drawn and mean nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rdbench.benchmark.evaluate import INTERVAL, evaluate_predictions
from rdbench.benchmark.results import (
    PROTOCOL_VERSION,
    CellResult,
    CellSpec,
    Figure,
    Predictions,
    Provenance,
    Split,
    Threshold,
)
from rdbench.metrics.statistics import RESAMPLES
from rdbench.report.entries import Source

FRACTIONS = (
    "image_auroc", "image_ap", "fpr", "fnr", "ece", "brier", "false_alarm_gap", "prevalence", "error_rate",
)  # fmt: skip
SELECTIVE = ("augrc", "aurc", "e_aurc", "failure_auroc", "errors_caught_10")
COST = {
    "train_seconds": 40.0,
    "inference_ms": 12.0,
    "teacher_passes": 1.0,
    "decoder_passes": 1.0,
    "peak_memory_mb": 300.0,
}

MakeCell = Callable[..., CellResult]


def make_spec(**changes: object) -> CellSpec:
    """A cell's specification; `changes` replace its fields."""
    fields: dict[str, object] = {
        "protocol": PROTOCOL_VERSION, "dataset": "toy", "category": "grid", "method": "deterministic", "options": {},
        "method_sha256": "a" * 64, "seed": 0, "backbone": "resnet18",
        "weights": "torchvision/resnet18-f37072fd.pth", "weights_sha256": "b" * 64, "image_size": (256, 256),
        "map_size": None, "epochs": 10, "batch_size": 16, "precision": "fp32", "conditions": ("clean",),
        "fingerprint": "c" * 64,
    }  # fmt: skip
    return CellSpec.model_validate(fields | changes)


def make_cell(
    method: str = "deterministic",
    category: str = "grid",
    seed: int = 0,
    *,
    conditions: tuple[str, ...] = ("clean",),
    failures: int = 7,
    figures: dict[str, float | None] | None = None,
    custom: str = "",
    alpha: float = 0.1,
    predictions_sha256: str = "e" * 64,
    **spec: object,
) -> CellResult:
    """One cell; `figures` overrides drawn ones under every condition, `spec` fields of the specification."""
    rng = np.random.default_rng([seed, *f"{method}/{category}".encode()])

    def figure(value: float | None, note: str = "") -> Figure:
        if value is None:
            return Figure(value=None, note=note)
        return Figure(value=value, low=max(0.0, value - 0.04), high=min(1.0, value + 0.03))

    def image_figures(k: int) -> dict[str, Figure]:
        drawn = {name: float(rng.uniform(0.7, 0.99)) - 0.03 * k for name in FRACTIONS[:2]}
        drawn |= {name: float(rng.uniform(0.02, 0.3)) for name in FRACTIONS[2:]}
        made = {name: figure(value) for name, value in drawn.items()}
        made["failures"] = Figure(value=float(failures))
        for name in SELECTIVE:
            for control in ("", "_random", "_margin", "_oracle"):
                value = None if failures == 0 else float(rng.uniform(0.02, 0.2))
                made[name + control] = figure(value, "no failures")
        for name, value in (figures or {}).items():
            made[name] = figure(value, "made undefined")
        return made

    pixel = {"pixel_auroc": figure(float(rng.uniform(0.9, 0.99))), "aupro_30": figure(float(rng.uniform(0.7, 0.95)))}
    return CellResult(
        spec=make_spec(category=category, method=method, seed=seed, conditions=conditions, **spec),
        provenance=Provenance(
            created="2025-01-01T00:00:00Z", rdbench="0.1.0", packages={"torch": "2.8.0"}, git_commit="d" * 40,
            git_dirty=False, device="cpu", platform="Linux", threads=2,
        ),
        split=Split(
            train=60, calibration=12, test=60, test_anomalous=30, calibration_source="held out", custom=custom
        ),
        threshold=Threshold(alpha=alpha, value=1.0, level=alpha, attained=True),
        cost={name: Figure(value=value * float(rng.uniform(1, 3))) for name, value in COST.items()},
        pixel=dict.fromkeys(conditions, pixel),
        image={name: image_figures(k) for k, name in enumerate(conditions)},
        predictions_sha256=predictions_sha256,
        interval="made up",
    )  # fmt: skip


CONDITIONS = ("clean", "lighting:1", "lighting:3", "noise:3")


def make_predictions(
    method: str = "deterministic", category: str = "grid", seed: int = 0, images: int = 60
) -> Predictions:
    """Predictions with wrong decisions, of which the uncertainty knows something; parts of two images each."""
    scene = np.random.default_rng([1, *category.encode()])
    draws = np.random.default_rng([2, seed, *method.encode(), *category.encode()])
    labels = (scene.random(images) < 0.45).astype(np.int8)
    score = scene.normal(1, 0.9, images) + labels * scene.choice([0.4, 1.2, 2.5, 4.0], images)
    shift = np.array([0.0, 0.1, 0.5, 0.3])[:, None]
    shape = (len(CONDITIONS), images)
    scores = score + shift + draws.normal(0, 0.2, shape)
    calibration = draws.normal(1, 0.9, 24)
    skill = draws.uniform(0.3, 2.0)
    uncertainties = (
        np.exp(-skill * np.abs(scores - np.sort(calibration)[-3])) + draws.gamma(1, 0.25, shape) + shift / 10
    )
    return Predictions(
        conditions=CONDITIONS,
        images=tuple(f"test/{i:03d}" for i in range(images)),
        parts=np.array([f"part {i // 2}" for i in range(images)]),
        labels=labels,
        defects=np.where(labels == 1, "crack", "good"),
        lightings=np.full(images, ""),
        scores=scores.astype(np.float32),
        uncertainties=uncertainties.astype(np.float32),
        member_scores=np.zeros((len(CONDITIONS), 0, images), np.float32),
        calibration_scores=calibration.astype(np.float32),
        calibration_uncertainties=np.abs(calibration).astype(np.float32),
        calibration_members=np.empty((0, len(calibration)), np.float32),
    )


def make_source(method: str, category: str = "grid", seed: int = 0, *, resamples: int = 100, **spec: object) -> Source:
    """A cell whose image figures are those of its predictions; as in a run with `RESAMPLES`, which takes longer."""
    predictions = make_predictions(method, category, seed)
    threshold, image = evaluate_predictions(predictions, 0.1, resamples)
    cell = make_cell(method, category, seed, conditions=CONDITIONS, **spec)  # type: ignore[arg-type]
    interval = INTERVAL if resamples == RESAMPLES else f"made up: {resamples} resamples"
    cell = cell.model_copy(update={"threshold": threshold, "image": image, "interval": interval})
    return Source(cell, f"toy/{category}/{method}-s{seed}", lambda: predictions)


LIGHTINGS = ("overexposed", "regular", "underexposed")


def make_lit_source(method: str, category: str = "tile", seed: int = 0, **spec: object) -> Source:
    """A cell of a custom data set whose parts are each there under three real lightings; equal for `twin` methods.

    Its memory was not measured, as on a machine without a GPU.
    """
    parts = 40
    key = "deterministic" if method.startswith("twin") else method
    one = make_predictions(key, category, seed, parts)
    lightings = np.repeat(LIGHTINGS, parts)
    predictions = replace(
        one,
        conditions=("clean",),
        images=tuple(f"{name}_{light}" for light in LIGHTINGS for name in one.images),
        parts=np.tile([f"part {i}" for i in range(parts)], len(LIGHTINGS)),
        labels=np.tile(one.labels, len(LIGHTINGS)),
        defects=np.tile(one.defects, len(LIGHTINGS)),
        lightings=lightings,
        scores=np.concatenate([one.scores[k] for k in (3, 0, 2)])[None],
        uncertainties=np.concatenate([one.uncertainties[k] for k in (3, 0, 2)])[None],
        member_scores=np.zeros((1, 0, len(lightings)), np.float32),
    )
    threshold, image = evaluate_predictions(predictions, 0.1, 50)
    custom = f"{category} is not an official category of mvtec_ad2"
    cell = make_cell(method, category, seed, dataset="mvtec_ad2", custom=custom, **spec)  # type: ignore[arg-type]
    cost = cell.cost | {"peak_memory_mb": Figure(value=None, note="measured on a GPU only")}
    cell = cell.model_copy(update={"threshold": threshold, "image": image, "cost": cost})
    return Source(cell, f"mvtec_ad2/{category}/{method}-s{seed}", lambda: predictions)

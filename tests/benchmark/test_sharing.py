"""What the cells of a group share: students, fits that differ in predicting alone, and what an earlier run kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rdbench.benchmark import group
from rdbench.benchmark.results import CellResult, Predictions
from rdbench.benchmark.store import PREDICTIONS, open_store
from rdbench.errors import InputError
from rdbench.rd import training
from rdbench.rd.teacher import load_teacher
from rdbench.registry import find_methods
from tests.command import QUICK, Command
from tests.datasets import trees
from tests.same import predictions_of

pytestmark = pytest.mark.long

RUN = ("run", "--dataset", "mvtec_ad2", "--category", "vial", *QUICK)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seed of every training."""
    seeds: list[int] = []
    train_student = training.train_student

    def recorded(student, images, settings, seed, *arguments, **options):  # type: ignore[no-untyped-def]
        seeds.append(seed)
        return train_student(student, images, settings, seed, *arguments, **options)

    monkeypatch.setattr("rdbench.benchmark.fitting.train_student", recorded)
    return seeds


def cells(runs: Path) -> list[tuple[CellResult, Predictions]]:
    found = open_store(runs, create=False).results()
    return [(result, Predictions.load(path / PREDICTIONS)) for path, result in found]


def test_cells_that_differ_in_samples_share_a_training_and_agree_sample_by_sample(
    rdbench: Command, root: Path, tmp_path: Path, trained: list[int]
) -> None:
    runs = tmp_path / "runs"
    assert rdbench(*RUN, "--root", root, "--method", "mc_dropout", "-o", "samples=2,4", "--out", runs).code == 0
    assert len(trained) == 1
    few, many = sorted(cells(runs), key=lambda cell: cell[0].spec.options["samples"])
    assert np.array_equal(few[1].member_scores, many[1].member_scores[:, :2])
    assert np.array_equal(few[1].calibration_members, many[1].calibration_members[:2])
    costs = [cell[0].cost for cell in (few, many)]
    assert costs[0]["train_passes"] == costs[1]["train_passes"]
    assert [cost["decoder_passes"].value for cost in costs] == [2, 4]


def test_no_student_is_trained_twice_in_a_group(
    rdbench: Command, root: Path, tmp_path: Path, trained: list[int]
) -> None:
    methods = ("--method", "deterministic,deep_ensemble,tta", "-o", "members=1,2,3")
    assert rdbench(*RUN, "--root", root, *methods, "--out", tmp_path).code == 0
    assert sorted(trained)[0] == 0
    assert len(trained) == len(set(trained)) == 3
    passes = {
        str(result.spec.options.get("members", result.spec.method)): result.cost["train_passes"].value
        for result, _ in cells(tmp_path)
    }
    one = passes["deterministic"]
    assert one
    assert passes == {"deterministic": one, "tta": one, "1": one, "2": 2 * one, "3": 3 * one}


def test_members_trained_together_are_those_trained_one_by_one(
    rdbench: Command, root: Path, tmp_path: Path, trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a GPU trains them; `deterministic`'s own is trained by itself, for what it costs is its own figure."""
    run = (*RUN, "--root", root, "--method", "deep_ensemble,deterministic,bootstrap_ensemble", "-o", "members=5")
    assert rdbench(*run, "--out", tmp_path / "apart").code == 0
    one_by_one, together = trained[:5], []
    trained.clear()
    train_students = training.train_students

    def recorded(students, images, settings, seeds, *arguments):  # type: ignore[no-untyped-def]
        together.append(list(seeds))
        return train_students(students, images, settings, seeds, *arguments)

    monkeypatch.setattr("rdbench.benchmark.fitting.train_students", recorded)
    monkeypatch.setattr("rdbench.benchmark.fitting.trained_at_once", lambda *_: 3)
    done = rdbench(*run, "--out", tmp_path / "beside")
    assert done.code == 0
    assert together == [one_by_one[1:4]]
    assert trained[:2] == [one_by_one[0], one_by_one[4]]
    assert predictions_of(tmp_path / "beside") == predictions_of(tmp_path / "apart")
    apart, beside = (
        {r.spec.method: r.cost["train_passes"] for r, _ in cells(tmp_path / o)} for o in ("apart", "beside")
    )
    assert apart == beside
    assert "networks trained: 10, where cells run one by one train 11" in done.error()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, InputError])
def test_members_that_fail_together_are_trained_one_by_one(
    error: type[Exception],
    rdbench: Command,
    root: Path,
    tmp_path: Path,
    trained: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One's loss, or memory for all at once, is not the others' fault."""

    def full(students, images, settings, seeds, *arguments):  # type: ignore[no-untyped-def]
        training.train_students(students[:1], images, settings, seeds[:1], *arguments)
        raise error("one of them failed")

    monkeypatch.setattr("rdbench.benchmark.fitting.train_students", full)
    monkeypatch.setattr("rdbench.benchmark.fitting.trained_at_once", lambda *_: 3)
    done = rdbench(*RUN, "--root", root, "--method", "deep_ensemble", "-o", "members=3", "--out", tmp_path)
    assert done.code == 0
    assert len(trained) == len(set(trained)) == 3
    [(result, _)] = cells(tmp_path)
    images = result.split.train
    assert result.cost["train_passes"].value == 3 * images
    assert "networks trained: 3, where cells run one by one train 3" in done.error()
    assert "2 networks together failed, so they are trained one by one: one of them failed" in done.error()


def test_a_kept_deterministic_student_is_used_again(
    rdbench: Command, root: Path, tmp_path: Path, trained: list[int]
) -> None:
    apart, beside = tmp_path / "apart", tmp_path / "beside"
    assert rdbench(*RUN, "--root", root, "--method", "deterministic", "--keep-models", "--out", apart).code == 0
    assert rdbench(*RUN, "--root", root, "--method", "scale_disagreement", "--out", apart).code == 0
    assert len(trained) == 1
    assert rdbench(*RUN, "--root", root, "--method", "scale_disagreement", "--out", beside).code == 0
    assert len(trained) == 2
    [(kept, again)] = [cell for cell in cells(apart) if cell[0].spec.method == "scale_disagreement"]
    [(fresh, own)] = cells(beside)
    assert np.array_equal(again.scores, own.scores)
    assert kept.cost["train_passes"] == fresh.cost["train_passes"]


ALONE = {
    "batch_ensemble": 1, "bootstrap_ensemble": 2, "conformal": 2, "decoder_ensemble": 2, "deep_ensemble": 2,
    "deterministic": 1, "heteroscedastic": 2, "knn": 1, "laplace": 1, "mahalanobis": 1, "masksembles": 1,
    "mc_batchnorm": 1, "mc_dropout": 1, "noise_tta": 1, "packed_ensemble": 1, "rejex": 1, "scale_disagreement": 1,
    "snapshot_ensemble": 2, "swag": 2, "tta": 1, "tta_geometric": 1, "tta_photometric": 1,
}  # fmt: skip
"""Trainings that each method takes by itself, with two members, folds or cycles."""

ON_DETERMINISTIC = {
    "decoder_ensemble", "deep_ensemble", "deterministic", "heteroscedastic", "knn", "laplace", "mahalanobis",
    "mc_batchnorm", "noise_tta", "rejex", "scale_disagreement", "swag", "tta", "tta_geometric", "tta_photometric",
}  # fmt: skip
"""Methods one of whose trainings is the `deterministic` student's."""

VIEWS = {"tta": 12, "tta_geometric": 8, "tta_photometric": 4}
"""Changed images that a method passes through the teacher for each image."""


def test_all_methods_pass_each_image_through_the_teacher_once_and_train_no_network_twice(
    rdbench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees.mvtec_ad(tmp_path / "data", train=26)  # 10 of them to calibrate on
    train, calibration, test, conditions = 16, 10, 6, 3
    weights: list[bytes] = []
    train_student, run_group = training.train_student, group.run_group

    def recorded(*arguments, **options):  # type: ignore[no-untyped-def]
        student = train_student(*arguments, **options)
        weights.append(b"".join(tensor.numpy().tobytes() for tensor in student.state_dict().values()))
        return student

    outcomes: list[group.GroupOutcome] = []
    monkeypatch.setattr("rdbench.benchmark.fitting.train_student", recorded)

    def kept_outcome(*arguments, **options):  # type: ignore[no-untyped-def]
        outcomes.append(run_group(*arguments, **options))
        return outcomes[-1]

    monkeypatch.setattr(group, "run_group", kept_outcome)
    methods = ",".join(find_methods())
    few = [part for name in ("members", "folds", "samples", "draws") for part in ("-o", f"{name}=2")]
    done = rdbench(
        "run", "--dataset", "mvtec_ad", "--root", tmp_path / "data", "--method", methods, *few, "-o",
        "mc_batchnorm.batch=4", "--shift", "lighting:3", "--shift", "viewpoint:3", "--backbone", "embedded",
        "--image-size", "32", "--epochs", "1", "--batch-size", "4", "--precision", "fp32", "--no-gallery",
        "--out", tmp_path / "runs",
    )  # fmt: skip
    assert done.code == 0
    [outcome] = outcomes
    sharing = outcome.sharing
    assert sharing.images == train + calibration + test * conditions
    views, asked = sum(VIEWS.values()), calibration + test * conditions
    # Alone: one image counted, then timed four times; then the first batch once more.
    alone = 1 + 4
    assert sharing.passes == {
        "shared": sharing.images,
        "views": views * asked,
        "measuring": alone * (len(ALONE) + views) + 4 * views,
    }
    assert len(set(weights)) == len(weights) == sharing.trained
    assert sharing.alone == sum(ALONE[name] for name in find_methods())
    assert sharing.trained == sharing.alone - len(ON_DETERMINISTIC) + 1
    assert "shared: 44 images in 44 passes through the teacher, for all methods together" in done.error()
    assert f"further passes: {views * asked} for images that methods changed" in done.error()
    assert f"networks trained: {sharing.trained}, where cells run one by one train {sharing.alone}" in done.error()


def test_runs_of_a_sweep_that_differ_in_their_shifts_share_one_training(
    rdbench: Command, root: Path, trained: list[int], tmp_path: Path
) -> None:
    sweep, out = tmp_path / "sweep.yaml", tmp_path / "runs"
    sweep.write_text(f"""\
defaults: {{datasets: [mvtec_ad2], categories: [vial], root: {root}, backbones: [embedded], image_size: 64, epochs: 1,
  precision: fp32, gallery: false}}
runs:
  - methods: [deterministic]
  - methods: [scale_disagreement]
    shifts: [exposure:3]
""")
    done = rdbench("sweep", sweep, "--out", out)
    assert done.code == 0, done.err
    assert len(cells(out)) == 2
    assert len(trained) == 1
    assert "nothing is at work here" in rdbench("status", out).out
    assert "left over" not in rdbench("status", out).out
    assert rdbench("sweep", sweep, "--out", out).code == 0
    assert len(trained) == 1


def test_a_group_that_fails_is_said_though_its_cells_are_there_without_their_models(
    rdbench: Command, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = (*RUN, "--root", root, "--method", "deterministic", "--no-gallery", "--out", tmp_path)
    assert rdbench(*run).code == 0

    def out_of_memory(*_: object, **__: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(group, "run_group", out_of_memory)
    assert rdbench(*run).code == 0, "it is there"
    done = rdbench(*run, "--keep-models")
    assert done.code == 1
    assert "MemoryError: no room" in done.error()


def test_a_kept_method_that_fails_is_said(rdbench: Command, root: Path, tmp_path: Path) -> None:
    """Here a weights file is gone; a file that needs a package that is not installed ends the same way."""
    run = (*RUN, "--root", root, "-m", "deterministic", "--no-gallery", "--keep-models")
    assert rdbench(*run, "--out", tmp_path / "runs").code == 0
    ((path, _),) = open_store(tmp_path / "runs", create=False).results()
    (path / "model" / "threshold.json").unlink()
    trees.draw(tmp_path / "image.png", (64, 64))
    done = rdbench("predict", path, tmp_path / "image.png")
    assert done.code == 2
    assert "method deterministic failed: FileNotFoundError" in done.error()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_students_are_trained_on_what_the_teacher_says_in_float32(
    precision: str, rdbench: Command, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bf16 the features are rounded once, to be kept; the teacher's own sums are not."""
    given: list[tuple[torch.Tensor, torch.Tensor]] = []
    train_student = training.train_student

    def recorded(student, images, *arguments, **options):  # type: ignore[no-untyped-def]
        given.append((images.batch([0, 1]).images, images.batch([0, 1]).features[-1]))
        return train_student(student, images, *arguments, **options)

    monkeypatch.setattr("rdbench.benchmark.fitting.train_student", recorded)
    done = rdbench(*RUN, "--root", root, "--method", "deterministic", "--precision", precision, "--out", tmp_path)
    assert done.code == 0, done.err
    ((images, features),) = given
    with torch.inference_mode():
        exact = load_teacher("embedded", None, torch.device("cpu"))(images)[-1]
    kept = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    assert features.dtype == kept
    rounding = 2**-8 if precision == "bf16" else 1e-5
    assert ((features.float() - exact).abs() <= rounding * exact.abs() + 1e-5).all()

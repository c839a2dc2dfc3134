"""What the cells of a group share: students, fits that differ in predicting alone, and what an earlier run kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rdbench.benchmark.results import CellResult, Predictions
from rdbench.benchmark.store import PREDICTIONS, open_store
from rdbench.rd import training
from tests.command import Command

TOY = ("run", "--dataset", "toy", "--category", "twill", "--image-size", "64", "--epochs", "1", "--precision", "fp32")


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
    rdbench: Command, tmp_path: Path, trained: list[int]
) -> None:
    runs = tmp_path / "runs"
    assert rdbench(*TOY, "--method", "mc_dropout", "-o", "samples=2,4", "--out", runs).code == 0
    assert len(trained) == 1
    few, many = sorted(cells(runs), key=lambda cell: cell[0].spec.options["samples"])
    assert np.array_equal(few[1].member_scores, many[1].member_scores[:, :2])
    assert np.array_equal(few[1].calibration_members, many[1].calibration_members[:2])
    costs = [cell[0].cost for cell in (few, many)]
    assert costs[0]["train_passes"] == costs[1]["train_passes"]
    assert [cost["decoder_passes"].value for cost in costs] == [2, 4]


def test_no_student_is_trained_twice_in_a_group(rdbench: Command, tmp_path: Path, trained: list[int]) -> None:
    methods = ("--method", "deterministic,deep_ensemble,tta", "-o", "members=1,2,3")
    assert rdbench(*TOY, *methods, "--out", tmp_path).code == 0
    assert sorted(trained)[0] == 0
    assert len(trained) == len(set(trained)) == 3
    passes = {
        str(result.spec.options.get("members", result.spec.method)): result.cost["train_passes"].value
        for result, _ in cells(tmp_path)
    }
    one = passes["deterministic"]
    assert one
    assert passes == {"deterministic": one, "tta": one, "1": one, "2": 2 * one, "3": 3 * one}


def test_a_kept_deterministic_student_is_used_again(rdbench: Command, tmp_path: Path, trained: list[int]) -> None:
    apart, beside = tmp_path / "apart", tmp_path / "beside"
    assert rdbench(*TOY, "--method", "deterministic", "--keep-models", "--out", apart).code == 0
    assert rdbench(*TOY, "--method", "tta", "--out", apart).code == 0
    assert len(trained) == 1
    assert rdbench(*TOY, "--method", "tta", "--out", beside).code == 0
    assert len(trained) == 2
    [(kept, again)] = [cell for cell in cells(apart) if cell[0].spec.method == "tta"]
    [(fresh, own)] = cells(beside)
    assert np.array_equal(again.scores, own.scores)
    assert kept.cost["train_passes"] == fresh.cost["train_passes"]

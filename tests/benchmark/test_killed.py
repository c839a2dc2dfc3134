"""A killed run keeps what is finished, and the same command ends where an undisturbed run does, bit for bit."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from rdbench.benchmark.store import PREDICTIONS, Store, read_predictions
from tests.command import QUICK, start
from tests.datasets import trees

pytestmark = pytest.mark.long

METHODS = "deterministic,mc_dropout,deep_ensemble"


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    root = tmp_path_factory.mktemp("ad2")
    for category in ("rice", "vial"):
        trees.mvtec_ad2(root, category)
    return ["run", "-m", METHODS, "--dataset", "mvtec_ad2", "--root", root, "-o", "members=2", *QUICK]


def finish(arguments: list[object], out: Path) -> None:
    process = start(*arguments, "--out", out)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def cells(out: Path) -> dict[Path, bytes]:
    """Each cell's predictions file, checked to be readable."""
    found = {}
    for directory, result in Store(out).results():
        read_predictions(directory, result)
        found[directory.relative_to(out)] = (directory / PREDICTIONS).read_bytes()
    return found


def test_three_kills_change_nothing(arguments: list[object], tmp_path: Path) -> None:
    finish(arguments, tmp_path / "undisturbed")
    moments = random.Random(0)
    killed = tmp_path / "killed"
    for line in ("mc_dropout", "deep_ensemble", "cells 4 to 6"):
        process = start(*arguments, "--out", killed)
        assert process.stderr is not None
        assert any(line in printed for printed in process.stderr), f"no line {line!r} to kill at"
        time.sleep(moments.uniform(0, 0.5))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the run ended before it was killed"
        cells(killed)
    finish(arguments, killed)
    assert cells(killed) == cells(tmp_path / "undisturbed")
    assert len(cells(killed)) == 6
    for directory, result in Store(killed).results():
        undisturbed = Store(tmp_path / "undisturbed").load(result.spec)
        assert (result.image, result.pixel, result.threshold) == (
            undisturbed.image,
            undisturbed.pixel,
            undisturbed.threshold,
        )
        assert not list(directory.glob(".*")), "nothing half-written is left"


def test_ctrl_c_says_that_the_work_is_kept(arguments: list[object], tmp_path: Path) -> None:
    process = start(*arguments, "--epochs", "1000", "--out", tmp_path / "runs")
    assert process.stderr is not None
    for line in process.stderr:
        if "fitting" in line:
            break
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 130
    assert "the same command goes on" in errors
    assert "Traceback" not in errors

"""What the machine does to a run: killed at any moment, no room, no right to write, images that change under it.

Whatever happens, finished cells stay whole, the message says what to do, and the same command ends where an undisturbed
run does, bit for bit.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdbench.benchmark.store import Store
from tests.command import QUICK, Command, start
from tests.datasets import trees
from tests.same import predictions_of

pytestmark = pytest.mark.long

METHODS = ("-m", "deterministic,mc_dropout", "-o", "samples=2")


def command(root: Path, out: Path, *more: object) -> tuple[object, ...]:
    return ("run", *METHODS, "--dataset", "mvtec_ad2", "--root", root, *QUICK, "--no-gallery", *more, "--out", out)


@pytest.fixture(scope="module")
def undisturbed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, bytes]:
    out = tmp_path_factory.mktemp("undisturbed")
    done = start(*command(root, out)).done()
    assert done.code == 0, done.err
    cells = predictions_of(out)
    assert len(cells) == 4
    return cells


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 30 MB: room to start, not for all that is fitted."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_costs_no_finished_cell(root: Path, undisturbed: dict[Path, bytes], small_disk: Path) -> None:
    out = small_disk / "runs"
    done = start(*command(root, out)).done()
    assert done.code == 1
    assert "No space left on device" in done.error()
    assert "Traceback" not in done.err
    for path, content in predictions_of(out).items():
        assert content == undisturbed[path]
    subprocess.run(["mount", "-o", "remount,size=2g", small_disk], check=True)
    assert start(*command(root, out)).done().code == 0
    assert predictions_of(out) == undisturbed


def test_a_folder_that_cannot_be_written_is_said_before_any_work(root: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    done = start(*command(root, small_disk / "runs")).done()
    assert done.code == 2
    assert f"cannot write results to {small_disk}/runs: Read-only file system; choose another --out" in done.error()


SABOTAGE = '''"""Damages an image of another category while it is fitted."""
import os
from dataclasses import dataclass
from pathlib import Path
import torch
from rdbench.protocol import Prediction

@dataclass
class Sabotage:
    def fit(self, train, context):
        image = Path(os.environ["SABOTAGED"])
        if "vial" in str(image) and image.exists():
            if os.environ["HOW"] == "deleted":
                image.unlink()
            else:
                image.write_bytes(image.read_bytes()[:60])
    def predict(self, batch):
        scores = torch.rand(len(batch))
        return Prediction(torch.ones(len(batch), *batch.images.shape[-2:]), scores, scores)
    def save(self, directory): pass
    def load(self, directory, context): pass
'''


@pytest.mark.parametrize("how", ["deleted", "truncated"])
def test_an_image_that_goes_bad_during_a_run(
    root: Path, undisturbed: dict[Path, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It costs its category alone; restored, the same command does the rest."""
    data, mine, out = tmp_path / "data", tmp_path / "mine", tmp_path / "runs"
    shutil.copytree(root, data)
    mine.mkdir()
    (mine / "sabotage.py").write_text(SABOTAGE)
    image = sorted((data / "vial/test_public/good").iterdir())[0]
    whole = image.read_bytes()
    monkeypatch.setenv("SABOTAGED", str(image))
    monkeypatch.setenv("HOW", how)
    arguments = command(data, out, "-m", "sabotage", "--methods-dir", mine)
    done = start(*arguments).done()
    assert done.code == 2
    assert "vial" in done.err
    assert image.name in done.error() or "are not those that the run was planned with" in done.error()
    assert {path.parts[1] for path in predictions_of(out)} == {"rice"}
    image.write_bytes(whole)
    monkeypatch.setenv("SABOTAGED", "")
    assert start(*arguments).done().code == 0
    cells = predictions_of(out)
    assert {path: cells[path] for path in undisturbed} == undisturbed


def test_images_that_change_while_they_are_read_make_no_result(
    rdbench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trees.mvtec_ad2(tmp_path / "data")
    monkeypatch.setattr("rdbench.benchmark.group.decode_masks", lambda *arguments: change_then(folder, arguments))
    done = rdbench(
        "run", "-m", "deterministic", "--dataset", "mvtec_ad2", "--root", tmp_path / "data", *QUICK,
        "--out", tmp_path / "runs",
    )  # fmt: skip
    assert done.code == 2
    assert "images of mvtec_ad2/vial were changed while they were read" in done.error()
    assert not predictions_of(tmp_path / "runs")


def change_then(folder: Path, arguments: tuple[object, ...]) -> object:
    from rdbench.datasets.decode import decode_masks

    trees.draw(sorted((folder / "train/good").iterdir())[0], seed=99)
    return decode_masks(*arguments)  # type: ignore[arg-type]


def test_two_runs_on_one_folder_do_each_cell_once(root: Path, undisturbed: dict[Path, bytes], tmp_path: Path) -> None:
    """Started together, they share the groups out or one steps back with a reason; none spoils the other's cells."""
    together = [start(*command(root, tmp_path)) for _ in range(2)]
    ended = [run.done() for run in together]
    for done in ended:
        assert done.code in (0, 2)
        assert done.code == 0 or "at work on" in done.error()
        assert "Traceback" not in done.err
    if any(done.code for done in ended):
        assert start(*command(root, tmp_path)).done().code == 0
    assert predictions_of(tmp_path) == undisturbed


def test_what_is_there_after_faults_is_what_the_store_says(root: Path, tmp_path: Path) -> None:
    """A cell directory without its result, as only a broken disk leaves it, is run again."""
    assert start(*command(root, tmp_path)).done().code == 0
    before = predictions_of(tmp_path)
    victim = sorted(before)[0]
    (tmp_path / victim / "result.json").unlink()
    assert len(list(Store(tmp_path).results())) == len(before) - 1
    assert start(*command(root, tmp_path)).done().code == 0
    assert predictions_of(tmp_path) == before

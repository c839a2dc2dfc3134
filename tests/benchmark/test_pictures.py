"""What a run draws of its test images, and what `rdbench predict` draws of others, through the command line."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdbench.benchmark.gallery import GALLERY, read_gallery
from rdbench.benchmark.store import RESULT, Store, read_predictions, read_result
from tests.command import Command, start
from tests.datasets import trees

RUN = ("run", "--dataset", "toy", "-c", "twill", "--image-size", "64", "--epochs", "1", "--precision", "fp32")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two methods."""
    out = tmp_path_factory.mktemp("pictures") / "runs"
    done = start(*RUN, "-m", "deterministic,mc_dropout", "-o", "samples=2", "--keep-models", "--out", out).done()
    assert done.code == 0, done.err
    return out


def cell(runs: Path, method: str) -> Path:
    [found] = [directory for directory, result in Store(runs).results() if result.spec.method == method]
    return found


def test_a_cell_keeps_few_small_pictures_of_its_own_test_images(runs: Path) -> None:
    for directory, result in Store(runs).results():
        gallery = read_gallery(directory)
        assert gallery is not None
        assert gallery.threshold == result.threshold.value
        assert 2 <= len(gallery.pictures) <= 4
        assert {path.name for path in (directory / GALLERY).iterdir()} == {
            "gallery.json", *(picture.file for picture in gallery.pictures)
        }  # fmt: skip
        panels = 2 if gallery.uncertainty_end is None else 3
        for picture in gallery.pictures:
            with Image.open(directory / GALLERY / picture.file) as image:
                assert image.width == pytest.approx(panels * image.height, rel=0.05)
            assert (directory / GALLERY / picture.file).stat().st_size < 60_000


def test_drawing_is_no_part_of_the_cost(runs: Path) -> None:
    costs = {result.spec.method: result.cost for _, result in Store(runs).results()}
    assert costs["deterministic"]["decoder_passes"].value == 1
    assert costs["mc_dropout"]["decoder_passes"].value == 2


def test_a_published_entry_holds_no_picture(
    rdbench: Command, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rdbench("submit", runs, "--out", tmp_path / "results").code == 0
    assert rdbench("leaderboard", "--runs", runs, "--out", tmp_path / "own").code == 0
    assert list((tmp_path / "own").rglob("*.jpg"))
    assert {path.suffix for path in (tmp_path / "results").rglob("*") if path.is_file()} == {".json"}
    monkeypatch.chdir(tmp_path)  # where there is no run of one's own
    published = ("leaderboard", "--results", tmp_path / "results")
    assert rdbench(*published, "--out", tmp_path / "published").code == 0
    assert rdbench("report", runs, "--no-gallery", "--out", tmp_path / "plain").code == 0
    for site in ("published", "plain"):
        assert not list((tmp_path / site).rglob("*.jpg"))


def test_a_run_may_go_without_pictures(rdbench: Command, tmp_path: Path) -> None:
    assert rdbench(*RUN, "-m", "deterministic", "--no-gallery", "--out", tmp_path).code == 0
    assert not (cell(tmp_path, "deterministic") / GALLERY).exists()


def test_pictures_that_fail_cost_no_cell(rdbench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(directory: Path, *_: object) -> None:
        (directory / "half.jpg").touch()
        raise OSError("No space left on device")

    monkeypatch.setattr("rdbench.benchmark.group.write_gallery", fail)
    done = rdbench(*RUN, "-m", "deterministic", "--out", tmp_path)
    assert done.code == 0
    assert "no pictures of deterministic on toy/twill, seed 0: OSError: No space left on device" in done.error()
    assert not (cell(tmp_path, "deterministic") / GALLERY).exists()


def test_what_is_more_uncertain_than_nine_in_ten_normal_images_goes_to_review(
    rdbench: Command, runs: Path, tmp_path: Path
) -> None:
    """Of few calibration images too, where a conformal threshold would be the largest of them."""
    image = trees.draw(tmp_path / "image.png", (64, 64))
    directory = cell(runs, "deterministic")
    done = rdbench("predict", directory, image)
    assert done.code == 0
    assert "Warning" not in done.err
    limit = float(re.search(r"review above ([\d.e-]+)\)", done.out)[1])  # type: ignore[index]
    known = read_predictions(directory, read_result(directory / RESULT)).calibration_uncertainties
    assert 0 < (known > limit).sum() <= 0.1 * len(known)
    assert "which keeps" not in done.out


def test_a_threshold_that_keeps_another_level_says_so(rdbench: Command, runs: Path, tmp_path: Path) -> None:
    other = tmp_path / "runs"
    shutil.copytree(runs, other)
    assert rdbench("evaluate", other, "--alpha", "0.01", "--no-intervals").code == 0
    done = rdbench("predict", cell(other, "deterministic"), trees.draw(tmp_path / "image.png", (64, 64)))
    assert re.search(r"threshold [\d.]+, which keeps 0.0\d+ and not alpha 0.01\), ", done.out)


def test_prediction_goes_on_past_an_image_that_cannot_be_read(rdbench: Command, runs: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "crack"
    folder.mkdir()
    for name in ("first", "last"):
        Image.fromarray(rng.integers(0, 255, (40, 90, 3), np.uint8)).save(folder / f"{name}.png")
    (folder / "broken.png").write_text("no image")
    images = [folder / f"{name}.png" for name in ("first", "broken", "last")]
    done = rdbench("predict", cell(runs, "mc_dropout"), *images, "--out", tmp_path / "figures")
    assert done.code == 2
    lines = done.out.splitlines()
    assert [line.split(":")[0] for line in lines] == [str(images[0]), str(images[2])]
    assert all("anomalous (score" in line or "normal (score" in line for line in lines)
    assert done.error().count("Error: ") == 1
    assert str(images[1]) in done.error()
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        "000-crack-first.png",
        "002-crack-last.png",
    ]
    assert rdbench("predict", cell(runs, "mc_dropout"), images[0]).code == 0
    assert "is a folder, not an image" in rdbench("predict", cell(runs, "mc_dropout"), folder).error()
    done = rdbench("predict", runs, images[0])
    assert done.code == 2
    assert f"{runs} is no cell's directory: it holds no result.json; name a cell's, such as {runs}" in done.error()

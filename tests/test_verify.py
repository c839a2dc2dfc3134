"""`rdbench verify`: what is as it was is said to be so, and whatever was changed shows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdbench.benchmark.results import CellResult, Figure, Predictions
from rdbench.benchmark.store import PREDICTIONS, RESULT, open_store, sha256
from rdbench.verify import compare
from tests.command import QUICK, Command, Done
from tests.datasets import trees
from tests.made_up import make_cell, make_predictions

pytestmark = pytest.mark.long

RUN = ("--method", "deterministic,tta", "--shift", "exposure:2", *QUICK, "--image-size", "32")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    trees.mvtec_ad2(folder)
    return folder


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("whole") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        from tests.command import start

        patch.setenv("RDBENCH_CACHE", str(runs.parent / "cache"))
        assert start("run", *RUN, "--dataset", "mvtec_ad2", "--root", root, "--out", runs).done().code == 0
    return runs


@pytest.fixture
def runs(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "runs")
    return tmp_path / "runs"


def cell_of(runs: Path, method: str) -> Path:
    [path] = [path for path, result in open_store(runs, create=False).results() if result.spec.method == method]
    return path


def lines(done: Done) -> list[str]:
    return [line.strip() for line in done.out.splitlines()]


def test_an_untouched_run_is_reproduced_bit_for_bit(rdbench: Command, runs: Path, root: Path) -> None:
    done = rdbench("verify", runs, "--cells", 2, "--root", root)
    assert done.code == 0
    assert "image figures: 2 reproduced from the stored predictions" in lines(done)
    assert "run again: 2 reproduced" in lines(done)
    assert sum("bit for bit" in line for line in lines(done)) == 2
    assert "pixel figures are checked in the cells that are run again alone, costs never" in lines(done)


def test_an_entry_is_verified_as_a_run_is(rdbench: Command, runs: Path, root: Path, tmp_path: Path) -> None:
    assert rdbench("submit", runs, "--out", tmp_path / "entries").code == 0
    entry = tmp_path / "entries" / "mvtec_ad2" / "tta.json"
    done = rdbench("verify", entry, "--cells", 1, "--root", root)
    assert done.code == 0
    assert "run again: 1 reproduced" in lines(done)
    without_data = rdbench("verify", entry, "--cells", 1)
    assert without_data.code == 3
    assert "run again: 1 not possible" in lines(without_data)
    assert "no cell could be run again:" in without_data.out
    assert "no folder given for mvtec_ad2" in without_data.out


def test_a_figure_that_was_changed_shows(rdbench: Command, runs: Path) -> None:
    path = cell_of(runs, "tta") / RESULT
    content = json.loads(path.read_text())
    content["image"]["clean"]["augrc"]["value"] /= 2
    path.write_text(json.dumps(content))
    done = rdbench("verify", runs, "--cells", 0)
    assert done.code == 1
    assert "image figures: 1 reproduced from the stored predictions, 1 differs" in lines(done)
    assert any("clean, augrc" in line and "but the predictions give" in line for line in lines(done))


def changed_predictions(cell: Path) -> None:
    """Better scores for the anomalous images, and everything that follows from them made to agree."""
    from rdbench.benchmark.evaluate import evaluate_predictions

    predictions = Predictions.load(cell / PREDICTIONS)
    predictions.scores[:, predictions.labels == 1] += np.float32(1)
    predictions.save(cell / PREDICTIONS)
    content = json.loads((cell / RESULT).read_text())
    threshold, image = evaluate_predictions(predictions, 0.1)
    content["predictions_sha256"] = sha256(cell / PREDICTIONS)
    content["threshold"] = threshold.model_dump(mode="json")
    content["image"] = {
        condition: {name: figure.model_dump(mode="json") for name, figure in figures.items()}
        for condition, figures in image.items()
    }
    (cell / RESULT).write_text(json.dumps(content))


def test_predictions_that_were_changed_with_all_figures_show_when_run_again(
    rdbench: Command, runs: Path, root: Path
) -> None:
    changed_predictions(cell_of(runs, "tta"))
    done = rdbench("verify", runs, "--cells", 2, "--root", root)
    assert done.code == 1
    assert "image figures: 2 reproduced from the stored predictions" in lines(done)
    assert "run again: 1 reproduced, 1 differs" in lines(done)


def test_a_spec_that_was_changed_shows(rdbench: Command, runs: Path) -> None:
    result = cell_of(runs, "tta") / RESULT
    content = json.loads(result.read_text())
    content["spec"]["epochs"] = 50
    result.write_text(json.dumps(content))
    done = rdbench("verify", runs, "--cells", 0)
    assert done.code == 1
    assert "1 reproduced from the stored predictions, 1 differs" in done.out
    assert "is not its name: the spec was changed" in done.out


def test_predictions_without_their_hash_show(rdbench: Command, runs: Path) -> None:
    path = cell_of(runs, "deterministic") / PREDICTIONS
    path.write_bytes(path.read_bytes()[:-20])
    done = rdbench("verify", runs, "--cells", 0)
    assert done.code == 1
    assert "image figures: 1 reproduced from the stored predictions, 1 damaged" in lines(done)
    assert "is not what the result was computed from" in done.out


def test_damaged_cells_are_named_and_the_others_checked(rdbench: Command, runs: Path) -> None:
    result = cell_of(runs, "tta") / RESULT
    bare = result.parent.with_name("tta-s7-0123456789")
    bare.mkdir()
    result.write_bytes(result.read_bytes()[:-100])
    done = rdbench("verify", runs, "--cells", 0)
    assert done.code == 1
    assert "image figures: 1 reproduced from the stored predictions, 2 damaged" in lines(done)
    for directory in (result.parent, bare):
        [line] = [line for line in lines(done) if line.startswith(str(directory.relative_to(runs)))]
        assert str(directory / RESULT) in line


def test_other_images_or_another_method_file_are_not_run_again(
    rdbench: Command, runs: Path, root: Path, tmp_path: Path
) -> None:
    shutil.copytree(root, tmp_path / "other")
    image = next((tmp_path / "other").rglob("train/good/*.png"))
    shutil.copy(next((tmp_path / "other").rglob("test_public/bad/*.png")), image)
    done = rdbench("verify", runs, "--cells", 1, "--root", tmp_path / "other")
    assert done.code == 3
    assert "the images are others: fingerprint is" in done.out
    path = cell_of(runs, "tta") / RESULT
    content = json.loads(path.read_text())
    content["spec"]["method_sha256"] = "0" * 64
    path.write_text(json.dumps(content))
    shutil.rmtree(cell_of(runs, "deterministic"))
    done = rdbench("verify", runs, "--cells", 1, "--root", root)
    assert "is not the file that it was run with (SHA-256 000000000000)" in done.out


def test_that_nothing_could_be_run_again_is_said_and_is_an_exit_code_where_it_was_asked_for(
    rdbench: Command, runs: Path
) -> None:
    unsaid = "no cell could be run again: that the predictions come of these images and methods is not verified"
    asked, not_asked, none = (rdbench("verify", runs, *cells) for cells in (("--cells", 2), (), ("--cells", 0)))
    assert [done.code for done in (asked, not_asked, none)] == [3, 0, 0]
    assert [unsaid in lines(done) for done in (asked, not_asked, none)] == [True, True, False]
    path = cell_of(runs, "tta") / PREDICTIONS
    path.write_bytes(b"")
    assert rdbench("verify", runs, "--cells", 2).code == 1, "what differs comes first"


def test_what_is_the_same_but_for_rounding_is_reproduced() -> None:
    cell, stored = made_up()
    again = replace(stored, scores=stored.scores + np.float32(1e-6))
    assert compare(cell, stored, cell, stored).words == "bit for bit"
    verdict = compare(cell, stored, cell, again)
    assert verdict.outcome == "reproduced"
    assert "of their standard deviation" in verdict.words


def test_what_was_made_with_other_threads_is_no_forgery_but_not_comparable_here() -> None:
    """Training differs between them by more than rounding, for no fault of whoever published the cell."""
    cell, stored = made_up()
    moved = replace(stored, scores=stored.scores + np.float32(1))
    assert compare(cell, stored, cell, moved).outcome == "differs"
    one, two = (
        cell.model_copy(update={"provenance": cell.provenance.model_copy(update={"threads": threads})})
        for threads in (1, 2)
    )
    verdict = compare(one, stored, two, moved)
    assert verdict.outcome == "not comparable here"
    assert "(threads: 1, here 2)" in verdict.words
    assert verdict.words.endswith("verify it with OMP_NUM_THREADS=1")
    assert compare(one, stored, two, stored).outcome == "reproduced"
    other_labels = replace(stored, labels=1 - stored.labels)
    assert compare(one, stored, two, other_labels).outcome == "differs", "no number of threads does that"
    better = one.model_copy(deep=True)
    better.pixel["clean"]["aupro_30"] = Figure(value=0.999)
    assert compare(better, stored, two, stored).outcome == "not comparable here"


def test_cells_made_with_other_threads_are_counted_apart_and_have_an_exit_code(
    rdbench: Command, runs: Path, root: Path
) -> None:
    path = cell_of(runs, "tta") / RESULT
    changed_predictions(path.parent)
    content = json.loads(path.read_text())
    content["provenance"]["threads"] = 99
    path.write_text(json.dumps(content))
    done = rdbench("verify", runs, "--root", root)
    assert done.code == 3
    assert "run again: 1 reproduced, 1 not comparable here" in lines(done)
    assert "verify it with OMP_NUM_THREADS=99" in done.out


def made_up() -> tuple[CellResult, Predictions]:
    stored = make_predictions()
    stored = replace(stored, member_scores=np.stack([stored.scores, stored.scores], axis=1))
    return make_cell(conditions=stored.conditions), stored


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("calibration_uncertainties", lambda values: values * np.nan, "within inf"),
        ("calibration_scores", lambda values: values[:-1], "calibration_scores have another shape"),
        ("member_scores", lambda values: values + 1, "of their standard deviation"),
        ("lightings", lambda values: np.array(["over"] * len(values)), "the lightings are others"),
        ("parts", lambda values: values[::-1], "the parts are others"),
    ],
)
def test_any_stored_array_that_was_changed_shows(name: str, change: Callable[[Any], Any], words: str) -> None:
    cell, again = made_up()
    verdict = compare(cell, replace(again, **{name: change(getattr(again, name))}), cell, again)
    assert verdict.outcome == "differs"
    assert words in verdict.words


def test_pixel_figures_and_counts_that_were_changed_show() -> None:
    again, predictions = made_up()
    better = again.model_copy(deep=True)
    better.pixel["clean"]["aupro_30"] = Figure(value=0.999)
    verdict = compare(better, predictions, again, predictions)
    assert verdict.outcome == "differs"
    assert "clean, aupro_30: 0.999, but running it again gives" in verdict.words
    claims = make_cell(conditions=predictions.conditions, custom="a folder of your own")
    assert compare(again, predictions, claims, predictions).outcome == "differs"


def test_a_cell_of_other_images_is_not_trained_first(
    rdbench: Command, runs: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("it was run")

    monkeypatch.setattr("rdbench.benchmark.run.run_task", refuse)
    shutil.copytree(root, tmp_path / "other")
    trees.draw(next((tmp_path / "other").rglob("train/good/*.png")), seed=99)
    done = rdbench("verify", runs, "--cells", 1, "--root", tmp_path / "other")
    assert "the images are others: fingerprint is" in done.out

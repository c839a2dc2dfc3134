"""From a folder of images to figures, through the command line."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from rdbench.benchmark.store import Store, read_predictions
from tests.command import QUICK, Command, start
from tests.datasets import trees

METHODS = "deterministic,mc_dropout,tta,deep_ensemble"
SHIFTS = ("--shift", "lighting:3", "--shift", "viewpoint:2")
RUN = ("run", "--dataset", "mvtec_ad2", *SHIFTS, "-o", "samples=2", *QUICK)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ad2")
    trees.mvtec_ad2(root)
    return root


@pytest.fixture(scope="module")
def runs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four methods under one shift, run once in a process of their own."""
    out = tmp_path_factory.mktemp("store") / "runs"
    done = start(*RUN, "--root", root, "--out", out, "--method", METHODS, "-o", "members=2").done()
    assert done.code == 0, done.err
    assert "AUGRC" in done.out
    return out


def rows_of(rdbench: Command, runs: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(rdbench("results", runs, "--format", "csv").out)))


COLUMNS = "method,dataset,category,seed,backbone,condition,metric,value,low,high,note,cell"
IMAGE_FIGURES = "image_auroc,image_ap,fpr,fnr,failures,ece,brier,false_alarm_gap"
SELECTIVE_FIGURES = ("aurc", "e_aurc", "augrc", "failure_auroc")


def test_every_method_has_every_condition_and_figure(rdbench: Command, runs: Path) -> None:
    rows = rows_of(rdbench, runs)
    assert ",".join(rows[0]) == COLUMNS
    figures = {*IMAGE_FIGURES.split(","), "pixel_auroc", "aupro_30", "seg_f1", "ause"}
    figures |= {name + control for name in SELECTIVE_FIGURES for control in ("", "_random", "_margin", "_oracle")}
    present = {(row["method"].split("[")[0], row["condition"], row["metric"]) for row in rows}
    for method in METHODS.split(","):
        for condition in ("clean", "lighting:3", "viewpoint:2", *trees.LIGHTINGS):
            assert {(method, condition, figure) for figure in figures} <= present
        assert {
            (method, "clean", cost) for cost in ("train_seconds", "gflop", "throughput_1", "teacher_passes")
        } <= present
    assert all(row["value"] or row["note"] for row in rows), "an undefined figure says why"
    for row in rows:
        if row["metric"] == "throughput_best":
            assert row["note"] in ("at batches of 1", "at batches of 16"), "24 images, 16 at a time"


def test_figures_are_those_of_the_stored_predictions(rdbench: Command, runs: Path) -> None:
    cells = list(Store(runs).results())
    assert len(cells) == 4
    for directory, result in cells:
        predictions = read_predictions(directory, result)
        assert len(predictions.images) == 24
        for index, condition in enumerate(predictions.conditions):
            auroc = roc_auc_score(predictions.labels, predictions.scores[index])
            assert result.image[condition]["image_auroc"].value == pytest.approx(auroc, abs=1e-12)
        dark = predictions.lightings == "underexposed"
        auroc = roc_auc_score(predictions.labels[dark], predictions.scores[0, dark])
        assert result.image["underexposed"]["image_auroc"].value == pytest.approx(auroc, abs=1e-12)
        # 10 calibration images, alpha 0.10: rank ceil(11 * 0.9) = 10, the largest
        assert result.threshold.value == predictions.calibration_scores.max()
        assert result.threshold.level == pytest.approx(1 / 11)


def test_costs_are_those_of_the_method_alone(runs: Path) -> None:
    cost = {result.spec.method: result.cost for _, result in Store(runs).results()}
    passes = {
        method: [figures[f"{role}_passes"].value for role in ("teacher", "bottleneck", "decoder")]
        for method, figures in cost.items()
    }
    assert passes["deterministic"] == [1, 1, 1]
    assert passes["deep_ensemble"] == [1, 2, 2]
    assert passes["mc_dropout"] == [1, 1, 2]
    views = passes["tta"][0]
    assert views > 5
    assert passes["tta"] == [views, views, views]
    # 4 images, 1 epoch, one network; the ensemble trains two, the first shared
    assert cost["deterministic"]["train_passes"].value == 4
    assert cost["tta"]["train_passes"].value == 4
    assert cost["deep_ensemble"]["train_passes"].value == 8
    assert cost["deep_ensemble"]["parameters"].value == 2 * cost["deterministic"]["parameters"].value


LATE = '''"""Takes the shared student only when it is loaded, and keeps it where it is hard to see."""
from dataclasses import dataclass
from rdbench.protocol import Prediction
from rdbench.rd.anomaly import anomaly_map, anomaly_score

@dataclass
class Late:
    def fit(self, train, context): pass
    def predict(self, batch):
        student = self.kept["student"][0]
        maps = anomaly_map(batch.features, student(batch.features), batch.images.shape[-2:])
        return Prediction(maps, anomaly_score(maps), anomaly_score(maps))
    def save(self, directory): pass
    def load(self, directory, context): self.kept = {"student": (context.deterministic(),)}
'''


def test_a_student_taken_late_costs_as_much(rdbench: Command, root: Path, tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(LATE)
    given = ("--methods-dir", tmp_path, "--root", root, "--out", tmp_path / "runs", "-m", "late,deterministic")
    assert rdbench("run", "--dataset", "mvtec_ad2", *QUICK, *given).code == 0
    late, plain = (
        {result.spec.method: result.cost for _, result in Store(tmp_path / "runs").results()}[name]
        for name in ("late", "deterministic")
    )
    for name in ("train_passes", "parameters", "decoder_passes"):
        assert late[name].value == plain[name].value
    assert late["train_seconds"].value > 0.5 * plain["train_seconds"].value


def test_a_finished_cell_is_run_again_to_keep_its_model(rdbench: Command, root: Path, tmp_path: Path) -> None:
    given = ("run", "--dataset", "mvtec_ad2", *QUICK, "--root", root, "--out", tmp_path, "-m", "deterministic")
    assert rdbench(*given).code == 0
    assert "1 cell run, 0 there" in rdbench(*given, "--keep-models").out
    assert "0 cells run, 1 there" in rdbench(*given, "--keep-models").out
    ((directory, _),) = Store(tmp_path).results()
    assert (directory / "model").is_dir()
    assert (directory / "result.json").stat().st_mode & 0o044, "others can read it"


def test_data_that_is_not_official_is_marked(runs: Path) -> None:
    for _, result in Store(runs).results():
        assert "4 train images where the official set has 291" in result.split.custom
        assert result.split.calibration_source == "validation/good"
        assert (result.split.train, result.split.calibration, result.split.test) == (4, 10, 24)


def test_finished_cells_are_not_run_again(rdbench: Command, root: Path, runs: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("result.json")}
    done = rdbench(*RUN, "--root", root, "--out", runs, "--method", METHODS, "-o", "members=2")
    assert done.code == 0
    assert "0 cells run, 4 there already" in done.out
    assert before == {path: path.stat().st_mtime_ns for path in runs.rglob("result.json")}


def test_a_method_gives_the_same_alone_as_in_company(rdbench: Command, root: Path, runs: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    done = rdbench(*RUN, "--root", root, "--out", alone, "-m", "mc_dropout")
    assert done.code == 0, done.err
    ((directory, result),) = Store(alone).results()
    together = {other.spec.method: path for path, other in Store(runs).results()}["mc_dropout"]
    assert result.predictions_sha256 == Store(runs).load(result.spec).predictions_sha256
    assert (directory / "predictions.npz").read_bytes() == (together / "predictions.npz").read_bytes()


def test_evaluate_gives_the_same_figures_without_torch(rdbench: Command, runs: Path, tmp_path: Path) -> None:
    copy = tmp_path / "runs"
    shutil.copytree(runs, copy)
    before = rows_of(rdbench, copy)
    code = (
        "import sys; from rdbench.cli import app\n"
        f"app(['evaluate', {str(copy)!r}], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert rows_of(rdbench, copy) == before


def test_evaluate_at_another_level_moves_the_threshold(rdbench: Command, runs: Path, tmp_path: Path) -> None:
    copy = tmp_path / "runs"
    shutil.copytree(runs, copy)
    assert rdbench("evaluate", copy, "--alpha", "0.5", "--no-intervals").code == 0
    for directory, result in Store(copy).results():
        scores = np.sort(read_predictions(directory, result).calibration_scores)
        assert result.threshold.value == scores[5]  # rank ceil(11 * 0.5) = 6
        assert result.image["clean"]["image_auroc"].low is None


def test_a_run_at_another_level_moves_the_threshold_of_finished_cells(
    rdbench: Command, root: Path, runs: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "runs"
    shutil.copytree(runs, copy)
    given = (*RUN, "--root", root, "--out", copy, "--method", METHODS, "-o", "members=2", "--alpha", "0.5")
    assert "0 cells run, 4 there already" in rdbench(*given).out
    assert {result.threshold.alpha for _, result in Store(copy).results()} == {0.5}


def test_results_in_three_formats(rdbench: Command, runs: Path) -> None:
    assert "deep_ensemble" in rdbench("results", runs).out
    rows = json.loads(rdbench("results", runs, "-f", "json").out)
    assert len(rows) == len(rows_of(rdbench, runs))
    assert rdbench("results", runs, "-f", "xml").code == 2
    assert rdbench("results", runs, "--condition", "claen").error().endswith("did you mean clean?")
    assert rdbench("results", runs, "--condition", "clean", "-f", "csv").code == 2


def test_the_page_is_written(rdbench: Command, runs: Path, tmp_path: Path) -> None:
    done = rdbench("leaderboard", "--runs", runs, "--out", tmp_path / "site")
    assert done.code == 0
    page = (tmp_path / "site" / "index.html").read_text()
    assert "deep_ensemble" in page
    assert str(tmp_path / "site" / "index.html") in done.out
    assert rdbench("report", runs, "--out", tmp_path / "report").code == 0
    assert "deep_ensemble" in (tmp_path / "report" / "index.html").read_text()


def test_entries_are_made_and_checked(
    rdbench: Command, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rdbench("submit", runs, "--out", tmp_path).code == 0
    entries = sorted((tmp_path / "mvtec_ad2").glob("*.json"))
    assert [entry.stem for entry in entries] == sorted(METHODS.split(","))
    assert rdbench("validate", *entries).code == 0
    entry = json.loads(entries[0].read_text())
    entry["cells"][0]["image"]["clean"]["image_auroc"]["value"] += 0.01
    entries[0].write_text(json.dumps(entry))
    assert rdbench("validate", *entries).code == 1
    monkeypatch.chdir(tmp_path)
    assert rdbench("leaderboard", "--results", tmp_path, "--out", tmp_path / "s").code == 0


def test_a_page_of_no_run_is_not_written(rdbench: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nope"):
        done = rdbench("leaderboard", "--runs", tmp_path / name, "--out", tmp_path / "site")
        assert done.code == 2
        assert str(tmp_path / name) in done.error()
    assert not (tmp_path / "site").exists()


def test_single_images_get_a_decision_and_a_figure(rdbench: Command, root: Path, tmp_path: Path) -> None:
    given = ("--root", root, "--out", tmp_path / "runs", "-m", "tta", "--keep-models")
    random = ("--backbone", "resnet18", "--weights", "random")
    assert rdbench("run", "--dataset", "mvtec_ad2", *QUICK, *random, *given).code == 0
    ((directory, result),) = Store(tmp_path / "runs").results()
    image = root / "vial/test_public/bad/000_regular.png"
    done = rdbench("predict", directory, image, "--weights", "random", "--out", tmp_path / "figures")
    assert done.code == 0, done.err
    predictions = read_predictions(directory, result)
    index = next(i for i, key in enumerate(predictions.images) if key.endswith("bad/000_regular"))
    score = float(predictions.scores[0, index])
    assert f"score {score:.4g}, threshold {result.threshold.value:.4g}" in done.out
    assert ("anomalous" if score > result.threshold.value else "normal") in done.out
    doubtful = np.sort(predictions.calibration_uncertainties)[9]  # rank ceil(11 * 0.9) = 10 of 10
    review = predictions.uncertainties[0, index] > doubtful
    assert ("review" if review else "no review") + " (uncertainty" in done.out
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["000-bad-000_regular.png"]
    (tmp_path / "no.png").write_bytes(b"no image")
    assert rdbench("predict", directory, tmp_path / "no.png", "--weights", "random").code == 2


def test_pixel_figures_at_another_size_are_other_cells(rdbench: Command, root: Path, tmp_path: Path) -> None:
    found = {}
    for size in ("native", "32", "64x32"):
        done = rdbench(*RUN[:3], *QUICK, "--root", root, "--out", tmp_path, "-m", "deterministic", "--map-size", size)
        assert done.code == 0, done.err
    for _, result in Store(tmp_path).results():
        found[result.spec.map_size] = result
    assert set(found) == {None, (32, 32), (32, 64)}
    assert len({result.image["clean"]["image_auroc"].value for result in found.values()}) == 1
    assert len({result.pixel["clean"]["pixel_auroc"].value for result in found.values()}) == 3


def test_images_may_be_wider_than_high(rdbench: Command, root: Path, tmp_path: Path) -> None:
    """Width x height on the command line, (height, width) in the result; pictures and maps have that shape."""
    methods = ("-m", "deterministic,tta", "--shift", "viewpoint:3")
    done = rdbench(*RUN[:3], *QUICK, "--root", root, "--out", tmp_path, *methods, "--image-size", "96x64")
    assert done.code == 0, done.err
    for directory, result in Store(tmp_path).results():
        assert result.spec.image_size == (64, 96)
        assert all(figures["pixel_auroc"].value is not None for figures in result.pixel.values())
        pictures = sorted((directory / "gallery").glob("*.webp")) or sorted((directory / "gallery").glob("*.jpg"))
        with Image.open(pictures[0]) as picture:
            assert picture.width > picture.height * 2

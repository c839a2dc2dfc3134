"""Publishing a run and checking what is published."""

from __future__ import annotations

import base64
import hashlib
import io
import json

import numpy as np
import pytest

from rdbench.benchmark.results import Figure
from rdbench.benchmark.store import Store, sha256
from rdbench.errors import InputError
from rdbench.metrics.statistics import RESAMPLES
from rdbench.report.entries import Source, published, stored, write_entries
from rdbench.report.leaderboard import write_site
from rdbench.report.rankings import make_rankings
from rdbench.report.validate import validate_entry
from tests.made_up import make_source


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A run of two methods, with their predictions."""
    folder = tmp_path_factory.mktemp("run")
    store = Store(folder / "runs")
    store.root.mkdir()
    for method in ("tta", "mc_dropout"):
        for seed in (0, 1):
            source = make_source(method, "tablets", seed, resamples=RESAMPLES)
            predictions = source.predictions()
            predictions.save(folder / "p.npz")
            labels = predictions.labels
            split = source.result.split.model_copy(
                update={
                    "test": len(labels), "test_anomalous": int(labels.sum()), "calibration": 24, "custom": "made up",
                }
            )  # fmt: skip
            result = source.result.model_copy(update={"predictions_sha256": sha256(folder / "p.npz"), "split": split})
            store.write(result, folder / "p.npz")
    return store


@pytest.fixture
def entry(store, tmp_path):
    """The published entry of tta, a copy to play with."""
    paths = write_entries(stored(store), tmp_path / "results")
    assert [path.relative_to(tmp_path / "results").as_posix() for path in paths] == [
        "toy/mc_dropout.json", "toy/tta.json",
    ]  # fmt: skip
    return paths[1]


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_published_run_is_valid_and_gives_the_same_site(store, entry, tmp_path):
    assert validate_entry(entry) == []
    directory = entry.parents[1]
    assert [s.result for s in published(directory)] == [s.result for s in stored(store)]
    own = write_site(stored(store), tmp_path / "own")
    other = write_site(published(directory), tmp_path / "other")
    for name in sorted(path.relative_to(own.parent) for path in own.parent.rglob("data/*/*.js")):
        assert (own.parent / name).read_text() == (other.parent / name).read_text()
    assert "toy/tta.json" in next(other.parent.glob("methods/*tta.html")).read_text()


def test_the_commands_publish_check_and_show(rdbench, store, tmp_path, monkeypatch):
    entries = tmp_path / "entries"
    assert rdbench("submit", store.root, "--out", entries).code == 0
    files = sorted(entries.glob("*/*.json"))
    assert [path.name for path in files] == ["mc_dropout.json", "tta.json"]
    done = rdbench("validate", *files)
    assert (done.code, done.out.count(": sound")) == (0, 2)
    assert rdbench("validate", entries).out == done.out
    assert "no published entry in" in rdbench("validate", store.root / ".work").error()
    edit(files[1], set_figure(0.0001))
    done = rdbench("validate", files[1], tmp_path / "nowhere.json")
    assert done.code == 1
    assert "augrc: 0.0001 (" in " ".join(done.out.split())
    assert "cannot read" in done.out
    write_entries(stored(store), entries)
    monkeypatch.chdir(tmp_path / "entries")  # where there is no run of one's own
    shown = {"report": (store.root,), "leaderboard": ("--results", entries)}
    for command, arguments in shown.items():
        assert rdbench(command, *arguments, "--out", tmp_path / command).code == 0
        assert "tta</a>" in (tmp_path / command / "index.html").read_text()
        assert len(list((tmp_path / command / "methods").iterdir())) == 2


@pytest.mark.parametrize("alpha", ["NaN", "Infinity", "0", "-1", "1"])
def test_an_alpha_that_no_threshold_has_is_refused(entry, alpha):
    entry.write_text(entry.read_text().replace('"alpha": 0.1', f'"alpha": {alpha}'))
    assert "cells.0.threshold.alpha: Input should be" in validate_entry(entry)[0]


def test_nothing_to_publish_is_said(tmp_path):
    (tmp_path / "runs").mkdir()
    with pytest.raises(InputError, match="no finished cell to publish"):
        write_entries(stored(Store(tmp_path / "runs")), tmp_path / "results")


def test_commands_for_readers_name_a_folder_without_cells(rdbench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for command in (("report", "empty"), ("submit", "empty"), ("leaderboard", "--runs", "empty")):
        assert "no finished cell in empty" in rdbench(*command, "--out", tmp_path / "out").error()
    assert not (tmp_path / "out").exists()


def test_nothing_for_readers_is_written_into_a_store(rdbench, store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(store.root.rglob("*"))
    cell = store.cells()[0]
    (tmp_path / "link").symlink_to(cell)
    for command in (("report", store.root), ("submit", store.root), ("leaderboard", "--runs", store.root)):
        for out in (store.root, store.root / "toy" / "site", cell, "link/site"):
            done = rdbench(*command, "--out", out)
            assert done.code == 2
            assert f"{out} lies in a directory of results, {store.root}; choose" in done.error()
    for command in (("compare", "deterministic", "tta", "--runs", store.root), ("curve", "--runs", store.root)):
        done = rdbench(*command, "--out", cell / "figure.html")
        assert f"lies in a directory of results, {store.root}; choose" in done.error()
    assert sorted(store.root.rglob("*")) == before


def test_predictions_that_were_changed_are_not_published(store, tmp_path):
    other = Store(tmp_path / "runs")
    for directory, result in store.results():
        other.root.mkdir(exist_ok=True)
        target = other.write(result, directory / "predictions.npz")
    (target / "predictions.npz").write_bytes(b"something else")
    with pytest.raises(InputError, match="is not what the result was computed from"):
        write_entries(stored(other), tmp_path / "results")


def call_official(content):
    for cell in content["cells"]:
        cell["spec"]["dataset"] = "mvtec_ad"


def set_figure(value, name="augrc", part="image", end="value"):
    def change(content):
        content["cells"][1][part]["clean"][name][end] = value

    return change


def drop_predictions(content):
    del content["predictions"][content["cells"][0]["predictions_sha256"]]


def swap_predictions(content):
    first, second = (cell["predictions_sha256"] for cell in content["cells"])
    content["predictions"][first] = content["predictions"][second]


def turn_interval(content):
    content["cells"][0]["image"]["clean"]["ece"] |= {"low": 0.4, "high": 0.3}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_figure(0.0001), "seed 1: clean, augrc: 0.0001 ("),
        (set_figure(-0.0001, end="low"), "(-0.0001 to "),
        (set_figure(0.9999, end="high"), "to 0.9999), but the predictions give"),
        (set_figure(None, end="low"), "seed 1: clean, augrc: 0."),
        (lambda content: content["cells"][0].update(interval="left out"), "), but the predictions give"),
        (lambda content: content["cells"][0].update(interval="guessed"), "intervals made otherwise (guessed)"),
        (set_figure(None), "seed 1: clean, augrc: undefined, but the predictions give"),
        (set_figure(1.5, "pixel_auroc", "pixel"), "clean, pixel_auroc: 1.5 is not between 0 and 1"),
        (
            lambda content: content["cells"][0]["cost"]["inference_ms"].update(value=-1),
            "inference_ms: -1.0 is negative",
        ),
        (lambda content: content["cells"][0]["threshold"].update(value=0.1), "threshold 0.1, but the calibration"),
        (lambda content: content["cells"][0]["threshold"].update(level=0.01), "level 0.01, attained, but 24"),
        (lambda content: content["cells"][0]["threshold"].update(attained=False), "not attained, but 24"),
        (lambda content: content["cells"][0]["spec"].update(protocol=99), "protocol 99, this rdbench has"),
        (lambda content: content["cells"][0]["split"].update(test=61), "speaks of 61 test images"),
        (lambda content: content["cells"][0]["split"].update(calibration=12), "12 calibration images, but 24"),
        (lambda content: content["cells"].append(content["cells"][0]), "the cell is there 2 times"),
        (lambda content: content["cells"][0]["image"].pop("noise:3"), "image: the condition 'noise:3' is missing"),
        (lambda content: content["cells"][0]["image"]["clean"].pop("ece"), "clean, ece: missing, as in an older"),
        (call_official, "is filed in the wrong place"),
        (turn_interval, "clean, ece: the interval 0.4 to 0.3 is upside down"),
        (drop_predictions, "its predictions are not in the entry"),
        (swap_predictions, "they are not what the result was computed from"),
        (lambda content: content.pop("schema"), "schema: Field required"),
    ],
)
def test_what_does_not_agree_is_named(entry, change, words):
    edit(entry, change)
    problems = validate_entry(entry)
    assert any(words in problem for problem in problems), problems
    assert not any("\n" in problem for problem in problems)


def archive(**changes):
    """A prediction archive with some arrays replaced, and its hash."""
    predictions = make_source("tta").predictions()
    arrays = {name: np.asarray(value) for name, value in vars(predictions).items()} | changes
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"no archive",
        archive(scores=np.zeros((4, 3), np.float32)),
        archive(scores=np.full((4, 60), np.nan, np.float32)),
        archive(labels=np.full(60, 2, np.int8)),
        archive(parts=np.zeros(60)),
        archive(calibration_scores=np.zeros(0, np.float32)),
        archive(conditions=np.array(["clean"] * 4)),
        archive(images=np.array([], dtype=str)),
        archive(scores=np.zeros(200_000_000, np.int8)),
    ],
    ids=["no archive", "shape", "nan", "labels", "parts", "calibration", "conditions", "images", "bomb"],
)
def test_predictions_of_any_content_are_refused_in_one_line(entry, content, tmp_path):
    def put(entry):
        digest = hashlib.sha256(content).hexdigest()
        entry["cells"][0]["predictions_sha256"] = digest
        entry["predictions"][digest] = base64.b64encode(content).decode()

    edit(entry, put)
    [problem] = validate_entry(entry)
    assert "the predictions of tta on toy/tablets, seed 0 cannot be used" in problem
    with pytest.raises(InputError, match="cannot be used"):
        write_site(published(entry.parents[1]), tmp_path / "site")


@pytest.mark.parametrize("name", ['<a href="http://example.com">z</a>', "a b", "_mine", "n" * 65, "tta\n"])
def test_a_method_is_called_as_a_file_can_be(name, tmp_path):
    [path] = write_entries([make_source(name)], tmp_path)
    assert any("a name is of letters, digits" in problem for problem in validate_entry(path))
    [path] = write_entries([make_source("My-method_2")], tmp_path / "other")
    assert not any("a name is of letters, digits" in problem for problem in validate_entry(path))


def test_a_category_that_is_not_official_must_say_custom(tmp_path):
    for dataset, category, words in (
        ("mvtec_ad", "tyres", "tyres is not an official category of mvtec_ad"),
        ("mvtec_ad", "bottle", "60 test images where the official set has 83"),
        ("mvtec_ad", "bottle", "72 train images where the official set has 209"),
        ("mvtec_ad2", "can", "12 validation images where the official set has 46"),
        ("elsewhere", "bottle", "bottle is not an official category of elsewhere"),
    ):
        path = tmp_path / dataset / "tta.json"
        path.parent.mkdir(exist_ok=True)
        cells = [json.loads(make_source("tta", category, dataset=dataset).result.model_dump_json())]
        path.write_text(json.dumps({"schema": 1, "cells": cells}))
        assert any(words in problem for problem in validate_entry(path))


def test_costs_are_compared_with_the_deterministic_of_the_same_run(tmp_path):
    def cell(method, seconds, **spec):
        cost = {"train_seconds": Figure(value=seconds), "inference_ms": Figure(value=seconds / 2)}
        return Source(make_source(method, **spec).result.model_copy(update={"cost": cost}), "")

    def ratios():
        rankings = make_rankings(published(tmp_path / "results"))
        at = [rankings[0].metrics.index(name) for name in ("train_ratio", "inference_ratio")]
        return {
            name: ranking.value[m, c, 0, 0, at].tolist()
            for ranking in rankings
            for m, name in enumerate(ranking.methods)
            for c in range(len(ranking.categories))
            if (m, c, 0) in ranking.cells
        }

    slow = [cell("deterministic", 100.0), cell("knn", 200.0), cell("rejex", 1.0, epochs=99)]
    slow += [cell("deterministic", 10.0, weights_sha256="d" * 64), cell("swag", 20.0, weights_sha256="d" * 64)]
    write_entries(slow, tmp_path / "results")
    write_entries([cell("deterministic", 10.0), cell("tta", 30.0)], tmp_path / "results")  # replaces deterministic's
    found = ratios()
    assert found["deterministic"] == [1, 1]
    assert found["tta"] == [3, 3]
    assert found["knn"] == found["swag"] == [2, 2]
    assert np.isnan(found["rejex[epochs=99]"]).all()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda costs: costs["train_seconds"].update(value=-1.0), "'train_seconds': -1.0 is no cost"),
        (lambda costs: costs["train_seconds"].update(value=1e300), "'train_seconds': 1e+300 is no cost"),
        (lambda costs: costs.pop("teacher_passes"), "'teacher_passes' is not in both"),
        (lambda costs: costs.update({"a\n\x1b[31m": {"value": 1.0}}), r"'a\n\x1b[31m' is not in both"),
    ],
)
def test_costs_to_compare_with_are_checked(tmp_path, change, problem):
    [path] = [p for p in write_entries([make_source("deterministic"), make_source("tta")], tmp_path) if "tta" in p.name]

    def spoil(content):
        [costs] = content["reference"].values()
        change(costs)
        content["reference"]["ffff"] = {}

    assert not any("reference" in found for found in validate_entry(path))
    edit(path, spoil)
    problems = validate_entry(path)
    assert any(f"reference{mark} {problem}" in found for found in problems for mark in (":", ",")), problems
    assert any("reference 'ffff': it stands beside no cell of the entry" in found for found in problems)


@pytest.mark.filterwarnings("error")
def test_a_ratio_to_next_to_nothing_is_none(tmp_path):
    [path] = [p for p in write_entries([make_source("deterministic"), make_source("tta")], tmp_path) if "tta" in p.name]
    edit(path, lambda content: next(iter(content["reference"].values()))["train_seconds"].update(value=1e-320))
    [ranking] = make_rankings(published(tmp_path))
    at = ranking.methods.index("tta"), 0, ranking.metrics.index("train_ratio")
    assert ranking.why_undefined(*at) == "deterministic's is no number to compare with"
    page = write_site(published(tmp_path), tmp_path / "site")
    assert "Infinity" not in (page.parent / "leaderboard.json").read_text()


def test_an_end_that_leaves_its_bounds_by_rounding_is_no_problem(entry):
    edit(entry, set_figure(-2.8e-17, "pixel_auroc", "pixel", end="low"))
    assert validate_entry(entry) == []

"""Joining stores: equal cells once, different ones refused by name, damaged ones refused."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

from rdbench.benchmark.gallery import GALLERY
from rdbench.benchmark.locks import MERGE, RUN
from rdbench.benchmark.merge import Merged, merge_stores
from rdbench.benchmark.results import CellFailure, Figure
from rdbench.benchmark.store import FAILED, PREDICTIONS, RESULT, Store, open_store, read_result, sha256
from rdbench.errors import InputError
from tests.command import Command
from tests.made_up import make_cell, make_predictions, make_spec
from tests.same import predictions_of

TOY = ("run", "--dataset", "toy", "--category", "twill", "--image-size", "64", "--epochs", "1", "--no-gallery")


def write(root: Path, seed: int, content: int = 0, model: str = "", method: str = "deterministic") -> Path:
    """A made-up cell; `content` decides its predictions."""
    root.mkdir(exist_ok=True)
    predictions = root.parent / "made_up.npz"
    make_predictions(seed=content).save(predictions)
    kept = root.parent / "model"
    if model:
        kept.mkdir(exist_ok=True)
        (kept / "weights").write_text(model)
    result = make_cell(method, seed=seed, predictions_sha256=sha256(predictions))
    return open_store(root, create=True).write(result, predictions, kept if model else None)


def test_equal_cells_are_kept_once_and_the_others_joined(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    write(a, 0)
    write(a, 1)
    write(b, 1, model="weights")
    write(b, 2)
    assert merge_stores([a, b], c) == Merged(copied=3, equal=1)
    assert predictions_of(c) == predictions_of(a) | predictions_of(b)
    (model,) = c.glob("*/*/*/model")
    assert "-s1-" in str(model), "the model that one of them kept is kept"
    assert merge_stores([a, b, c], c) == Merged(copied=0, equal=4)


def test_what_is_read_only_is_merged_all_the_same(tmp_path: Path) -> None:
    """As an archive; whoever is not root could not move a folder in that may not be written to."""
    cell = write(tmp_path / "archive", 0, model="weights")
    for path in (cell / "model", cell):
        path.chmod(0o555)
    assert merge_stores([tmp_path / "archive"], tmp_path / "out") == Merged(copied=1, equal=0)
    copied = tmp_path / "out" / cell.relative_to(tmp_path / "archive")
    assert (copied / "model" / "weights").is_file()
    for folder in (copied, copied / "model"):
        assert folder.stat().st_mode & stat.S_IWUSR, folder


def test_of_equal_cells_the_one_with_a_model_is_kept_else_the_one_with_pictures(tmp_path: Path) -> None:
    """Whatever the stores are called, and whichever is there already."""
    bare, drawn, kept = (tmp_path / name for name in ("bare", "drawn", "kept"))
    write(bare, 0)
    write(kept, 0, model="weights")
    (write(drawn, 0) / GALLERY).mkdir()
    for index, order in enumerate(itertools.permutations([bare, drawn, kept])):
        out = tmp_path / f"out{index}"
        merge_stores(order, out)
        assert list(out.glob("*/*/*/model"))
        assert not list(out.glob(f"*/*/*/{GALLERY}"))
        merge_stores([store for store in order if store != kept], tmp_path / f"two{index}")
        assert list((tmp_path / f"two{index}").glob(f"*/*/*/{GALLERY}"))
    merge_stores([drawn], bare)
    assert list(bare.glob(f"*/*/*/{GALLERY}"))


def test_results_are_not_written_into_a_cell(rdbench: Command, tmp_path: Path) -> None:
    """A merge there would copy the cell into itself, for ever; a run there would go when the cell is replaced."""
    cell = write(tmp_path / "runs", 0)
    before = sorted((tmp_path / "runs").rglob("*"))
    for command in (("merge", tmp_path / "runs"), (*TOY, "-m", "deterministic")):
        for out in (cell, cell / "more", tmp_path / "runs/.work/cells"):
            done = rdbench(*command, "--out", out)
            assert done.code == 2
            assert f"cannot write results to {out}: " in done.error()
            assert "is part of others; choose another --out" in done.error()
    assert sorted((tmp_path / "runs").rglob("*")) == before


def test_what_is_no_store_is_refused_and_an_empty_one_is_not(rdbench: Command, tmp_path: Path) -> None:
    """A misspelt shard would be missing and nobody told."""
    a, b, c = (tmp_path / name for name in "abc")
    write(a, 0)
    (b / "some" / "other" / "experiment").mkdir(parents=True)
    done = rdbench("merge", a, b, "--out", c)
    assert done.code == 2
    assert f"{b} is no directory of results" in done.error()
    assert not c.exists()
    shutil.rmtree(b)
    with open_store(b, create=True).locks.hold(f"{RUN}1"):
        pass
    assert merge_stores([a, b], c) == Merged(copied=1, equal=0), "a shard may have no group"


def test_cells_that_were_copied_without_the_hidden_folders_are_merged(tmp_path: Path) -> None:
    """As by `cp -r runs/*`, which leaves `.work` behind."""
    cell = write(tmp_path / "runs", 0)
    shutil.copytree(cell.parents[1], tmp_path / "copy" / cell.parents[1].name)
    assert merge_stores([tmp_path / "copy"], tmp_path / "out") == Merged(copied=1, equal=0)


def test_a_cell_without_its_result_is_refused(tmp_path: Path) -> None:
    a, c = tmp_path / "a", tmp_path / "c"
    write(a, 0)
    cell = write(a, 1)
    (cell / RESULT).unlink()
    with pytest.raises(InputError, match=rf"{re.escape(str(cell))} is no whole cell, it has no {RESULT}; remove it"):
        merge_stores([a], c)
    assert not c.exists()


@pytest.mark.parametrize("differs", ["image figures", "pixel figures", "split"])
def test_equal_predictions_with_other_conditions_or_splits_are_refused(tmp_path: Path, differs: str) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    cell = write(a, 0)
    write(b, 0)
    result = read_result(cell / RESULT)
    changes = {
        "image figures": {"image": result.image | {"blur:3": result.image["clean"]}},
        "pixel figures": {"pixel": {}},
        "split": {"split": result.split.model_copy(update={"train": 59})},
    }[differs]
    Store(a).rewrite(cell, result.model_copy(update=changes))
    with pytest.raises(InputError, match=f"deterministic on toy/grid, seed 0: {differs} differ between"):
        merge_stores([a, b], c)
    assert not c.exists()


def test_different_results_of_one_cell_are_named_and_nothing_is_written(rdbench: Command, tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    first, second = write(a, 0), write(b, 0, content=1)
    write(b, 1)
    done = rdbench("merge", a, b, "--out", c)
    assert done.code == 2
    for name in ("deterministic on toy/grid, seed 0", str(first), str(second)):
        assert name in done.error()
    assert "seed 1" not in done.error()
    assert not c.exists()


def test_what_is_there_already_is_held_against_what_comes(tmp_path: Path) -> None:
    a, c = tmp_path / "a", tmp_path / "c"
    write(c, 0)
    before = predictions_of(c)
    write(a, 0, content=1)
    with pytest.raises(InputError, match="different results for one cell"):
        merge_stores([a], c)
    assert predictions_of(c) == before


def test_equal_predictions_with_other_pixel_figures_are_refused(tmp_path: Path) -> None:
    """They come of maps that are not stored, so that nothing else tells."""
    a, b, c = (tmp_path / name for name in "abc")
    cell = write(a, 0)
    write(b, 0)
    result = read_result(cell / RESULT)
    result.pixel["clean"]["aupro_30"] = Figure(value=0.999)
    Store(a).rewrite(cell, result)
    words = "different results for one cell: deterministic on toy/grid, seed 0: pixel figures differ between"
    with pytest.raises(InputError, match=words):
        merge_stores([a, b], c)
    assert not c.exists()


def test_no_room_is_said_and_what_was_copied_is_whole(
    rdbench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, c = tmp_path / "a", tmp_path / "c"
    cells = [write(a, seed) for seed in (0, 1)]
    copy = shutil.copytree

    def full(source: Path, to: Path) -> Path:
        if source == max(cells):
            raise shutil.Error([(str(source), str(to), "No space left on device")])  # as copytree does
        return copy(source, to)

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copytree", full)
        done = rdbench("merge", a, "--out", c)
    assert done.code == 2
    assert f"cannot copy {max(cells)} to {c}: No space left on device; " in done.error()
    assert len(predictions_of(c)) == 1
    assert rdbench("merge", a, "--out", c).code == 0
    assert predictions_of(c) == predictions_of(a)


def test_a_merge_and_a_run_keep_out_of_each_others_way(rdbench: Command, tmp_path: Path) -> None:
    """Between its look at a cell and its copy, a run could put another there."""
    a, c = tmp_path / "a", tmp_path / "c"
    write(a, 0)
    store = open_store(c, create=True)
    with store.locks.hold(f"{RUN}1", "0 of 1 cells done"):
        done = rdbench("merge", a, "--out", c)
        assert done.code == 2
        assert f"a run is at work in {c} (process {os.getpid()} on" in done.error()
    with store.locks.hold(MERGE, "a merge"):
        assert "another run is at work" in rdbench("merge", a, "--out", c).error()
        done = rdbench(*TOY, "-m", "deterministic", "--out", c)
        assert done.code == 2
        assert f"a merge is at work in {c}" in done.error()
    assert list(store.results()) == []
    assert rdbench("merge", a, "--out", c).code == 0


def test_an_evaluation_and_a_run_keep_out_of_each_others_way(rdbench: Command, tmp_path: Path) -> None:
    """Between its look at a cell and its rewriting, a run could put another there."""
    a = tmp_path / "a"
    write(a, 0)
    store = open_store(a, create=False)
    [(_, before)] = store.results()
    with store.locks.hold(f"{RUN}1", "0 of 1 cells done"):
        done = rdbench("evaluate", a, "--alpha", "0.3", "--no-intervals")
        assert done.code == 2
        assert f"a run is at work in {a} (process {os.getpid()} on" in done.error()
    assert [result for _, result in store.results()] == [before]
    with store.locks.hold(MERGE, "an evaluation"):
        assert "another run is at work" in rdbench("evaluate", a).error()
        assert f"an evaluation is at work in {a}" in rdbench(*TOY, "-m", "deterministic", "--out", a).error()
    assert rdbench("evaluate", a, "--alpha", "0.3", "--no-intervals").code == 0
    assert [result.threshold.alpha for _, result in store.results()] == [0.3]


def test_no_cell_to_evaluate_is_said_and_nothing_is_written(rdbench: Command, tmp_path: Path) -> None:
    done = rdbench("evaluate", tmp_path)
    assert done.code == 2
    assert f"no finished cell in {tmp_path}" in done.error()
    assert not list(tmp_path.iterdir())


def test_why_honest_runs_of_one_cell_differ_is_said_and_what_to_do(rdbench: Command, tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    write(a, 0)
    other = write(b, 0, content=1)
    result = read_result(other / RESULT)
    made = result.provenance.model_copy(update={"threads": 1, "git_commit": "f" * 40})
    Store(b).rewrite(other, result.model_copy(update={"provenance": made}))
    said = rdbench("merge", a, b, "--out", c).error()
    assert "seed 0: predictions differ between" in said
    assert "made otherwise (threads: 2 and 1; commit: dddddddddd and ffffffffff)" in said
    assert f"leave {b} out, or remove {other} and run that cell again as the other was (OMP_NUM_THREADS=2)" in said


def test_equal_predictions_with_other_figures_are_refused_and_the_command_that_is_named_mends_it(
    rdbench: Command, tmp_path: Path
) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    for store, alpha in {a: "0.1", b: "0.3"}.items():
        write(store, 0)
        assert rdbench("evaluate", store, "--alpha", alpha, "--no-intervals").code == 0
    done = rdbench("merge", a, b, "--out", c)
    assert done.code == 2
    assert "seed 0: alpha (0.1 and 0.3), threshold, image figures differ between" in done.error()
    assert not c.exists()
    named = re.findall(r"`rdbench (evaluate [^`]+)`", done.error())
    assert named == [f"evaluate {store} --alpha 0.1" for store in (a, b)]
    for command in named:
        assert rdbench(*command.split()).code == 0
    assert rdbench("merge", a, b, "--out", c).code == 0


def test_archives_packed_otherwise_with_equal_content_are_equal(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    write(a, 0)
    b.mkdir()
    arrays = {name: np.asarray(value) for name, value in vars(make_predictions()).items()}
    np.savez(tmp_path / "flat.npz", **arrays)
    result = make_cell(predictions_sha256=sha256(tmp_path / "flat.npz"))
    open_store(b, create=True).write(result, tmp_path / "flat.npz")
    assert merge_stores([a, b], c) == Merged(copied=1, equal=1)


def test_a_damaged_cell_is_refused(tmp_path: Path) -> None:
    a, c = tmp_path / "a", tmp_path / "c"
    cell = write(a, 0)
    (cell / PREDICTIONS).write_bytes(b"half")
    with pytest.raises(InputError, match="not what the result was computed from"):
        merge_stores([a], c)
    assert not c.exists()


def test_a_damaged_cell_in_the_store_that_is_merged_to_is_refused(tmp_path: Path) -> None:
    """Its result has the hash of the sound one that comes, which alone would make them equal."""
    a, c = tmp_path / "a", tmp_path / "c"
    write(a, 0)
    cell = write(c, 0)
    (cell / PREDICTIONS).write_bytes(b"half")
    with pytest.raises(InputError, match="not what the result was computed from"):
        merge_stores([a], c)


def test_failures_come_along_unless_another_store_finished_the_cell(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    write(a, 0)
    for seed in (0, 1):
        failure = CellFailure(spec=make_spec(seed=seed), stage="fit", reason="no", traceback="", bad_input=False)
        open_store(b, create=True).write_failure(failure)
    merge_stores([b, a], c)
    assert [path.name for path in (c / FAILED).iterdir()] == [Store(c).failure_path(make_spec(seed=1)).name]

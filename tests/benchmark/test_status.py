"""`rdbench status` tells what is so at that moment."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rdbench.benchmark.locks import RUN, Holder, Locks
from rdbench.benchmark.results import CellFailure
from rdbench.benchmark.status import read_status
from rdbench.benchmark.store import FAILED, PREDICTIONS, RESULT, Store, open_store, read_result
from rdbench.errors import InputError
from tests.benchmark.test_engines import TOY
from tests.benchmark.test_merge import write
from tests.command import Command, start
from tests.made_up import make_spec


def test_what_is_finished_failed_at_work_and_left_over_is_told(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write(runs, 0)
    write(runs, 1)
    store = open_store(runs, create=True)
    for seed in range(2, 7):
        failure = CellFailure(spec=make_spec(seed=seed), stage="fit", reason="no luck", traceback="", bad_input=False)
        store.write_failure(failure)
    (runs / FAILED / "broken.json").write_text("{")
    store.work_directory("group-1-made-with-torch")
    store.work_directory("group-2-made-with-torch")
    with store.locks.hold("group-1", "toy/weave, seed 0"), store.locks.hold(f"{RUN}1") as tell:
        tell("3 of 8 cells done, 1 failed")
        found = read_status(runs)
        lines = "\n".join(found.lines())
    assert found.finished == {"toy": 2}
    assert found.failed == {"toy": 5}
    assert "run: 3 of 8 cells done, 1 failed (process" in lines
    assert f"at work: toy/weave, seed 0 (process {os.getpid()} on {platform.node()}, since" in lines
    assert "and 2 more: no luck" in lines
    assert "broken.json" in lines
    assert "begun and not finished: group-2" in lines
    assert "begun and not finished: group-1" not in lines
    assert "nothing is at work" in "\n".join(read_status(runs).lines())


def test_damaged_cells_are_counted_apart(rdbench: Command, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    cells = [write(runs, seed) for seed in range(3)]
    (cells[0] / RESULT).write_bytes((cells[0] / RESULT).read_bytes()[:-100])
    (cells[1] / RESULT).unlink()
    found = read_status(runs)
    assert (found.finished, found.damaged) == ({"toy": 1}, {"toy": 2})
    spec = read_result(cells[2] / RESULT).spec
    assert Store(runs).has(spec)
    (cells[2] / PREDICTIONS).unlink()
    assert read_status(runs).damaged == {"toy": 3}
    assert f"{cells[2] / PREDICTIONS} is missing" in "\n".join(read_status(runs).lines())
    assert not Store(runs).has(spec)
    done = rdbench("status", runs)
    assert done.code == 0
    for cell in cells[:2]:
        assert f"{cell / RESULT}" in " ".join(line for line in found.lines() if line.startswith("damaged: "))


def test_a_reason_of_several_lines_is_shown_in_one(tmp_path: Path) -> None:
    failure = CellFailure(spec=make_spec(), stage="fit", reason="a\n  b\tc", traceback="a\nb", bad_input=False)
    open_store(tmp_path, create=True).write_failure(failure)
    assert "failed: deterministic on toy/grid, seed 0: a b c" in list(read_status(tmp_path).lines())


def test_a_killed_runs_work_is_left_over_once_a_run_with_other_threads_has_finished_its_cells(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    store = open_store(runs, create=True)
    group = make_spec().group_id
    with store.locks.hold(group, "toy/grid, seed 0"):
        work = store.work_directory(f"{group}-1-threads-CPU-2-8-0-0-1-0")
    begun = "begun and not finished: toy/grid, seed 0, with 1 thread; the same command goes on from there"
    assert begun in list(read_status(runs).lines())
    (work / "fitted" / "deterministic-s0-0123456789").mkdir(parents=True)
    write(runs, 0, method="tta")
    assert begun in list(read_status(runs).lines()), "its own method is not finished"
    write(runs, 0)
    lines = list(read_status(runs).lines())
    assert begun not in lines
    [left] = [line for line in lines if line.startswith("left over: toy/grid, seed 0, with 1 thread: ")]
    assert left.endswith(f"remove {work}")
    store.write_failure(
        CellFailure(spec=make_spec(method="swag"), stage="fit", reason="no", traceback="", bad_input=False)
    )
    assert begun in list(read_status(runs).lines()), "a failed cell of the group is tried again there"


def test_what_is_no_store_is_said_and_so_is_that_nothing_is_finished(rdbench: Command, tmp_path: Path) -> None:
    done = rdbench("status", tmp_path)
    assert done.code == 0, "a run may have made it just now"
    assert done.out.splitlines() == ["nothing is finished here", "nothing is at work here"]
    foreign = tmp_path / "some" / "other" / "experiment" / RESULT
    foreign.parent.mkdir(parents=True)
    foreign.write_text("{}")
    done = rdbench("status", tmp_path)
    assert done.code == 2
    assert f"{tmp_path} is no directory of results" in done.error()


def test_a_group_that_begins_while_one_looks_is_not_left_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path, create=True)
    looked, working = Locks.held, ExitStack()

    def held(self: Locks) -> Iterator[Holder]:
        yield from looked(self)
        if not (tmp_path / ".work" / "group-1-made-with-torch").exists():
            working.enter_context(store.locks.hold("group-1", "toy/weave, seed 0"))
            store.work_directory("group-1-made-with-torch")

    monkeypatch.setattr(Locks, "held", held)
    with working:
        found = read_status(tmp_path)
        assert not found.begun + found.left


def test_no_store_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no results at"):
        read_status(tmp_path / "none")


def test_asking_again_and_again_disturbs_no_run(rdbench: Command, tmp_path: Path) -> None:
    """Every answer during a run fits the store, and the run goes on undisturbed."""
    runs = tmp_path / "runs"
    run = start(*TOY, "-m", "deterministic", "--seed", "0", "--seed", "1", "--out", runs)
    seen = set()
    while run.poll() is None:
        time.sleep(0.02)
        if runs.is_dir():
            before = len(list(Store(runs).results()))
            found = read_status(runs)
            assert before <= found.finished["toy"] <= len(list(Store(runs).results()))
            assert len(found.runs) <= 1
            assert len(found.groups) <= 1
            seen |= {holder.what for holder in (*found.runs, *found.groups)}
    done = run.done()
    assert done.code == 0, done.err
    assert {
        "0 of 2 cells done, 0 failed",
        "toy/twill, seed 0",
        "1 of 2 cells done, 0 failed",
        "toy/twill, seed 1",
    } <= seen
    done = rdbench("status", runs)
    assert "nothing is at work here" in done.out
    assert "2" in done.out

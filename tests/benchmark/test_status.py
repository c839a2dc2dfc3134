"""`rdbench status` tells what is so at that moment."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rdbench.benchmark.results import CellFailure
from rdbench.benchmark.status import read_status
from rdbench.benchmark.store import FAILED, Holder, Store, open_store
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
    with store.lock("group-1", "toy/weave, seed 0"), store.lock("run-1") as tell:
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


def test_a_group_that_begins_while_one_looks_is_not_left_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path, create=True)
    looked, working = Store.held, ExitStack()

    def held(self: Store) -> Iterator[Holder]:
        yield from looked(self)
        if not (tmp_path / ".work" / "group-1-made-with-torch").exists():
            working.enter_context(store.lock("group-1", "toy/weave, seed 0"))
            store.work_directory("group-1-made-with-torch")

    monkeypatch.setattr(Store, "held", held)
    with working:
        assert not read_status(tmp_path).left


def test_no_store_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no results at"):
        read_status(tmp_path / "none")


def test_asking_again_and_again_disturbs_no_run(rdbench: Command, tmp_path: Path) -> None:
    """Every answer during a run fits the store, and the run goes on undisturbed."""
    runs = tmp_path / "runs"
    process = start(*TOY, "-m", "deterministic", "--seed", "0", "--seed", "1", "--out", runs)
    seen = set()
    while process.poll() is None:
        time.sleep(0.02)
        if runs.is_dir():
            before = len(list(Store(runs).results()))
            found = read_status(runs)
            assert before <= found.finished["toy"] <= len(list(Store(runs).results()))
            assert len(found.runs) <= 1
            assert len(found.groups) <= 1
            seen |= {run.what for run in found.runs} | {group.what for group in found.groups}
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert {
        "0 of 2 cells done, 0 failed",
        "toy/twill, seed 0",
        "1 of 2 cells done, 0 failed",
        "toy/twill, seed 1",
    } <= seen
    done = rdbench("status", runs)
    assert "nothing is at work here" in done.out
    assert "2" in done.out

"""Engines: a worker that dies or hangs costs its own cell alone, and every engine gives the same bits."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from rdbench.benchmark.engines import Engine, Work
from rdbench.benchmark.engines.choose import choose_engine
from rdbench.benchmark.engines.local import InProcess, Workers
from rdbench.benchmark.engines.task import Part, Task, TaskOutcome
from rdbench.benchmark.plan import RunSettings, make_settings
from rdbench.benchmark.planning import Plan
from rdbench.benchmark.progress import Reporter
from rdbench.benchmark.run import run_plan
from rdbench.benchmark.store import FAILED, Store, open_store
from tests.benchmark import engine_works
from tests.command import start
from tests.made_up import make_spec
from tests.same import predictions_of

pytestmark = pytest.mark.long

TOY = ("run", "--dataset", "toy", "--category", "twill", "--image-size", "64", "--epochs", "1", "--no-gallery")


def make_task(out: Path, methods: Sequence[str], seed: int = 0) -> Task:
    """A task whose methods are words of :mod:`tests.benchmark.engine_works`."""
    specs = tuple(make_spec(method=method, seed=seed) for method in methods)
    return Task((Part(toy_settings(out), specs),))


@cache
def toy_settings(out: Path) -> RunSettings:
    return make_settings(
        methods=["deterministic"], dataset="toy", root=None, categories=["twill"], options=(), seeds=(), shifts=(),
        backbone=None, weights=None, image_size="64", map_size="native", epochs=1, batch_size=16, device="cpu",
        precision="fp32", alpha=0.1, out=out, methods_dir=None, keep_models=False,
    )  # fmt: skip


def run_with(
    engine: Engine, tasks: Sequence[Task], work: Work = engine_works.by_name
) -> tuple[dict[str, TaskOutcome], str]:
    """The outcomes by task id, and what was said."""
    said = io.StringIO()
    reporter = Reporter(Console(file=said, width=1000))
    with engine:
        outcomes = {task.group_id: outcome for task, outcome in engine.run(tasks, work, reporter)}
    return outcomes, said.getvalue()


def reasons(outcome: TaskOutcome) -> dict[str, str]:
    return {failure.spec.method: failure.reason for failure in outcome.failures}


def done(out: Path) -> str:
    return (out / "done.txt").read_text()


def test_a_cell_that_ends_its_process_is_tried_twice_and_costs_itself_alone(tmp_path: Path) -> None:
    task = make_task(tmp_path, ["tta", "exits", "kills_itself", "deterministic"])
    outcomes, said = run_with(Workers(1), [task])
    (outcome,) = outcomes.values()
    assert reasons(outcome) == {
        "exits": "the worker process ended by itself (exit code 7) while predicting",
        "kills_itself": "the worker process was killed by signal 9 (SIGKILL), out of memory? while predicting",
    }
    assert "last words" in outcome.failures[0].traceback
    assert said.count("trying once more") == 2
    assert "deterministic" in done(tmp_path)


def test_a_cell_that_takes_too_long_is_stopped_and_the_rest_goes_on(tmp_path: Path) -> None:
    begun = time.monotonic()
    outcomes, _ = run_with(Workers(1, cell_timeout=1.0), [make_task(tmp_path, ["hangs", "prints", "forks", "tta"])])
    (outcome,) = outcomes.values()
    assert reasons(outcome) == {"hangs": "stopped while predicting: took more than 1 s (--cell-timeout)"}
    assert "tta" in done(tmp_path)
    assert time.monotonic() - begun < 30


def test_a_worker_that_cannot_be_understood_was_not_killed_by_the_system(tmp_path: Path) -> None:
    outcomes, _ = run_with(Workers(1), [make_task(tmp_path, ["scribbles"])])
    (outcome,) = outcomes.values()
    assert reasons(outcome) == {"scribbles": "the worker process lost its connection to the run while predicting"}


def test_cells_that_a_dying_worker_had_finished_have_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(tmp_path, ["tta", "deterministic"])
    store = open_store(tmp_path, create=True)
    monkeypatch.setattr("rdbench.benchmark.run.run_task", engine_works.finishes_one_and_dies)
    with Workers(1) as engine:
        outcome = run_plan(Plan(store, (), (task,)), Reporter(Console(quiet=True)), engine)
    assert [spec.method for spec in outcome.finished] == ["tta"]
    assert [failure.spec.method for failure in outcome.failures] == ["deterministic"]
    assert [path.name for path in (tmp_path / FAILED).iterdir()] == [store.failure_path(task.specs[1]).name]


def test_a_process_that_died_for_no_fault_of_the_cell_is_forgiven(tmp_path: Path) -> None:
    outcomes, _ = run_with(Workers(2), [make_task(tmp_path, ["dies_once"], seed) for seed in range(3)])
    assert len(outcomes) == 3
    assert not any(outcome.failures for outcome in outcomes.values())


def test_workers_share_the_cores_and_nothing_of_them_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    files, processes = set(os.listdir("/proc/self/fd")), children(os.getpid())
    engine = Workers(2)
    assert engine.threads == max(1, len(os.sched_getaffinity(0)) // 2)
    outcomes, _ = run_with(engine, [make_task(tmp_path, ["tta", "prints"], seed) for seed in range(6)])
    assert len(outcomes) == 6
    assert {line.split()[0] for line in done(tmp_path).splitlines()} == {str(engine.threads)}
    assert set(os.listdir("/proc/self/fd")) <= files
    assert children(os.getpid()) == processes, "no process is left"


def test_workers_take_the_gpus_in_turn(tmp_path: Path) -> None:
    tasks = [make_task(tmp_path, ["tta"], seed) for seed in range(3)]
    run_with(Workers(3, gpus=("2", "GPU-a1")), tasks, engine_works.name_gpu)
    assert sorted(done(tmp_path).split()) == ["2", "2", "GPU-a1"]


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from tests.benchmark.test_engines import *;"
        f"run_with(Workers(1), [make_task(Path({str(tmp_path)!r}), ['tta', 'forks', 'hangs'])])"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    while not (tmp_path / "done.txt").exists() or "forks" not in done(tmp_path):
        assert parent.poll() is None
        time.sleep(0.1)
    (child,) = children(parent.pid)
    (grandchild,) = children(child)
    parent.kill()
    parent.wait()
    end = time.monotonic() + 10
    while (running(child) or running(grandchild)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not running(child)
    assert not running(grandchild), "it would hold the group's lock"


def test_ctrl_c_ends_the_workers_and_keeps_what_is_done(tmp_path: Path) -> None:
    run = start(*TOY, "-m", "deterministic", "--epochs", "1000", "--workers", "2", "--out", tmp_path / "runs")
    run.wait_for("fitting")
    workers = children(run.pid)
    run.send_signal(signal.SIGINT)
    done = run.done(timeout=60)
    assert done.code == 130
    assert "the same command goes on" in done.error()
    assert workers
    assert not any(running(worker) for worker in workers)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


HOSTILE = '''"""A method that takes its process with it, or time."""
import os, time
from dataclasses import dataclass
from typing import Literal
from methods.deterministic import Deterministic

@dataclass
class Hostile(Deterministic):
    how: Literal["exit", "hang"] = "exit"
    def predict(self, batch):
        os._exit(3) if self.how == "exit" else time.sleep(600)
'''


def test_workers_give_the_bits_of_one_process_and_survive_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a method that exits and one that hangs cost their cells, with the reason kept."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "hostile.py").write_text(HOSTILE)
    one = start(*TOY, "-m", "deterministic", "--out", tmp_path / "one").done()
    assert one.code == 0, one.err
    given = ("-m", "deterministic,hostile", "-o", "how=exit,hang", "--methods-dir", tmp_path, "--cell-timeout", "5")
    two = start(*TOY, *given, "--out", tmp_path / "two", cwd=Path(__file__).parents[2])
    two.wait_for("fitting")
    (child,) = children(two.pid)
    os.kill(child, signal.SIGKILL)
    done = two.done()
    assert done.code == 1, done.err
    assert "signal 9" in done.error()
    assert predictions_of(tmp_path / "two") == predictions_of(tmp_path / "one")
    kept = [path.read_text() for path in (tmp_path / "two" / ".failed").iterdir()]
    assert len(kept) == 2
    assert sum("exit code 3" in text for text in kept) == 1
    assert sum("--cell-timeout" in text for text in kept) == 1
    assert {result.provenance.threads for _, result in Store(tmp_path / "two").results()} == {1}


def test_other_numbers_of_threads_agree_to_rounding_before_training(tmp_path: Path) -> None:
    """Equal bits cannot be had there, and training multiplies the rounding: docs/scaling.md says how far."""
    maps = []
    for threads in (1, 2):
        task = make_task(tmp_path, ["tta"])
        run_with(Workers(1, threads=threads), [task], engine_works.untrained_map)
        maps.append(np.load(tmp_path / f"{threads}.npy"))
    np.testing.assert_allclose(maps[0], maps[1], rtol=1e-5, atol=1e-5)


def test_one_worker_that_is_asked_for_is_a_process_of_its_own() -> None:
    def chosen(workers: int | None) -> object:
        return choose_engine(
            "local", device="cpu", workers=workers, cell_timeout=None, address=None, cpus=1, gpus=None, sync_data=False
        )

    assert isinstance(chosen(None), InProcess)
    assert isinstance(chosen(1), Workers)

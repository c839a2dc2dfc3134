"""2,000 real cells in one run with two workers: memory and open files stay, and what is said of it is so."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from rdbench.benchmark.engines.local import Workers
from rdbench.benchmark.status import Status, read_status
from rdbench.benchmark.store import LOCKS, RESULT, WORK
from tests.benchmark.test_engines import children, make_task, run_with
from tests.command import Running, start
from tests.datasets import trees

pytestmark = pytest.mark.long

CHOICES, SEEDS, WORKERS = 100, 20, 2
CELLS = CHOICES * SEEDS

METHOD = '''"""Next to no work, so that what is measured is the benchmark's own; it tells what is in use."""
import ctypes, os, sys
from dataclasses import dataclass
from rdbench.protocol import Prediction

class Mallinfo(ctypes.Structure):
    _fields_ = [("field", ctypes.c_size_t * 10)]

mallinfo = ctypes.CDLL("libc.so.6").mallinfo2
mallinfo.restype = Mallinfo

@dataclass
class Trivial:
    x: int = 0
    "which cell"
    def fit(self, train, context):
        with open({told!r} + str(os.getpid()), "a") as told:
            uordblks = mallinfo().field[7]
            print(uordblks, sys.getallocatedblocks(), file=told)
    def predict(self, batch):
        maps = batch.images.square().mean(1)
        scores = maps.amax((1, 2)) + self.x
        return Prediction(maps, scores, scores)
    def save(self, directory): pass
    def load(self, directory, context): pass
'''


@dataclass(frozen=True)
class Look:
    """One process at one moment."""

    finished: int
    """Cells in the store just before."""
    megabytes: float
    files: int


def look_at(pid: int, finished: int) -> Look:
    """Resident memory of its own (no files') and open files. Raises OSError if the process has ended."""
    status = Path(f"/proc/{pid}/status").read_text()
    if not (resident := re.search(r"RssAnon:\s+(\d+) kB", status)):
        raise ProcessLookupError(f"process {pid} has ended")
    return Look(finished, int(resident[1]) * 1024 / 1e6, len(os.listdir(f"/proc/{pid}/fd")))


def finished_in(runs: Path) -> int:
    """Cell directories; they are moved in whole."""
    cells = runs / "folder" / "bottle"
    return len(os.listdir(cells)) if cells.is_dir() else 0


def check_status(found: Status, before: int, after: int) -> int:
    """Hold a status between two counts of the store; how many cells the run said were done."""
    assert before <= found.finished.total() <= after
    assert not found.failed
    assert len(found.groups) <= WORKERS
    assert not found.begun + found.left + found.problems
    [run] = found.runs
    said = re.fullmatch(rf"(\d+) of {CELLS} cells done, 0 failed", run.what)
    assert said, run.what
    # A group is told of when it has ended, before its worker gets another: at most one group per worker is untold.
    assert before - WORKERS * CHOICES <= int(said[1]) <= after
    return int(said[1])


def check_steady(looks: Sequence[Look], bound_mb: float) -> None:
    """The last quarter of a run against its second, from outside."""
    quarters = [
        [look for look in looks if CELLS * start <= look.finished < CELLS * (start + 0.25)] for start in (0.25, 0.75)
    ]
    most = [max(look.megabytes for look in quarter) for quarter in quarters]
    assert most[-1] - most[0] < bound_mb, most
    files = [min(look.files for look in quarter) for quarter in quarters]
    assert files[-1] <= files[0] + 2, "less than one per group; what is open for a moment comes and goes"


def check_no_leak(told: Path) -> None:
    """What a worker has in use, from inside, each time it begins a cell: malloc's bytes and Python's blocks.

    A leak shows in every quarter. Python's table of interned strings may double within a run, once, when new strings
    have taken the places of all that went: about 4 MB.
    """
    in_use = [tuple(map(int, line.split())) for line in told.read_text().splitlines()]
    quarter = len(in_use) // 4
    assert quarter >= CELLS / WORKERS / 8, "both worked"
    for measure, leak, most in zip(zip(*in_use, strict=True), (1e6, 10_000), (5e6, 20_000), strict=True):
        peaks = [max(measure[start : start + quarter]) for start in (quarter, 2 * quarter, 3 * quarter)]
        assert min(later - earlier for earlier, later in pairwise(peaks)) < leak, peaks
        assert peaks[-1] - peaks[0] < most, peaks


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Running]:
    mine, data = tmp_path / "mine", tmp_path / "data"
    trees.mvtec_ad(data, train=22)
    mine.mkdir()
    (mine / "trivial.py").write_text(METHOD.format(told=str(tmp_path / "in_use-")))
    seeds = [part for seed in range(SEEDS) for part in ("--seed", seed)]
    run = start(
        "run", "-m", "trivial", "-o", f"x={','.join(map(str, range(CHOICES)))}", *seeds, "--methods-dir", mine,
        "--dataset", "folder", "--root", data, "--backbone", "embedded", "--image-size", "32", "--epochs", "1",
        "--precision", "fp32", "--no-gallery", "--workers", WORKERS, "--out", tmp_path / "runs",
    )  # fmt: skip
    yield run
    run.kill()


def test_two_thousand_cells_on_two_workers(started: Running, tmp_path: Path) -> None:
    """The driver, its workers, the store and what `rdbench status` tells of it are looked at several times a second."""
    runs = tmp_path / "runs"
    driver: list[Look] = []
    workers: dict[int, list[Look]] = {}
    told = [0]
    while started.poll() is None:
        time.sleep(0.25)
        before = finished_in(runs)
        with suppress(OSError):  # one of them has ended
            driver.append(look_at(started.pid, before))
            for child in children(started.pid):
                workers.setdefault(child, []).append(look_at(child, before))
        if 0 < before <= CELLS - CHOICES and len(driver) % 12 == 0:
            found = read_status(runs)
            told.append(check_status(found, before, finished_in(runs)))
    done = started.done()
    assert done.code == 0, done.err
    assert finished_in(runs) == len(list(runs.glob(f"*/*/*/{RESULT}"))) == CELLS
    assert told == sorted(told)
    assert len(set(told)) >= SEEDS / WORKERS, (
        "it is told while the run goes on; two workers may end their groups together"
    )
    announced = [tuple(map(int, line)) for line in re.findall(rf"cells (\d+) to (\d+) of {CELLS}:", done.err)]
    assert announced == [(first + 1, first + CHOICES) for first in range(0, CELLS, CHOICES)]
    assert len(workers) == WORKERS, "no worker was ended and replaced"
    check_steady(driver, 12.5)
    for worker, looks in workers.items():
        # A worker keeps what it has freed, so it grows where no hole of its heap fits what is asked for next.
        check_steady(looks, 50)
        check_no_leak(tmp_path / f"in_use-{worker}")
    assert not [path for path in (runs / WORK).iterdir() if path.name not in (LOCKS, "cells")]
    assert not any((runs / WORK / "cells").iterdir())


def test_two_thousand_groups_go_through_the_pipes(tmp_path: Path) -> None:
    """More groups than the run above has, of no work; `tests/speed/engines.py` has 10,000."""
    files = set(os.listdir("/proc/self/fd"))
    tasks = [make_task(tmp_path, ["tta"], seed) for seed in range(2000)]
    before = look_at(os.getpid(), 0)
    outcomes, _ = run_with(Workers(2), tasks)
    assert len(outcomes) == 2000
    assert look_at(os.getpid(), 0).megabytes - before.megabytes < 25
    assert set(os.listdir("/proc/self/fd")) <= files

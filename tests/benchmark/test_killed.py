"""A killed run keeps what is finished, and the same command ends where an undisturbed run does, bit for bit."""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from rdbench.benchmark.store import Store
from tests.benchmark.test_faults import command
from tests.command import start
from tests.same import predictions_of

pytestmark = pytest.mark.long

KILLS = 50


WARM = """
import json, os, sys
import rdbench.benchmark.engines.choose, rdbench.benchmark.group, rdbench.benchmark.planning, rdbench.report.tables
import methods.deep_ensemble, methods.deterministic, methods.mc_dropout
from rdbench.cli import main

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        sys.argv = ["rdbench", *json.loads(line)]
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        try:
            main()
        except SystemExit as end:
            os._exit(end.code or 0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Warm:
    """Runs of `rdbench`, one at a time, in processes that have imported everything when they start."""

    def __enter__(self) -> Warm:
        self._server = subprocess.Popen(
            [sys.executable, "-c", WARM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.run("--version")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()

    def run(self, *arguments: object, killed_after: float | None = None) -> int:
        """The exit code; -9 of a run that was killed before it had ended."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps([str(argument) for argument in arguments]), file=self._server.stdin, flush=True)
        child = int(self._server.stdout.readline())
        if killed_after is not None and not select.select([self._server.stdout], [], [], killed_after)[0]:
            with suppress(ProcessLookupError):  # ended just now
                os.kill(child, signal.SIGKILL)
        return int(self._server.stdout.readline())


def test_killed_at_fifty_random_moments(root: Path, tmp_path: Path) -> None:
    """Whatever stage it is in; a run that was faster than its kill loses a category, so that there is more to do."""
    small = ("--image-size", "32")
    moments = random.Random(0)
    killed = spared = 0
    with Warm() as warm:
        begun = time.monotonic()
        assert warm.run(*command(root, tmp_path / "undisturbed", *small)) == 0
        seconds = time.monotonic() - begun
        wanted = predictions_of(tmp_path / "undisturbed")
        assert len(wanted) == 4
        runs = tmp_path / "killed"
        runs.mkdir()
        while killed < KILLS:
            begun = time.monotonic()
            code = warm.run(*command(root, runs, *small), killed_after=moments.uniform(0, seconds))
            assert code in (0, -signal.SIGKILL)
            killed += code != 0
            there = predictions_of(runs)
            for path, content in there.items():  # what is there is whole
                assert content == wanted[path]
            spared += bool(there)
            assert not [path for cell in there for path in (runs / cell).glob(".*")], "nothing half-written is left"
            if code == 0:
                seconds = time.monotonic() - begun  # the next is killed while it works
                shutil.rmtree((runs / moments.choice(sorted(there))).parent)
        assert warm.run(*command(root, runs, *small)) == 0
        assert predictions_of(runs) == wanted
    figures, undisturbed = (
        {
            directory.relative_to(out): (result.image, result.pixel, result.threshold)
            for directory, result in Store(out).results()
        }
        for out in (runs, tmp_path / "undisturbed")
    )
    assert figures == undisturbed
    assert spared > KILLS / 5, "finished cells were there to be spoilt"


def test_ctrl_c_says_that_the_work_is_kept(root: Path, tmp_path: Path) -> None:
    process = start(*command(root, tmp_path / "runs", "--epochs", "1000"))
    assert process.stderr is not None
    for line in process.stderr:
        if "fitting" in line:
            break
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 130
    assert "the same command goes on" in errors
    assert "Traceback" not in errors

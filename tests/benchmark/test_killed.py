"""A killed run keeps what is finished, and the same command ends where an undisturbed run does, bit for bit."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rdbench.benchmark.store import Store
from tests.benchmark.test_faults import command
from tests.command import Command, start
from tests.same import predictions_of

pytestmark = pytest.mark.long

KILLS = 50


def test_killed_at_fifty_random_moments(root: Path, tmp_path: Path) -> None:
    """Whatever stage it is in; a run that was faster than its kill loses a category, so that there is more to do."""
    small = ("--image-size", "32")
    moments = random.Random(0)
    killed = spared = 0
    assert start(*command(root, tmp_path / "undisturbed", *small)).done().code == 0  # the first takes longer
    shutil.rmtree(tmp_path / "undisturbed")
    begun = time.monotonic()
    assert start(*command(root, tmp_path / "undisturbed", *small)).done().code == 0
    seconds = time.monotonic() - begun
    wanted = predictions_of(tmp_path / "undisturbed")
    assert len(wanted) == 4
    runs = tmp_path / "killed"
    runs.mkdir()
    while killed < KILLS:
        begun = time.monotonic()
        run = start(*command(root, runs, *small))
        code = run.done(kill_after=moments.uniform(0, seconds)).code
        assert code in (0, -signal.SIGKILL)
        killed += code != 0
        there = predictions_of(runs)
        for path, content in there.items():  # what is there is whole
            assert content == wanted[path]
        spared += bool(there)
        seconds *= 1 if there else 1.1  # as where the machine has become slower
        assert not [path for cell in there for path in (runs / cell).glob(".*")], "nothing half-written is left"
        if code == 0:
            seconds = time.monotonic() - begun  # the next is killed while it works
            shutil.rmtree((runs / moments.choice(sorted(there))).parent)
    assert start(*command(root, runs, *small)).done().code == 0
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


def test_interrupted_while_it_clears_up_it_leaves_nothing_half_removed_to_go_on_from(
    rdbench: Command, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next run would take what is left of a fitted method for the whole."""
    given = command(root, tmp_path, "-c", "vial", "--image-size", "32")
    remove = shutil.rmtree

    def interrupted(path: Path, **options: bool) -> None:
        students = list(Path(path).glob("fitted/*/model/student.safetensors"))
        if not students:
            return remove(path, **options)
        students[0].unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", interrupted)
        assert rdbench(*given).code == 130
    whole = predictions_of(tmp_path)
    assert len(whole) == 2
    for cell in whole:
        remove(tmp_path / cell)
    assert rdbench(*given).code == 0
    assert predictions_of(tmp_path) == whole


def test_ctrl_c_says_that_the_work_is_kept(root: Path, tmp_path: Path) -> None:
    """In a process that begins and ends as a user's does."""
    given = command(root, tmp_path / "runs", "--epochs", "1000")
    run = subprocess.Popen(
        [sys.executable, "-m", "rdbench.cli", *map(str, given)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        # A shell's background job, as the test run may be one, hands on that it ignores Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert run.stderr is not None
    for line in run.stderr:
        if "fitting" in line:
            break
    run.send_signal(signal.SIGINT)
    try:
        _, errors = run.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        run.kill()
        raise
    assert run.returncode == 130
    assert "the same command goes on" in errors
    assert "Traceback" not in errors

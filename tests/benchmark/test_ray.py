"""The Ray engine on a real cluster: three nodes on this machine, each started by a `ray start` of its own."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdbench.benchmark.engines.ray import RayCluster
from rdbench.benchmark.store import Store
from rdbench.datasets import load_category
from tests.benchmark.test_engines import TOY, make_task, reasons, run_with
from tests.command import QUICK, Command, start
from tests.datasets import trees
from tests.same import predictions_of

pytestmark = pytest.mark.long

REPOSITORY = Path(__file__).parents[2]
RAY = Path(sys.executable).parent / "ray"


class Cluster:
    """Nodes of one core each, each with a folder of its own for temporary files."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.folder = folder
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._temporary: dict[int, Path] = {}
        """By the number of a node's process."""
        where = ("--head", f"--port={self.address.partition(':')[2]}", f"--temp-dir={folder}")
        self.join(*where, "--include-dashboard=false")

    def join(self, *where: str) -> subprocess.Popen[bytes]:
        """Start a node; returns when it is about to be there."""
        command = [RAY, "start", *(where or (f"--address={self.address}",)), "--block", "--num-cpus=1"]
        command += ["--node-ip-address=127.0.0.1", "--object-store-memory=80000000", "--disable-usage-stats"]
        temporary = self.folder / f"tmp{len(self._nodes)}"
        temporary.mkdir()
        environment = dict(os.environ, PYTHONPATH=str(REPOSITORY), OMP_NUM_THREADS="1", TMPDIR=str(temporary))
        log = self.folder / f"node{len(self._nodes)}.log"
        with log.open("wb") as file:
            node = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
        self._nodes.append(node)
        self._temporary[node.pid] = temporary
        end = time.monotonic() + 60
        while "Ray runtime started" not in log.read_text():
            assert node.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        return node

    def is_at_work(self, node: subprocess.Popen[bytes]) -> bool:
        """Whether the node has begun a group, whose store lies there until it ends."""
        try:
            return any(self._temporary[node.pid].glob("rdbench-*/.work/*/fitted"))
        except FileNotFoundError:  # a group has just ended
            return False

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """Kill all of a node's processes at once."""
        for pid in reversed([node.pid, *descendants(node.pid)]):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        node.wait()

    def stop(self) -> None:
        for node in reversed(self._nodes):
            self.kill(node)


def figures_of(runs: Path) -> dict[Path, object]:
    """Threshold, image and pixel figures of each finished cell: all that does not depend on when and where."""
    found = Store(runs).results()
    return {directory.relative_to(runs): (each.threshold, each.image, each.pixel) for directory, each in found}


def descendants(pid: int) -> list[int]:
    try:
        children = list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [each for child in children for each in (child, *descendants(child))]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")  # a token of its own, whatever the user's home has
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        assert "ray" not in sys.modules, "an earlier test imported Ray, which read its token then: this one is not seen"
        pytest.importorskip("ray", reason="Ray is not installed: pip install 'rdbench[ray]'")
        folder = Path(tempfile.mkdtemp(prefix="ray"))  # pytest's folders are too deep for the names of Ray's sockets
        cluster = Cluster(folder)
        try:
            cluster.join()
            yield cluster
        finally:
            cluster.stop()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.cluster
def test_three_nodes_of_which_one_dies_and_one_comes_late_give_the_bits_of_one_process(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    seeds = [part for seed in range(6) for part in ("--seed", str(seed))]
    given = (*TOY, "-m", "deterministic", *seeds, "--out")
    doomed = cluster.join()
    many = start(*given, tmp_path / "many", "--engine", "ray", "--address", cluster.address)
    end = time.monotonic() + 120
    while not (predictions_of(tmp_path / "many") and cluster.is_at_work(doomed)):
        assert many.poll() is None, many.done().err
        assert time.monotonic() < end
        time.sleep(0.05)
    many.send_signal(signal.SIGSTOP)  # or the others have done everything before the late one is there
    try:
        cluster.kill(doomed)
        one = start(*given, tmp_path / "one")
        cluster.join()
    finally:
        many.send_signal(signal.SIGCONT)
    done = many.done()
    assert done.code == 0, done.err
    died = r"toy/twill, seed \d: the node or its Ray worker died \(\w+\); given to another"
    assert re.search(died, done.err), done.err
    assert "joined" in done.err
    alone = one.done()
    assert alone.code == 0, alone.err
    assert len(predictions_of(tmp_path / "many")) == 6
    assert predictions_of(tmp_path / "many") == predictions_of(tmp_path / "one")
    assert figures_of(tmp_path / "many") == figures_of(tmp_path / "one")
    a_dying_cell_costs_itself_alone(cluster, tmp_path)


@pytest.mark.cluster
def test_images_are_sent_to_nodes_and_again_where_they_are_other_ones_by_then(cluster: Cluster, tmp_path: Path) -> None:
    trees.mvtec_ad2(tmp_path / "data")
    given = (
        "run",
        "-m",
        "deterministic",
        "--dataset",
        "mvtec_ad2",
        "--root",
        tmp_path / "data",
        "--no-gallery",
        *QUICK,
    )
    on_ray = ("--engine", "ray", "--address", cluster.address, "--sync-data")

    def sent() -> list[Path]:
        return list(cluster.folder.glob("tmp*/rdbench-data-*/*/root/vial"))

    done = start(*given, "--seed", "0", "--seed", "1", *on_ray, "--out", tmp_path / "many").done()
    assert done.code == 0, done.err
    assert len(predictions_of(tmp_path / "many")) == 2
    here = load_category("mvtec_ad2", "vial", tmp_path / "data", 0).fingerprint
    assert sent()
    assert {load_category("mvtec_ad2", "vial", folder.parent, 0).fingerprint for folder in sent()} == {here}
    for folder in sent():
        trees.draw(next(folder.glob("test_public/good/*.png")), seed=1)
    again = start(*given, "--seed", "2", *on_ray, "--out", tmp_path / "many").done()
    assert again.code == 0, again.err
    assert len(predictions_of(tmp_path / "many")) == 3
    assert here in {load_category("mvtec_ad2", "vial", folder.parent, 0).fingerprint for folder in sent()}


@pytest.mark.cluster
def test_ctrl_c_leaves_a_store_that_goes_on(cluster: Cluster, rdbench: Command, tmp_path: Path) -> None:
    seeds = [part for seed in range(4) for part in ("--seed", str(seed))]
    given = (*TOY, "-m", "deterministic", *seeds, "--out", tmp_path, "--engine", "ray", "--address", cluster.address)
    run = start(*given)
    end = time.monotonic() + 120
    while not predictions_of(tmp_path):
        assert run.poll() is None, run.done().err
        assert time.monotonic() < end
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    done = run.done(timeout=60)
    assert done.code == 130, done.err
    assert "the same command goes on from here" in done.error()
    kept = predictions_of(tmp_path)
    assert 0 < len(kept) < 4
    assert "nothing is at work here" in rdbench("status", tmp_path).out
    again = start(*given).done()
    assert again.code == 0, again.err
    assert len(predictions_of(tmp_path)) == 4
    assert kept.items() <= predictions_of(tmp_path).items()


def a_dying_cell_costs_itself_alone(cluster: Cluster, tmp_path: Path) -> None:
    tasks = [make_task(tmp_path, ["exits", "hangs", "tta"]), make_task(tmp_path, ["tta"], seed=1)]
    engine = RayCluster(cluster.address, cpus=1, gpus=None, device="cpu", cell_timeout=2.0, sync_data=False)
    outcomes, _ = run_with(engine, tasks)
    assert reasons(outcomes[tasks[0].group_id]) == {
        "exits": "the worker process ended by itself (exit code 7) while predicting",
        "hangs": "stopped while predicting: took more than 2 s (--cell-timeout)",
    }
    assert not outcomes[tasks[1].group_id].failures


def test_a_cluster_that_is_not_there_is_said(rdbench: Command, tmp_path: Path) -> None:
    done = rdbench(*TOY, "-m", "tta", "--out", tmp_path, "--engine", "rya")
    assert done.code == 2
    assert "unknown engine 'rya'; did you mean ray" in done.error()
    assert "for --engine ray" in rdbench(*TOY, "-m", "tta", "--out", tmp_path, "--address", "auto").error()


def test_a_ray_address_that_nobody_answers_is_said_at_once(rdbench: Command, tmp_path: Path) -> None:
    began = time.monotonic()
    done = rdbench(*TOY, "-m", "deterministic", "--engine", "ray", "--address", "127.0.0.1:1", "--out", tmp_path)
    assert done.code == 2
    assert "no Ray cluster answers at 127.0.0.1:1" in done.error()
    assert time.monotonic() - began < 60, "Ray itself waits minutes"

"""The Ray engine on a made-up cluster: what nodes send, what groups ask for, how images travel."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from rdbench.benchmark.engines.data import pack_images, unpacked
from rdbench.benchmark.engines.ray import RayCluster
from rdbench.benchmark.engines.task import Task, TaskOutcome, run_task
from rdbench.benchmark.plan import Share
from rdbench.benchmark.planning import Plan
from rdbench.benchmark.progress import Reporter
from rdbench.benchmark.results import PROTOCOL_VERSION, CellFailure
from rdbench.benchmark.run import run_plan
from rdbench.benchmark.store import Store, open_store
from rdbench.datasets import load_category
from rdbench.errors import InputError
from tests.benchmark.engine_works import nothing
from tests.benchmark.test_engines import TOY, make_task
from tests.benchmark.test_merge import write
from tests.benchmark.test_sweep import planned
from tests.command import Command
from tests.datasets import trees
from tests.same import predictions_of

pytestmark = pytest.mark.long


class MadeUpRay(SimpleNamespace):
    """A cluster of one node, which answers each task with `answer` on the third look."""

    def __init__(self, answer: object) -> None:
        looks = iter(range(100))
        super().__init__(
            remote=lambda **_: lambda _: SimpleNamespace(remote=lambda *_: "reference"),
            wait=lambda references, **_: (references if next(looks) > 1 else [], []),
            get=lambda reference: answer if reference == "reference" else reference,
            cancel=lambda *_, **__: None,
            nodes=lambda: [{"NodeID": "1", "Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}}],
            cluster_resources=lambda: {"CPU": 4.0, "GPU": 1.0},
            exceptions=SimpleNamespace(RayTaskError=ZeroDivisionError, RayError=ZeroDivisionError),
        )


def packed(directory: Path) -> bytes:
    """A cell as a node sends it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.add(directory, arcname=".")
    return file.getvalue()


def ray_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: Path, cpus: int = 1
) -> tuple[TaskOutcome, str, Store]:
    """What comes of a task of the cell `tta`, seed 0, for which a node sends the directory `sent`."""
    monkeypatch.setitem(sys.modules, "ray", MadeUpRay((TaskOutcome(), [packed(sent)])))
    engine = RayCluster(None, cpus=cpus, gpus=0, device="cpu", cell_timeout=None, sync_data=False)
    said = io.StringIO()
    task = make_task(tmp_path / "runs", ["deterministic"])
    with closing(engine.run([task], nothing, Reporter(Console(file=said, width=1000)))) as ended:
        ((_, outcome),) = ended
    return outcome, said.getvalue(), Store(tmp_path / "runs")


def test_a_node_brings_in_the_cells_that_it_was_asked_for_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it sent that cannot be used costs its group, not the run."""
    asked, other = write(tmp_path / "node", 0), write(tmp_path / "node", 1)
    outcome, _, store = ray_outcome(tmp_path, monkeypatch, asked)
    assert outcome == TaskOutcome()
    assert [result.spec.seed for _, result in store.results()] == [0]
    outcome, _, store = ray_outcome(tmp_path / "second", monkeypatch, other)
    assert "deterministic on toy/grid, seed 1 was not asked for" in outcome.bad_input
    assert not list(store.results())
    (asked / "predictions.npz").write_bytes(b"cut off")
    outcome, _, _ = ray_outcome(tmp_path / "third", monkeypatch, asked)
    assert "is not what the result was computed from" in outcome.bad_input


def test_what_a_node_sent_before_it_died_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor what another run brought in before this one held the group."""
    cells = [packed(write(tmp_path / "node", 0)), packed(write(tmp_path / "node", 0, method="tta"))]
    handed: list[list[str]] = []
    dead = {"tta"}

    def get(reference: object) -> object:
        if reference == "first":
            return TaskOutcome(), [cells[0], "tta"]
        if reference == "second":
            return TaskOutcome(), [cells[1]]
        if reference in dead:
            raise LookupError("its owner died")
        return reference

    def hand_over(_: object, task: Task, *__: object) -> str:
        handed.append([spec.method for spec in task.specs])
        return "first" if len(handed) == 1 else "second"

    ray = MadeUpRay(None)
    ray.get, ray.remote = get, lambda **_: lambda _: SimpleNamespace(remote=hand_over)
    ray.exceptions = SimpleNamespace(RayTaskError=ZeroDivisionError, RayError=LookupError)
    monkeypatch.setitem(sys.modules, "ray", ray)
    engine = RayCluster(None, cpus=1, gpus=0, device="cpu", cell_timeout=None, sync_data=False)
    task = make_task(tmp_path / "runs", ["deterministic", "tta"])
    for _ in range(2):  # the second time all is there
        with closing(engine.run([task], nothing, Reporter(Console(quiet=True)))) as ended:
            assert list(ended) == [(task, TaskOutcome())]
        assert handed == [["deterministic", "tta"], ["tta"]]
    assert len(predictions_of(tmp_path / "runs")) == 2


@pytest.mark.parametrize(("cpus", "gpus", "at_once"), [(1, 0.5, 2), (1, 0.25, 4), (2, 0.25, 2), (3, 0.0, 1)])
def test_a_group_asks_for_its_share_of_a_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpus: int, gpus: float, at_once: int
) -> None:
    """And as many are handed over as the cluster (4 cores, 1 GPU) can run at once, and as many again."""
    ray, references = MadeUpRay((TaskOutcome(), [])), itertools.count()
    asked: list[dict[str, float]] = []
    handed_over: list[int] = []

    def remote(**given: float) -> Callable[[object], SimpleNamespace]:
        asked.append(given)
        return lambda _: SimpleNamespace(remote=lambda *_: next(references))

    def wait(flying: list[int], **_: float) -> tuple[list[int], list[int]]:
        handed_over.append(len(flying))
        return flying[:1], flying[1:]

    ray.remote, ray.wait, ray.get = remote, wait, lambda _: (TaskOutcome(), [])
    monkeypatch.setitem(sys.modules, "ray", ray)
    engine = RayCluster(None, cpus=cpus, gpus=gpus, device="cpu", cell_timeout=None, sync_data=False)
    tasks = [make_task(tmp_path / "runs", ["deterministic"], seed) for seed in range(12)]
    with closing(engine.run(tasks, nothing, Reporter(Console(quiet=True)))) as ended:
        assert len(list(ended)) == 12
    assert asked == [{"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0}]
    assert max(handed_over) == 2 * at_once


def test_a_group_whose_run_says_so_asks_for_a_share_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster (4 cores, 1 GPU) is busy twice over with four groups of half a GPU, or eight of a core."""
    ray, references = MadeUpRay((TaskOutcome(), [])), itertools.count()
    asked: list[tuple[float, float, object]] = []
    flying: list[list[float]] = []

    def remote(**given: float) -> Callable[[object], SimpleNamespace]:
        def hand_over(_: object, task: Task, threads: int, *__: object) -> tuple[int, float]:
            asked.append((given["num_cpus"], given["num_gpus"], threads))
            return next(references), given["num_gpus"]

        return lambda _: SimpleNamespace(remote=hand_over)

    def wait(flights: list[tuple[int, float]], **_: float) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
        flying.append([gpus for _, gpus in flights])
        return flights[:1], flights[1:]

    ray.remote, ray.wait, ray.get = remote, wait, lambda _: (TaskOutcome(), [])
    monkeypatch.setitem(sys.modules, "ray", ray)
    engine = RayCluster(None, cpus=1, gpus=0, device="cpu", cell_timeout=None, sync_data=False)
    tasks = []
    for seed in range(16):
        (part,) = make_task(tmp_path / "runs", ["deterministic"], seed).parts
        share = Share() if seed < 8 else Share(cpus=2, gpus=0.5)
        tasks.append(Task((replace(part, settings=replace(part.settings, share=share)),)))
    with closing(engine.run(tasks, nothing, Reporter(Console(quiet=True)))) as ended:
        assert len(list(ended)) == 16
    assert asked == [(1, 0, 1)] * 8 + [(2, 0.5, 2)] * 8
    assert flying[0] == [0.0] * 8
    assert max(each.count(0.5) for each in flying if 0.0 not in each) == 4


def test_a_cluster_that_never_has_what_a_group_asks_for_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = write(tmp_path / "node", 0)
    assert "no node has" not in ray_outcome(tmp_path, monkeypatch, sent)[1]
    _, said, _ = ray_outcome(tmp_path / "second", monkeypatch, sent, cpus=64)
    assert "no node has what a group asks for (--cpus 64); waiting for one to join" in said


def test_images_sent_to_a_node_are_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    trees.mvtec_ad2(tmp_path / "data")
    here = load_category("mvtec_ad2", "vial", tmp_path / "data", 0)
    packed = pack_images("mvtec_ad2", "vial", tmp_path / "data")
    sent: list[int] = []

    def fetch() -> bytes:
        sent.append(len(packed))
        return packed

    def unpacked_now() -> Path:
        root = unpacked(fetch, "mvtec_ad2", "vial", here.fingerprint)
        there = load_category("mvtec_ad2", "vial", root, 0)
        assert there.fingerprint == here.fingerprint
        assert [image.key for image in there.test] == [image.key for image in here.test]
        return root

    root = unpacked_now()
    assert unpacked_now() == root
    assert len(sent) == 1, "not sent again"
    image = next((root / "vial").glob("test_public/good/*.png"))
    trees.draw(image, seed=1)
    assert unpacked_now() == root
    assert len(sent) == 2, "what is there is not what was sent"
    image.unlink()
    assert unpacked_now() == root
    shutil.rmtree(root / "vial" / "train")
    assert unpacked_now() == root
    assert len(sent) == 4
    assert {path.name for path in root.parent.iterdir()} == {"lock", "root"}


def test_a_category_is_put_into_rays_store_once_however_its_groups_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeds come one after the other, each with all categories: here no two groups of one are in flight together."""
    for category in ("rice", "vial"):
        trees.mvtec_ad2(tmp_path / "data", category)
    tasks = []
    for seed in range(3):
        for category in ("rice", "vial"):
            (part,) = make_task(tmp_path / "runs", ["deterministic"], seed).parts
            spec = part.specs[0].model_copy(
                update={"dataset": "mvtec_ad2", "category": category, "fingerprint": category * 10}
            )
            tasks.append(Task((replace(part, settings=replace(part.settings, root=tmp_path / "data"), specs=(spec,)),)))
    put: list[bytes] = []
    given: list[object] = []
    ray, references = MadeUpRay((TaskOutcome(), [])), itertools.count()

    def hand_over(*arguments: object) -> int:
        given.append(arguments[-1])
        return next(references)

    ray.put = lambda packed: put.append(packed) or f"images {len(put)}"
    ray.remote = lambda **_: lambda _: SimpleNamespace(remote=hand_over)
    ray.wait, ray.get = lambda flying, **_: (flying[:1], flying[1:]), lambda _: (TaskOutcome(), [])
    monkeypatch.setitem(sys.modules, "ray", ray)
    engine = RayCluster(None, cpus=4, gpus=0, device="cpu", cell_timeout=None, sync_data=True)
    with closing(engine.run(tasks, nothing, Reporter(Console(quiet=True)))) as ended:
        assert len(list(ended)) == 6
    assert len(put) == 2
    assert given == [["images 1"], ["images 2"]] * 3, "in a list: Ray sends to a node what it is given bare each time"


def test_what_failed_on_a_node_is_said_and_counted_while_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = tuple(make_task(tmp_path, ["deterministic"], seed) for seed in (0, 1))
    failure = CellFailure(spec=tasks[0].specs[0], stage="fit", reason="no luck", traceback="", bad_input=False)
    outcomes = {tasks[0].group_id: TaskOutcome((failure,))}
    outcomes[tasks[1].group_id] = TaskOutcome(bad_input="no such file")
    ray = MadeUpRay(None)
    ray.remote = lambda **_: lambda _: SimpleNamespace(remote=lambda _, task, *__: task.group_id)
    ray.wait, ray.get = lambda flying, **_: (flying[:1], flying[1:]), lambda group: (outcomes[group], [])
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr("rdbench.benchmark.progress.SECONDS_BETWEEN_LINES", 0.0)
    engine = RayCluster(None, cpus=1, gpus=0, device="cpu", cell_timeout=None, sync_data=False)
    said = io.StringIO()
    run_plan(Plan(open_store(tmp_path, create=True), (), tasks), Reporter(Console(file=said, width=1000)), engine)
    assert "  FAILED deterministic on toy/grid, seed 0: no luck\n" in said.getvalue()
    assert "  toy/grid, seed 1 cannot run: no such file\n" in said.getvalue()
    assert "cells: 1/2 1 failed  " in said.getvalue()


def test_images_are_not_unpacked_where_somebody_else_put_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"rdbench-data-{os.getuid()}").symlink_to(tmp_path / "theirs")
    with pytest.raises(InputError, match="is not this user's own folder"):
        unpacked(bytes, "mvtec_ad2", "vial", "f" * 64)
    assert not list((tmp_path / "theirs").iterdir())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--engine", "ray", "--workers", "2"), "--workers is for --engine local"),
        (("--cpus", "2"), "are for --engine ray"),
        (("--gpus", "1"), "are for --engine ray"),
        (("--engine", "ray", "--gpus", "1.5"), "--gpus 1.5: a fraction or a whole number is wanted"),
        (("--engine", "ray", "--gpus", "nan"), "--gpus nan: a fraction or a whole number is wanted"),
    ],
)
def test_options_of_the_other_engine_are_not_ignored(
    rdbench: Command, tmp_path: Path, given: tuple[str, ...], words: str
) -> None:
    done = rdbench(*TOY, "-m", "tta", "--out", tmp_path, *given)
    assert done.code == 2
    assert words in done.error()


def test_a_node_with_another_protocol_makes_no_result(tmp_path: Path) -> None:
    """It would carry the number of the protocol that the run was planned with."""
    (part,) = make_task(tmp_path, ["deterministic"]).parts
    other = part.specs[0].model_copy(update={"protocol": PROTOCOL_VERSION + 1})
    outcome = run_task(Task((replace(part, specs=(other,)),)), Reporter(Console(quiet=True)))
    assert "install one version everywhere" in outcome.bad_input


def test_a_node_with_other_images_makes_no_result(tmp_path: Path) -> None:
    trees.mvtec_ad2(tmp_path / "data")
    text = f"runs:\n  - {{methods: tta, datasets: mvtec_ad2, backbones: embedded, root: {tmp_path}/data}}\n"
    (task,) = planned(tmp_path, text).tasks
    trees.draw(next((tmp_path / "data").glob("vial/test_public/good/*.png")), seed=1)
    outcome = run_task(task, Reporter(Console(quiet=True)))
    assert f"images of mvtec_ad2/vial below {tmp_path}/data are not those that the run was" in outcome.bad_input

"""What the engines' tests let workers do in place of real work: nothing, dying, hanging."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

from rdbench.benchmark.engines.task import Task, TaskOutcome
from rdbench.benchmark.progress import Reporter
from rdbench.benchmark.results import CLEAN, CellResult
from rdbench.benchmark.store import open_store, sha256
from tests.made_up import make_cell, make_predictions


def nothing(task: Task, reporter: Reporter) -> TaskOutcome:
    """No work."""
    return TaskOutcome()


def name_gpu(task: Task, reporter: Reporter) -> TaskOutcome:
    """Leave the names of the GPUs that this process sees in the store's folder."""
    with (task.parts[0].settings.out / "done.txt").open("a") as file:
        file.write(f"{os.environ['CUDA_VISIBLE_DEVICES']}\n")
    return TaskOutcome()


def by_name(task: Task, reporter: Reporter) -> TaskOutcome:
    """Do with each cell what its method's name says; leave a line in the store's folder for each that came through."""
    for spec in task.specs:
        with reporter.inside(spec, "predict"):
            _act(spec.method, task.parts[0].settings.out / f"once-{spec.path.name}")
        with (task.parts[0].settings.out / "done.txt").open("a") as file:
            file.write(f"{os.environ['OMP_NUM_THREADS']} {spec.path}\n")
    return TaskOutcome()


def _act(name: str, once: Path) -> None:
    match name:
        case "exits":
            print("last words", flush=True)
            os._exit(7)
        case "kills_itself":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hangs":
            time.sleep(60)
        case "prints":
            print("x" * 10_000_000)
        case "dies_once" if not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        case "forks" if os.fork() == 0:
            time.sleep(60)
        case "scribbles":  # over the pipe, whose number is the process's argument
            os.write(int(sys.argv[1]), b"\0\0\0\3abc")
            time.sleep(60)


def stores(task: Task, reporter: Reporter) -> TaskOutcome:
    """No work but to store a small cell for each that was asked for."""
    predictions, result = _made_up()
    for part in task.parts:
        store = open_store(part.settings.out, create=True)
        for spec in part.specs:
            image = dict.fromkeys(spec.conditions, result.image[CLEAN])
            store.write(result.model_copy(update={"spec": spec, "image": image}), predictions)
    return TaskOutcome()


@cache
def _made_up() -> tuple[Path, CellResult]:
    """Predictions and the result that they belong to, once for this process."""
    path = Path(tempfile.mkstemp(prefix="rdbench-made-up-", suffix=".npz")[1])
    atexit.register(path.unlink)
    make_predictions().save(path)
    return path, make_cell(predictions_sha256=sha256(path))


def finishes_one_and_dies(task: Task, reporter: Reporter) -> TaskOutcome:
    """Bring the first cell into the store, then die in the benchmark's own code."""
    store = open_store(task.parts[0].settings.out, create=True)
    if not store.has(task.specs[0]):
        directory = store.work_directory("made-up")
        make_predictions().save(directory / "predictions.npz")
        result = make_cell(task.specs[0].method, predictions_sha256=sha256(directory / "predictions.npz"))
        store.write(result, directory / "predictions.npz")
    os._exit(9)


def untrained_map(task: Task, reporter: Reporter) -> TaskOutcome:
    """The anomaly maps of an untrained student on noise, in float32, as a file named by the number of threads."""
    import numpy as np
    import torch

    from rdbench.rd.anomaly import anomaly_map
    from rdbench.rd.student import build_student
    from rdbench.rd.teacher import load_teacher

    teacher = load_teacher("embedded", None, torch.device("cpu"))
    student = build_student(teacher.backbone, 0).eval()
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = teacher(images)
        maps = anomaly_map(features, student(features), images.shape[-2:])
    np.save(task.parts[0].settings.out / f"{torch.get_num_threads()}.npy", maps.numpy())
    return TaskOutcome()

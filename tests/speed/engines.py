"""What planning and the engines take beside the work: `python tests/speed/engines.py --cells 10000 --engine local`."""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rich.console import Console

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))
os.environ["PYTHONPATH"] = str(REPOSITORY)  # for Ray's workers

from rdbench.benchmark.engines import Engine  # noqa: E402
from rdbench.benchmark.engines.local import InProcess, Workers  # noqa: E402
from rdbench.benchmark.engines.ray import RayCluster  # noqa: E402
from rdbench.benchmark.engines.task import Task, TaskOutcome  # noqa: E402
from rdbench.benchmark.plan import make_settings  # noqa: E402
from rdbench.benchmark.planning import make_plan  # noqa: E402
from rdbench.benchmark.progress import Reporter  # noqa: E402
from rdbench.benchmark.store import RESULT  # noqa: E402
from tests.benchmark.engine_works import nothing, stores  # noqa: E402

CELLS_PER_GROUP = 20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--engine", choices=("process", "local", "ray"), default="local")
    parser.add_argument("--apart", action="store_true", help="one cell per task, the most there can be to hand over")
    parser.add_argument("--store", action="store_true", help="a small cell is written for each; else nothing is")
    arguments = parser.parse_args()
    quiet = Reporter(Console(quiet=True))
    with tempfile.TemporaryDirectory() as folder:
        settings = make_settings(
            methods=["mc_dropout"], dataset="toy", root=None, categories=["twill"],
            options=[f"samples={','.join(map(str, range(1, CELLS_PER_GROUP + 1)))}"],
            seeds=range(arguments.cells // CELLS_PER_GROUP), shifts=["lighting:3", "blur:3", "noise:3"], backbone=None,
            weights=None, image_size="64", map_size="native", epochs=1, batch_size=16, device="cpu", precision="fp32",
            alpha=0.1, out=Path(folder), methods_dir=None, keep_models=False,
        )  # fmt: skip
        start, own = time.perf_counter(), time.process_time()
        plan = make_plan([settings], quiet, InProcess())
        spent, used = time.perf_counter() - start, time.process_time() - own
        print(f"planned {plan.waiting} cells in {spent:.1f} s, {used:.1f} s of processor; driver {resident():.0f} MB")
        with engine(arguments.engine) as chosen:
            work = stores if arguments.store else nothing
            for _ in chosen.run(plan.tasks[:2], work, quiet):  # the processes start
                pass
            tasks = list(apart(plan.tasks[2:])) if arguments.apart else plan.tasks[2:]
            cells = sum(len(task.specs) for task in tasks)
            before, start, own, done = resident(), time.perf_counter(), time.process_time(), 0
            for task, outcome in chosen.run(tasks, work, quiet):
                assert outcome == TaskOutcome()
                done += len(task.specs)
                if done * 4 // cells != (done - len(task.specs)) * 4 // cells:
                    spent, used = time.perf_counter() - start, time.process_time() - own
                    print(
                        f"{done:6} cells: {1000 * spent / done:.2f} ms per cell, {1000 * used / done:.2f} ms of the "
                        f"driver's processor, driver {resident() - before:+.1f} MB",
                        flush=True,
                    )
        stored = sum(1 for _ in Path(folder).glob(f"*/*/*/{RESULT}"))
        assert stored == (plan.waiting if arguments.store else 0)
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"largest child: {children:.0f} MB")


def engine(name: str) -> Engine:
    """The engine to be measured, with two workers or two cores."""
    if name == "process":
        return InProcess()
    if name == "local":
        return Workers(2)
    return RayCluster(None, cpus=1, gpus=0, device="cpu", cell_timeout=None, sync_data=False)


def apart(tasks: tuple[Task, ...]) -> Iterator[Task]:
    """Each cell as a task."""
    for task in tasks:
        for spec in task.specs:
            (part,) = task.parts
            yield Task((replace(part, specs=(spec.model_copy(update={"epochs": spec.options["samples"]}),)),))


def resident() -> float:
    """This process's memory, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


main()

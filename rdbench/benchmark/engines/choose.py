"""Which engine the command line asks for."""

from __future__ import annotations

import os

from rdbench.benchmark.engines import Engine
from rdbench.benchmark.engines.local import InProcess, Workers
from rdbench.benchmark.plan import Share
from rdbench.errors import InputError, unknown

MOST_WORKERS = 1000


def choose_engine(
    name: str,
    *,
    device: str,
    workers: int | None,
    cell_timeout: float | None,
    address: str | None,
    cpus: int,
    gpus: float | None,
    sync_data: bool,
) -> Engine:
    """The engine of that name. Raises InputError for what it cannot do."""
    checks = [
        (workers is None or 1 <= workers <= MOST_WORKERS, f"--workers {workers}: from 1 to {MOST_WORKERS:,}"),
        (cell_timeout is None or cell_timeout > 0, f"--cell-timeout {cell_timeout}: more than 0 seconds"),
    ]
    for holds, message in checks:
        if not holds:
            raise InputError(message + " is wanted")
    Share(cpus, gpus)  # refuses what no node can have
    if name == "local":
        if address is not None or sync_data or cpus != 1 or gpus is not None:
            raise InputError("--address, --cpus, --gpus and --sync-data are for --engine ray")
        if workers is None and cell_timeout is None:
            return InProcess()
        count = workers or 1
        return Workers(count, cell_timeout, gpus=_gpus() if count > 1 and device in ("auto", "cuda") else ())
    if name == "ray":
        if workers is not None:
            raise InputError(
                "--workers is for --engine local; on Ray, --cpus and --gpus say how many groups fit a node"
            )
        from rdbench.benchmark.engines.ray import RayCluster

        return RayCluster(address, cpus=cpus, gpus=gpus, device=device, cell_timeout=cell_timeout, sync_data=sync_data)
    raise unknown("engine", name, ("local", "ray"))


def _gpus() -> list[str]:
    """This process's GPUs, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",") if given else [str(index) for index in range(torch.cuda.device_count())]

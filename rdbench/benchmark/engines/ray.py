"""The Ray engine: tasks run on the nodes of a cluster, and the driver alone writes what they made into the store.

On a node, a task runs in a worker process of the local engine, so a cell that dies or hangs costs itself alone there
too. If a node dies, its tasks are given to others. Needs the extra `rdbench[ray]`, of one version on all nodes.
"""

from __future__ import annotations

import os
import secrets
import socket
import tarfile
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Any

from rdbench.benchmark.engines import Ended, Work
from rdbench.benchmark.engines.data import pack_images
from rdbench.benchmark.engines.local import here
from rdbench.benchmark.engines.node import bring_in, on_node
from rdbench.benchmark.engines.task import Task, TaskOutcome
from rdbench.benchmark.plan import RunSettings
from rdbench.benchmark.progress import SECONDS_BETWEEN_LINES, Reporter
from rdbench.benchmark.results import CellFailure
from rdbench.benchmark.store import open_store
from rdbench.errors import InputError
from rdbench.words import count

if TYPE_CHECKING:
    from rdbench.rd.precision import Precision

TRIES = 5
"""How many nodes may die under a task before it is given up."""
START = "start one with `ray start --head`"
AHEAD = 2
"""How many tasks are handed over per task that the cluster can run at once, so that no node waits for the driver."""


@dataclass
class _Flight:
    """A task that a node works on or will."""

    task: Task
    lock: ExitStack
    """Holds the group: no other run works on it meanwhile."""
    share: tuple[int, float]
    """Cores and GPUs that it asks for."""
    tries: int = 1


def _knock(address: str | None) -> None:
    """Raise InputError at once if nothing answers at HOST:PORT, for which Ray itself waits minutes."""
    host, colon, port = (address or "").rpartition(":")
    if not colon or not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"no Ray cluster answers at {address} ({error}); {START}") from None


class RayCluster:
    """The nodes of a Ray cluster; nodes that join later are used, tasks of nodes that die are given to others.

    Args:
        address: "auto", HOST:PORT, or None for a cluster of this machine alone, which ends with the run.
        cpus: cores that a task asks for, and its number of threads, if its settings do not say.
        gpus: GPUs that a task asks for if its settings do not say, a fraction if several share one; default: one if
            the device is cuda, or auto and the cluster has any.
        sync_data: send the images of a category to each node once, instead of reading them there by the same path.
    """

    def __init__(
        self, address: str | None, *, cpus: int, gpus: float | None, device: str, cell_timeout: float | None,
        sync_data: bool,
    ) -> None:  # fmt: skip
        self._address, self._cpus, self._gpus, self._device = address, cpus, gpus, device
        self._cell_timeout, self._sync_data = cell_timeout, sync_data

    def __enter__(self) -> RayCluster:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if self._address is None:  # else Ray leaves a token for such clusters in the user's home
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        try:
            import ray
        except ImportError:
            raise InputError("--engine ray needs Ray, which is not installed: pip install 'rdbench[ray]'") from None
        _knock(self._address)
        try:
            ray.init(self._address or "local", log_to_driver=False, logging_level="ERROR", include_dashboard=None)
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise InputError(f"no Ray cluster at {self._address}: {reason}; {START}") from None
        if self._gpus is None:
            has_gpus = self._device == "auto" and ray.cluster_resources().get("GPU", 0) > 0
            self._gpus = 1.0 if has_gpus or self._device.startswith("cuda") else 0.0
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        ray.shutdown()

    def precision(self, settings: RunSettings) -> Precision:
        """Asked of a node if tasks run on GPUs, which this machine may not have."""
        import ray

        cpus, gpus = self._share(settings)
        if not gpus:
            return here(settings)
        remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=TRIES)(here)
        precision: Precision = ray.get(remote.remote(settings))
        return precision

    def _share(self, settings: RunSettings) -> tuple[int, float]:
        """Cores and GPUs that a task with these settings asks for."""
        own = settings.share
        return own.cpus or self._cpus, (self._gpus or 0.0) if own.gpus is None else own.gpus

    def run(self, tasks: Iterable[Task], work: Work, reporter: Reporter) -> Ended:
        import ray

        @cache
        def remote(cpus: int, gpus: float) -> Any:
            return ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(on_node)

        images = _Images(self._sync_data)
        flights: dict[Any, _Flight] = {}
        again: deque[_Flight] = deque()
        new = iter(tasks)
        nodes = _Nodes(reporter)
        try:
            while True:
                while again or nodes.load(flight.share for flight in flights.values()) < AHEAD:
                    flight = again.popleft() if again else None
                    if flight is None:
                        task = next(new, None)
                        if task is None:
                            break
                        flight, refused = _take(task, self._share(task.parts[0].settings))
                        if flight is None:
                            yield task, TaskOutcome(bad_input=refused)
                            continue
                    if not (left := _left(flight.task)).parts:  # by another run, before its group was held
                        flight.lock.close()
                        yield flight.task, TaskOutcome()
                        continue
                    try:
                        given = images.of(flight.task)
                    except (InputError, OSError) as error:  # an image that has gone meanwhile
                        flight.lock.close()
                        yield flight.task, TaskOutcome(bad_input=str(error))
                        continue
                    cpus = flight.share[0]
                    reference = remote(*flight.share).remote(work, left, cpus, self._cell_timeout, given)
                    flights[reference] = flight
                if not flights:
                    return
                ready, _ = ray.wait(list(flights), num_returns=1, timeout=1.0)
                for reference in ready:
                    flight = flights.pop(reference)
                    outcome = self._receive(reference, flight, reporter)
                    if outcome is None:
                        again.append(flight)
                        continue
                    flight.lock.close()
                    yield flight.task, outcome
                nodes.look([flight.share for flight in flights.values()])
        finally:
            # Tasks that are left end with Ray's connection. Ray 2.60 aborts this process if it is told to cancel one
            # that is just then done.
            for flight in flights.values():
                flight.lock.close()

    def _receive(self, reference: Any, flight: _Flight, reporter: Reporter) -> TaskOutcome | None:
        """Bring what a node made into the store; None if the task is to be tried again."""
        import ray

        try:
            outcome, cells = ray.get(reference)
            try:
                bring_in(map(ray.get, cells), flight.task)
            except (InputError, OSError, tarfile.TarError) as error:  # another version there, or a full disk here
                outcome = TaskOutcome(outcome.failures, f"what its node made cannot be kept: {error}")
        except ray.exceptions.RayTaskError as error:
            return _given_up(flight.task, f"the node's engine failed: {error.cause!r}", str(error), reporter)
        except ray.exceptions.RayError as error:
            reason = f"the node or its Ray worker died ({type(error).__name__})"
            if flight.tries == TRIES:
                return _given_up(flight.task, f"{reason}, {TRIES} times", str(error), reporter)
            flight.tries += 1
            reporter.line(f"  {flight.task}: {reason}; given to another")
            return None
        result: TaskOutcome = outcome
        for failure in result.failures:  # which its node has said to nobody
            reporter.line(f"  FAILED {failure.spec}: {failure.reason}")
        if result.bad_input:
            reporter.line(f"  {flight.task} cannot run: {result.bad_input}")
        return result


def _take(task: Task, share: tuple[int, float]) -> tuple[_Flight | None, str]:
    """The task with its group held, or why it cannot be."""
    lock = ExitStack()
    try:
        store = open_store(task.parts[0].settings.out, create=True)
        lock.enter_context(store.locks.hold(task.group_id, f"{task} (on Ray)"))
    except InputError as error:
        return None, str(error)
    return _Flight(task, lock, share), ""


def _left(task: Task) -> Task:
    """The task without the cells that are in the store by now: brought in before their node died, or by another run."""
    store = open_store(task.parts[0].settings.out, create=True)
    there = [
        spec for part in task.parts for spec in part.specs if store.has(spec, with_model=part.settings.keep_models)
    ]
    return task.without(there) if there else task


def _given_up(task: Task, reason: str, trace: str, reporter: Reporter) -> TaskOutcome:
    reporter.line(f"  FAILED {task}: {reason}")
    return TaskOutcome(
        tuple(
            CellFailure(spec=spec, stage="group", reason=reason, traceback=trace, bad_input=False)
            for spec in task.specs
        )
    )


class _Images:
    """Packed images in Ray's object store, each category once: its groups may lie anywhere in a run."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._kept: dict[str, Any] = {}

    def of(self, task: Task) -> list[Any]:
        """A reference to the images of the task's category; none if nodes read them by the same path."""
        import ray

        first, settings = task.parts[0].specs[0], task.parts[0].settings
        if not self._wanted or first.dataset == "toy":
            return []
        if first.fingerprint not in self._kept:
            self._kept[first.fingerprint] = ray.put(pack_images(first.dataset, first.category, settings.root))
        return [self._kept[first.fingerprint]]


class _Nodes:
    """Watches which nodes there are."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._has: list[tuple[float, float]] = []
        """Cores and GPUs of each node."""
        self._names: set[str] | None = None
        self._looked = self._said = 0.0
        self._resources: dict[str, float] = {}

    def load(self, shares: Iterable[tuple[int, float]]) -> Fraction:
        """How many times over tasks with these shares keep the cluster busy; a task that does not fit does once."""
        self._refresh()
        total = Fraction(0)
        for (cpus, gpus), number in Counter(shares).items():
            by_gpu = self._resources.get("GPU", 0.0) // gpus if gpus else float("inf")
            at_once = max(1, int(min(self._resources.get("CPU", 0.0) // cpus, by_gpu)))
            total += Fraction(number, at_once)
        return total

    def look(self, shares: Sequence[tuple[int, float]]) -> None:
        """Say from time to time how many nodes there are, and tasks, which have these shares."""
        self._refresh()
        if time.monotonic() - self._said > SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            nodes = count(len(self._names or ()), "node")
            self._reporter.line(f"  Ray: {nodes}, {count(len(shares), 'group')} running or next")
            for cpus, gpus in sorted(set(shares)):
                if not any(cpus <= cores and gpus <= devices for cores, devices in self._has):
                    asked = f"--cpus {cpus}" + (f" --gpus {gpus:g}" if gpus else "")
                    self._reporter.line(f"  Ray: no node has what a group asks for ({asked}); waiting for one to join")

    def _refresh(self) -> None:
        import ray

        if time.monotonic() - self._looked < 1.0:
            return
        self._looked = time.monotonic()
        alive = [node for node in ray.nodes() if node["Alive"]]
        names = {node["NodeID"] for node in alive}
        self._has = [(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)) for node in alive]
        self._resources = ray.cluster_resources()
        for change in _changes(self._names, names):
            self._reporter.line(f"  Ray: {change}, {len(names)} now")
        self._names = names


def _changes(before: set[str] | None, now: set[str]) -> Iterator[str]:
    if before is not None:
        if joined := len(now - before):
            yield f"{count(joined, 'node')} joined"
        if left := len(before - now):
            yield f"{count(left, 'node')} lost"

"""What every test has: caches and data folders of its own, and the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from rdbench.rd.runtime import share_cores
from tests.command import Command, in_process

share_cores()  # before any test imports torch

# The same examples every time, so that red means the change; `--hypothesis-profile random` tries others.
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("random", deadline=None)
settings.load_profile("same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin the long files first; the order is kept otherwise."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For what is made once for several tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RDBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's cache or data; tables are as wide as a usual terminal."""
    monkeypatch.setenv("RDBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RDBENCH_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def rdbench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """`rdbench(*arguments)` -> exit code and what was printed."""
    return in_process(capsys, monkeypatch)

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's cache, or their data."""
    monkeypatch.setenv("RDBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RDBENCH_DATA", raising=False)

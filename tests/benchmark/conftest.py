"""Data that several files of this folder run on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.datasets import trees


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small categories laid out as MVTec AD 2."""
    folder = tmp_path_factory.mktemp("ad2")
    for category in ("rice", "vial"):
        trees.mvtec_ad2(folder, category)
    return folder

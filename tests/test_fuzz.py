"""Files are strangers: whatever bytes they hold, reading ends in a value or in one clear error, and nothing is written.

Examples are drawn by hypothesis: mutations of valid files, and arbitrary bytes behind valid beginnings.
"""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from rdbench.benchmark.results import Predictions
from rdbench.benchmark.store import read_predictions, read_result, sha256
from rdbench.cli import main
from rdbench.datasets.base import ImageRecord
from rdbench.datasets.files import read_image, read_mask_file
from rdbench.errors import InputError
from rdbench.registry import find_methods, read_method_file
from rdbench.report.entries import read_entry, write_entries
from rdbench.report.validate import validate_entry
from tests.made_up import make_cell, make_predictions, make_source

pytestmark = pytest.mark.long

fuzz = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(content: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place in nested dicts and lists."""
    yield path
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def mutate(content: Any, data: st.DataObject) -> Any:
    """A copy in which a value somewhere is replaced or left out."""
    content = json.loads(json.dumps(content))
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.sampled_from(list(places(content))[1:] or [()]))
        if not where:
            return data.draw(JSON)
        parent = content
        for key in where[:-1]:
            parent = parent[key]
        if data.draw(st.booleans()) and isinstance(parent, dict):
            del parent[where[-1]]
        else:
            parent[where[-1]] = data.draw(JSON)
    return content


def reason(
    call: Callable[[], object], refusal: type[Exception] | tuple[type[Exception], ...] = InputError
) -> str | None:
    """Why the call refused what it was given; None if it took it. Any other exception is a fault."""
    try:
        call()
    except refusal as error:
        return str(error)
    return None


def damaged(whole: bytes, data: st.DataObject) -> bytes:
    """The bytes cut short, with some replaced, or others behind a valid beginning."""
    start = data.draw(st.integers(0, len(whole)))
    kind = data.draw(st.sampled_from(["cut", "replaced", "others"]))
    if kind == "cut":
        return whole[:start]
    noise = data.draw(st.binary(max_size=64))
    return whole[:start] + noise + (whole[start + len(noise) :] if kind == "replaced" else b"")


@fuzz
@given(data=st.data())
def test_a_result_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "result.json"
    valid = json.loads(make_source("tta").result.model_dump_json())
    text = json.dumps(mutate(valid, data)).encode()
    path.write_bytes(damaged(text, data) if data.draw(st.integers(0, 3)) == 0 else text)
    assert str(path) in (reason(lambda: read_result(path)) or str(path))


@fuzz
@given(data=st.data())
def test_predictions_are_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "predictions.npz"
    make_predictions("tta", "grid", 0).save(path)
    whole = path.read_bytes()
    result = make_cell("tta", predictions_sha256=sha256(path))
    path.write_bytes(damaged(whole, data))
    changed = path.read_bytes() != whole
    assert ("predictions.npz" in (reason(lambda: read_predictions(tmp_path, result)) or "")) or not changed
    reason(lambda: Predictions.load(path), (ValueError, OSError))


@fuzz
@given(data=st.data())
def test_an_entry_is_read_or_refused_and_checked_in_words(tmp_path: Path, data: st.DataObject) -> None:
    [path] = write_entries([make_source("tta", seed=seed) for seed in (0, 1)], tmp_path / "entries")
    path.write_text(json.dumps(mutate(json.loads(path.read_text()), data)))
    assert path.name in (reason(lambda: read_entry(path)) or path.name)
    assert all(isinstance(problem, str) and problem for problem in validate_entry(path))


@fuzz
@given(data=st.data())
def test_a_method_file_is_read_or_says_what_is_wrong(tmp_path: Path, data: st.DataObject) -> None:
    [whole] = [file.path.read_bytes() for file in find_methods().values() if file.name == "mc_dropout"]
    path = tmp_path / "strange.py"
    path.write_bytes(data.draw(st.one_of(st.binary(max_size=200), st.just(damaged(whole, data)))))
    imported = set(sys.modules)
    found = read_method_file(path, "test")
    assert found.problem or found.class_name
    assert set(sys.modules) == imported


def png(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(size[0] * size[1] * 3, dtype=np.uint8).reshape(size[1], size[0], 3)).save(buffer, "png")
    return buffer.getvalue()


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(16 * 12 * 3, dtype=np.uint8).reshape(12, 16, 3)).save(buffer, "jpeg")
    return buffer.getvalue()


def tiff() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(16 * 12, dtype=np.uint16).reshape(12, 16)).save(buffer, "tiff")
    return buffer.getvalue()


@fuzz
@given(data=st.data())
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_an_image_or_mask_is_decoded_whole_or_refused_by_name(tmp_path: Path, data: st.DataObject) -> None:
    name, whole = data.draw(st.sampled_from([("a.png", png((16, 12))), ("a.jpg", jpeg()), ("a.tif", tiff())]))
    path = tmp_path / name
    path.write_bytes(damaged(whole, data))
    for read in (lambda: read_image(ImageRecord("a", 0, "", path=path)), lambda: read_mask_file(path)):
        refusal = reason(read)
        assert refusal is None or name in refusal
        assert refusal is not None or read().size


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    """A PNG of a few bytes that says it is 60,000 pixels wide and high."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(InputError, match=r"bomb\.png cannot be read .*decompression bomb"):
        read_image(ImageRecord("bomb", 0, "", path=path))


WORDS = st.sampled_from([
    "run", "evaluate", "results", "leaderboard", "report", "methods", "show", "check", "datasets", "verify",
    "shifts", "status", "merge", "sweep", "compare", "curve", "readouts", "validate", "submit", "predict",
    "export", "--method", "-m", "-o", "--seed", "--dataset", "--root", "--shift", "--alpha", "--out", "--runs",
    "--cells", "--format", "--help", "tta", "toy", "mvtec_ad", "deterministic", "samples=2", "json", "0", "-1",
    "1e999", "nan", "exposure:3", "../..", "/nowhere", "runs", "a/b",
])  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(arguments=st.lists(WORDS | st.text(max_size=8), max_size=5))
def test_whatever_is_typed_ends_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """No traceback, a known exit code, and nothing written but below the working directory."""
    outside = tmp_path / "outside"
    outside.mkdir(exist_ok=True)
    inside = tmp_path / "inside"
    inside.mkdir(exist_ok=True)
    monkeypatch.chdir(inside)
    monkeypatch.setattr("rdbench.benchmark.planning.make_plan", refuse)  # what would be run is not what is tested
    monkeypatch.setattr("rdbench.benchmark.speed.measure_machine", refuse)
    monkeypatch.setattr("rdbench.check.checks.check_method", refuse)
    monkeypatch.setattr(sys, "argv", ["rdbench", *(argument.replace("\0", "") for argument in arguments)])
    before = sorted(os.listdir(outside)), sorted(os.listdir(tmp_path))
    try:
        main()
        code: object = 0
    except SystemExit as end:
        code = end.code or 0
    printed = capsys.readouterr()
    assert code in (0, 1, 2)
    assert "Traceback" not in printed.out + printed.err
    assert (sorted(os.listdir(outside)), sorted(os.listdir(tmp_path))) == before


def refuse(*_: object, **__: object) -> None:
    raise InputError("not in this test")

"""Files are strangers: whatever bytes they hold, reading ends in a value or in one clear error, and nothing is written.

Examples are drawn by hypothesis: mutations of valid files, and arbitrary bytes behind valid beginnings.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from rdbench.benchmark.results import Predictions
from rdbench.benchmark.store import Store, read_predictions, read_result, sha256
from rdbench.cli import main
from rdbench.datasets.base import ImageRecord
from rdbench.datasets.files import read_image, read_mask_file
from rdbench.errors import InputError
from rdbench.method_file import read_method_file
from rdbench.reading import MAX_BYTES
from rdbench.registry import find_methods
from rdbench.report.entries import read_entry, write_entries
from rdbench.report.validate import validate_entry
from tests.command import Command
from tests.fuzzing import make_up_work
from tests.made_up import make_cell, make_predictions, make_source

pytestmark = pytest.mark.long

fuzz = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

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


@pytest.fixture
def store(tmp_path: Path) -> tuple[Store, dict[Path, bytes]]:
    """A store of two sound cells, and what its files hold."""
    store = Store(tmp_path / "runs")
    for method in ("deterministic", "tta"):
        source = make_source(method)
        assert source.predictions is not None
        source.predictions().save(tmp_path / "predictions.npz")
        result = source.result.model_copy(update={"predictions_sha256": sha256(tmp_path / "predictions.npz")})
        store.write(result, tmp_path / "predictions.npz")
    return store, {path: path.read_bytes() for path in store.root.rglob("*.*") if path.is_file()}


READING = (
    ("results",), ("results", "-f", "csv"), ("results", "-f", "json"), ("results", "-f", "markdown"), ("curve",),
    ("compare", "deterministic", "tta", "--runs"), ("readouts",), ("evaluate", "--no-intervals"), ("status",),
    ("verify", "--cells", "0"), ("submit", "--out", "entries"), ("merge", "--out", "merged"),
    ("leaderboard", "--out", "site", "--runs"),
)  # fmt: skip


def other_array(array: NDArray[Any], data: st.DataObject) -> NDArray[Any]:
    """One of another shape, type or content."""
    changes: list[Callable[[], NDArray[Any]]] = [
        lambda: np.array(1.5), lambda: array[:-1], lambda: array[:0], lambda: array[None], lambda: array[::-1],
        lambda: array.astype(str), lambda: np.full(array.shape, np.nan), lambda: np.full(array.shape, 1e300),
        lambda: np.zeros(array.shape), lambda: np.repeat(array, 2, axis=-1) if array.ndim else array,
    ]  # fmt: skip
    return data.draw(st.sampled_from(changes))()


@settings(fuzz, max_examples=120)
@given(data=st.data())
def test_what_is_read_is_used_or_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rdbench: Command,
    store: tuple[Store, dict[Path, bytes]],
    data: st.DataObject,
) -> None:
    """By every command that reads results: also where the schema and the hash hold and the content does not."""
    monkeypatch.chdir(tmp_path)
    for path, content in store[1].items():
        path.write_bytes(content)
    (directory, result), *_ = store[0].results()
    if data.draw(st.booleans()):
        arrays = dict(np.load(directory / "predictions.npz"))
        name = data.draw(st.sampled_from(sorted(arrays)))
        np.savez(directory / "predictions.npz", **(arrays | {name: other_array(arrays[name], data)}))
        result = result.model_copy(update={"predictions_sha256": sha256(directory / "predictions.npz")})
        (directory / "result.json").write_text(result.model_dump_json())
    else:
        content = json.loads((directory / "result.json").read_text())
        (directory / "result.json").write_text(json.dumps(mutate(content, data)))
    command = data.draw(st.sampled_from(READING))
    for made in ("entries", "merged", "site"):
        shutil.rmtree(tmp_path / made, ignore_errors=True)
    before = set(os.listdir(tmp_path)) | {"entries", "merged", "site"}
    assert rdbench(*command, "runs").code in (0, 1, 2, 3)
    assert set(os.listdir(tmp_path)) <= before


def test_what_is_no_file_or_far_too_large_is_not_read(tmp_path: Path, rdbench: Command) -> None:
    cell = tmp_path / "runs/toy/grid/tta-s0-0123456789"
    cell.mkdir(parents=True)
    (cell / "result.json").symlink_to("/dev/zero")
    assert "it is no regular file" in rdbench("results", tmp_path / "runs").error()
    (cell / "result.json").unlink()
    with (cell / "result.json").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert "it is larger than 200,000,000 bytes" in rdbench("results", tmp_path / "runs").error()
    entry = tmp_path / "toy/tta.json"
    entry.parent.mkdir()
    entry.symlink_to("/dev/zero")
    assert "it is no regular file" in " ".join(rdbench("validate", entry).out.split())
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as bomb, bomb.open("scores.npy", "w") as big:
        for _ in range(MAX_BYTES // 2**20 + 1):
            big.write(bytes(2**20))
    with pytest.raises(ValueError, match="unpacked it is larger than"):
        Predictions.load(tmp_path / "bomb.npz")


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
    with pytest.raises(InputError, match=r"bomb\.png has more than 178,956,970 pixels"):
        read_image(ImageRecord("bomb", 0, "", path=path))


WORDS = st.sampled_from([
    "run", "evaluate", "results", "leaderboard", "report", "methods", "show", "check", "datasets", "verify",
    "shifts", "status", "merge", "sweep", "compare", "curve", "readouts", "validate", "submit", "predict",
    "export", "--method", "-m", "-o", "--seed", "--dataset", "--root", "--shift", "--alpha", "--out", "--runs",
    "--cells", "--format", "--help", "tta", "toy", "mvtec_ad", "deterministic", "samples=2", "json", "0", "-1",
    "1e999", "nan", "exposure:3", "../..", "/nowhere", "runs", "a/b", "--image-size", "--epochs", "--workers",
    "--batch-size", "--shard", "--map-size", "--cell-timeout", "--backbone", "embedded", "1/2", "9" * 30, "bench",
    "/dev/zero", "s.yaml",
])  # fmt: skip


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
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
    make_up_work(monkeypatch)
    monkeypatch.setattr(sys, "argv", ["rdbench", *(argument.replace("\0", "") for argument in arguments)])
    before = sorted(os.listdir(outside)), sorted(os.listdir(tmp_path))
    try:
        main()
        code: object = 0
    except SystemExit as end:
        code = end.code or 0
    printed = capsys.readouterr()
    assert code in (0, 1, 2, 3)
    assert "Traceback" not in printed.out + printed.err
    assert (sorted(os.listdir(outside)), sorted(os.listdir(tmp_path))) == before

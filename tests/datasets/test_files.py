"""Reading image files: every kind of pixel to 8-bit RGB, every damage to one clear line, in order, on all cores."""

from __future__ import annotations

import errno
import json
import os
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from rdbench.benchmark.images import FeatureBank
from rdbench.datasets import ImageRecord, load_category
from rdbench.datasets.decode import DecodedImages, decode_batches, decode_masks
from rdbench.datasets.files import read_image, read_mask
from rdbench.datasets.fingerprint import fingerprint
from rdbench.errors import InputError
from rdbench.rd.teacher import load_teacher
from tests.datasets import trees


def record(path: Path, mask: Path | None = None) -> ImageRecord:
    return ImageRecord(key=path.stem, label=int(mask is not None), part=path.stem, path=path, mask_path=mask)


GREY = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_grey_becomes_three_equal_channels(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(GREY).save(path)
    assert np.array_equal(read_image(record(path)), np.stack([GREY] * 3, axis=-1))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    values = np.array([[0, 128, 129, 257], [32768, 65407, 65406, 65535]], np.uint16)
    Image.fromarray(values).save(path)
    expected = np.array([[0, 0, 1, 1], [128, 255, 254, 255]], np.uint8)  # round(value / 257)
    assert np.array_equal(read_image(record(path))[..., 0], expected)


def test_palette_alpha_and_two_level_images(tmp_path: Path) -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 9, 9]]], np.uint8)
    rgb = Image.fromarray(colours)
    rgb.quantize(4).save(tmp_path / "palette.png")
    rgba = np.dstack([colours, np.array([[0, 80], [255, 255]], np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    for name in ("palette", "alpha"):
        assert np.array_equal(read_image(record(tmp_path / f"{name}.png")), colours)
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bits.png")
    assert read_image(record(tmp_path / "bits.png")).tolist() == [[[255] * 3, [0] * 3]]


@pytest.mark.parametrize(("kind", "what"), [(np.float32, "floating-point values"), (np.int32, "32 bits per channel")])
def test_pixels_that_do_not_say_what_is_white_are_refused(tmp_path: Path, kind: type, what: str) -> None:
    """32-bit files hold 8-bit values as often as 16-bit ones."""
    Image.fromarray(np.full((2, 2), 200, kind)).save(tmp_path / "image.tif")
    with pytest.raises(InputError, match=rf"image\.tif has {what}.*save it with 8 or 16 bits"):
        read_image(record(tmp_path / "image.tif"))


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_data_say(tmp_path: Path, suffix: str, orientation: int) -> None:
    """By the standard's table: where row 0 and column 0 of what is stored are in what is seen."""
    seen = np.random.default_rng(0).integers(0, 256, (4, 7, 3), dtype=np.uint8)
    stored = {
        1: seen,
        2: seen[:, ::-1],
        3: seen[::-1, ::-1],
        4: seen[::-1],
        5: seen.swapaxes(0, 1),
        6: seen.swapaxes(0, 1)[::-1],
        7: seen.swapaxes(0, 1)[::-1, ::-1],
        8: seen.swapaxes(0, 1)[:, ::-1],
    }[orientation]
    path, mask = tmp_path / f"image.{suffix}", tmp_path / "mask.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    Image.fromarray(seen).save(mask)
    assert np.array_equal(read_image(record(path)), seen)
    assert np.array_equal(read_mask(record(path, mask)), seen.any(axis=-1))


def test_a_photograph_taken_on_its_side_is_turned(tmp_path: Path) -> None:
    stored = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "as_stored.jpg")
    stored.save(tmp_path / "turned.jpg", exif=exif)
    seen = np.rot90(read_image(record(tmp_path / "as_stored.jpg")), -1)
    assert np.array_equal(read_image(record(tmp_path / "turned.jpg")), seen)
    assert read_mask(record(tmp_path / "turned.jpg")).shape == seen.shape[:2]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(GREY).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(read_image(record(path))[..., 0], GREY)


@pytest.mark.filterwarnings("error")
def test_large_images_and_transparent_palettes_are_read_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as rdbench's import sets it, which pytest undoes
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    path = tmp_path / "image.png"
    Image.fromarray(GREY).convert("P").save(path, transparency=bytes([0, 255, 9]))
    assert np.array_equal(read_image(record(path))[..., 0], GREY)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(InputError, match="more than 20 pixels, the most that Pillow reads; make it smaller, or cut"):
        read_image(record(path))


def test_masks_are_whatever_is_not_black(tmp_path: Path) -> None:
    image = trees.draw(tmp_path / "image.png", (2, 2))
    wanted = [[False, True], [True, False]]
    mask = tmp_path / "mask.png"
    for pixels in (
        np.array([[0, 1], [255, 0]], np.uint8),
        np.array([[0, 1], [65535, 0]], np.uint16),
        np.array([[False, True], [True, False]]),
        np.array([[[0, 0, 0], [0, 0, 1]], [[9, 0, 0], [0, 0, 0]]], np.uint8),
        np.array([[[9, 9, 9, 0], [9, 9, 9, 255]], [[9, 9, 9, 1], [0, 0, 0, 255]]], np.uint8),  # a transparent layer
    ):
        Image.fromarray(pixels).save(mask)
        assert read_mask(record(image, mask)).tolist() == wanted


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_a_truncated_image_is_named(tmp_path: Path, suffix: str) -> None:
    whole = trees.draw(tmp_path / f"whole.{suffix}", (40, 30), seed=1).read_bytes()
    path = tmp_path / f"cut.{suffix}"
    for share in (0.0, 0.01, 0.1, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(InputError, match=rf"cut\.{suffix} cannot be read"):
            read_image(record(path))


def test_text_and_absent_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("this is no image")
    with pytest.raises(InputError, match=r"text\.png cannot be read"):
        read_image(record(tmp_path / "text.png"))
    with pytest.raises(InputError, match=r"gone\.png does not exist"):
        read_image(record(tmp_path / "gone.png"))


def reference(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """What torchvision's Resize does to a PIL image, by torchvision itself."""
    functional = pytest.importorskip("torchvision.transforms.functional")
    with Image.open(path) as image:
        return np.asarray(functional.resize(image.convert("RGB"), list(size)))


def test_decoding_is_rd4ads_resize_in_order(tmp_path: Path) -> None:
    trees.mvtec_ad(tmp_path)
    category = load_category("mvtec_ad", "bottle", tmp_path, seed=0)
    with ThreadPoolExecutor(3) as pool:
        images = DecodedImages(category, category.test, (16, 10), pool)
        in_file = DecodedImages(category, category.test, (16, 10), pool, tmp_path, in_memory=100)
        nothing = DecodedImages(category, [], (16, 10), pool)
    decoded = images[:]
    assert decoded.shape == (6, 16, 10, 3)
    assert np.array_equal(images[np.array([4, 0])], decoded[[4, 0]])
    assert np.array_equal(in_file[:], decoded)
    assert not list(tmp_path.glob("*.images"))
    assert nothing[:].shape == (0, 16, 10, 3)
    for pixels, image in zip(decoded, category.test, strict=True):
        assert image.path is not None
        assert np.array_equal(pixels, reference(image.path, (16, 10)))
    batches = list(decode_batches(category, category.test, (16, 10), batch_size=4))
    assert [len(batch) for batch in batches] == [4, 2]
    assert np.array_equal(np.concatenate(batches), decoded)
    masks = decode_masks(category, category.test)
    assert [int(mask.sum()) for mask in masks] == [24, 24, 24, 0, 0, 0]


def test_features_larger_than_memory_lie_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    teacher = load_teacher("embedded", None, torch.device("cpu"))
    arguments = (pixels, teacher, torch.device("cpu"), "fp32", 2, tmp_path)
    in_memory = FeatureBank(*arguments)  # type: ignore[arg-type]
    monkeypatch.setattr("rdbench.benchmark.images.FEATURE_BYTES_IN_MEMORY", 100)
    in_file = FeatureBank(*arguments)  # type: ignore[arg-type]
    for one, other in zip(in_memory.batch([2, 0]).features, in_file.batch([2, 0]).features, strict=True):
        assert torch.equal(one, other)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_before_it_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    trees.mvtec_ad(tmp_path / "data")
    category = load_category("mvtec_ad", "bottle", tmp_path / "data", seed=0)
    (tmp_path / "work").mkdir()
    with ThreadPoolExecutor(1) as pool, pytest.raises(InputError, match=r"no room for .*work \(No space left"):
        DecodedImages(category, category.test, (16, 10), pool, tmp_path / "work", in_memory=100)
    assert not list((tmp_path / "work").iterdir())


def test_decoding_names_the_broken_file(tmp_path: Path) -> None:
    folder = trees.mvtec_ad(tmp_path)
    category = load_category("mvtec_ad", "bottle", tmp_path, seed=0)
    whole = (folder / "test/dent/000.png").read_bytes()
    (folder / "test/dent/000.png").write_bytes(whole[:100])
    [index] = [i for i, image in enumerate(category.test) if image.key == "test/dent/000"]
    with ThreadPoolExecutor(2) as pool:
        images = DecodedImages(category, category.test, (8, 8), pool)
    with pytest.raises(InputError, match=r"dent/000\.png cannot be read"):
        images[:]
    assert images[index + 1 : index + 2].shape == (1, 8, 8, 3)


def test_readers_travel_to_other_processes(tmp_path: Path) -> None:
    trees.mvtec_ad(tmp_path)
    category = pickle.loads(pickle.dumps(load_category("mvtec_ad", "bottle", tmp_path, seed=0)))
    assert category.read_image(category.test[0]).shape == (8, 12, 3)


def test_the_fingerprint_tells_names_and_contents(tmp_path: Path) -> None:
    root = tmp_path / "data"
    trees.mvtec_ad(root)

    def print_of() -> str:
        return load_category("mvtec_ad", "bottle", root, seed=0).fingerprint

    first = print_of()
    assert len(first) == 64
    assert print_of() == first == load_category("mvtec_ad", "bottle", root, seed=7).fingerprint
    (root / "bottle/readme.txt").write_text("not an image")
    assert print_of() == first
    mask = root / "bottle/ground_truth/crack/000_mask.png"
    before = mask.read_bytes()
    Image.new("L", (12, 8), 255).save(mask)
    assert print_of() != first
    mask.write_bytes(before)
    assert print_of() == first
    (root / "bottle/train/good/000.png").rename(root / "bottle/train/good/900.png")
    assert print_of() != first
    moved = tmp_path / "elsewhere"
    (root / "bottle/train/good/900.png").rename(root / "bottle/train/good/000.png")
    root.rename(moved)
    assert load_category("mvtec_ad", "bottle", moved, seed=0).fingerprint == first


def test_the_fingerprint_is_cached_by_size_and_time(tmp_path: Path) -> None:
    file = tmp_path / "data/a.png"
    file.parent.mkdir()
    file.write_bytes(b"one")
    first = fingerprint(file.parent, [file])
    stat = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fingerprint(file.parent, [file]) == first  # same size and time: not read again
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert fingerprint(file.parent, [file]) != first


def test_categories_of_one_root_do_not_drive_each_other_out_of_the_cache(tmp_path: Path) -> None:
    files = [tmp_path / "data" / category / "a.png" for category in ("one", "two")]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_bytes(b"one")
    first = [fingerprint(tmp_path / "data", [file]) for file in files]
    for file in files:
        stat = file.stat()
        file.write_bytes(b"two")
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert [fingerprint(tmp_path / "data", [file]) for file in files] == first


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b'{"a.png": 3}', b'{"a.png": ["x", 1, 2]}', b"\xff\xfe"])
def test_a_corrupt_cache_is_only_slower(tmp_path: Path, damage: bytes) -> None:
    file = tmp_path / "data/a.png"
    file.parent.mkdir()
    file.write_bytes(b"one")
    first = fingerprint(file.parent, [file])
    (cache,) = (tmp_path / "cache").rglob("*.json")
    cache.write_bytes(damage)
    assert fingerprint(file.parent, [file]) == first
    assert json.loads(cache.read_text())["a.png"][0] == 3


def test_many_may_fingerprint_at_once_and_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / f"data/{name}.png" for name in range(20)]
    files[0].parent.mkdir()
    for file in files:
        file.write_text(file.name)
    with ThreadPoolExecutor(8) as pool:
        prints = set(pool.map(lambda _: fingerprint(files[0].parent, files), range(16)))
    assert len(prints) == 1
    assert not list((tmp_path / "cache").rglob("*.tmp"))
    monkeypatch.setenv("RDBENCH_CACHE", str(files[0] / "not a folder"))
    assert {fingerprint(files[0].parent, files)} == prints

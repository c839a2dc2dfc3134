"""Verification: a whole tree has no fault; every kind of damage is found, with its path, and all of them at once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from rdbench.datasets import load_category, toy
from rdbench.datasets.integrity import as_json, verify
from rdbench.errors import InputError
from tests.datasets import trees


@pytest.mark.parametrize("layout", ["mvtec_ad", "mvtec_ad2"])
def test_the_exported_toy_is_whole(tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy, "CATEGORIES", ("tablets",))  # one of three, to be quick
    toy.export(tmp_path / "toy", layout)  # type: ignore[arg-type]
    (check,) = verify(layout, tmp_path / "toy")
    assert check.category == "tablets"
    assert check.faults == ()
    category = load_category(layout, "tablets", tmp_path / "toy", seed=0)
    drawn = toy.load("tablets")
    assert len(category.test) == len(drawn.test)
    assert sum(image.label for image in category.test) == sum(image.label for image in drawn.test)
    assert check.fingerprint == category.fingerprint


def grey_copy(source: Path, target: Path) -> None:
    """The same pixels in another file format."""
    Image.open(source).save(target)


Damage = Callable[[Path], object]
DENT = "ground_truth/dent/000_mask.png"
FAULTS: list[tuple[Damage, str, str]] = [
    (lambda f: (f / "ground_truth/crack/000_mask.png").unlink(), "missing", "ground_truth/crack/000_mask.png"),
    (lambda f: (f / "test/crack/000.png").unlink(), "missing", "ground_truth/crack/000_mask.png"),
    (lambda f: trees.draw(f / "train/bad/000.png"), "extra", "train/bad/000.png"),
    (lambda f: (f / "train/good/000.raw").write_bytes(b"1"), "extra", "train/good/000.raw"),
    (lambda f: trees.draw(f / "new/000.png"), "extra", "new/000.png"),
    (lambda f: (f / "train/good/003.png").write_bytes((f / "train/good/003.png").read_bytes()[:90]), "unreadable",
     "train/good/003.png"),
    (lambda f: (f / DENT).write_bytes(b""), "unreadable", DENT),
    (lambda f: trees.draw_mask(f / DENT, (8, 12)), "size", DENT),
    (lambda f: Image.new("L", (12, 8)).save(f / DENT), "empty_mask", DENT),
    (lambda f: grey_copy(f / "train/good/004.png", f / "train/good/800.bmp"), "duplicate", "train/good/800.bmp"),
    (lambda f: grey_copy(f / "train/good/004.png", f / "test/good/800.tif"), "leak", "test/good/800.tif"),
    (lambda f: trees.draw(f / "train/good/004.bmp"), "duplicate", "train/good/004.png"),
    (lambda f: shutil.rmtree(f / "train"), "layout", "train/good"),
    (lambda f: trees.draw(f / "train/good/a\nb.png"), "name", "train/good/a\nb.png"),
    (lambda f: os.symlink("gone.png", f / "test/good/link.png"), "missing", "test/good/link.png"),
    (lambda f: os.symlink("link.png", f / "test/good/link.png"), "missing", "test/good/link.png"),
    (lambda f: os.symlink("../../train/good/000.png", f / "test/good/link.png"), "leak", "test/good/link.png"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "kind", "path"), FAULTS)
def test_each_fault_is_found_with_its_path(tmp_path: Path, damage: Damage, kind: str, path: str) -> None:
    folder = trees.mvtec_ad(tmp_path, "mine")
    assert verify("mvtec_ad", tmp_path)[0].faults == ()
    damage(folder)
    (fault,) = verify("mvtec_ad", tmp_path)[0].faults
    assert (fault.kind, fault.path) == (kind, folder / path)
    assert str(folder) in fault.message
    fault.message.encode()
    assert "\n" not in fault.message


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("test/crack", "no defect image to test on"),
        ("test/good", "no normal image to test on"),
        ("train/good/01*.png", "10 training images; at least 12 are needed"),
    ],
)
def test_what_a_run_has_too_few_images_of_is_a_fault(tmp_path: Path, removed: str, message: str) -> None:
    folder = trees.mvtec_ad(tmp_path, "mine")
    for defect in ("dent", *(["crack"] if "crack" in removed else [])):
        for part in ("test", "ground_truth"):
            shutil.rmtree(folder / part / defect)
    for path in folder.glob(removed if "*" in removed else f"{removed}/*"):
        path.unlink()
    (fault,) = verify("mvtec_ad", tmp_path)[0].faults
    assert fault.kind == "count"
    assert message in fault.message
    with pytest.raises(InputError) as refused:
        load_category("mvtec_ad", "mine", tmp_path, seed=0)
    assert str(refused.value) == fault.message


def test_names_that_are_no_utf8_are_named(tmp_path: Path) -> None:
    folder = trees.mvtec_ad(tmp_path, "mine")
    source = trees.draw(tmp_path / "image.png")
    try:
        for place in ("train/good", "test/good", "elsewhere"):
            (folder / place).mkdir(exist_ok=True)
            shutil.copy(source, os.fsencode(folder / place) + b"/\xff.png")
    except OSError:
        pytest.skip("this file system holds UTF-8 names only")
    faults = verify("mvtec_ad", tmp_path)[0].faults
    assert [fault.kind for fault in faults] == ["name", "name", "extra"]
    for fault in faults:
        assert "\\udcff.png" in fault.message
        fault.message.encode()
    with pytest.raises(InputError, match="no UTF-8 in its name"):
        load_category("mvtec_ad", "mine", tmp_path, seed=0)


def test_folders_with_unprintable_names_are_named(tmp_path: Path) -> None:
    folder = trees.mvtec_ad(tmp_path, "mine")
    (folder / "test/crack").rename(folder / "test/cr\nack")
    faults = verify("mvtec_ad", tmp_path)[0].faults
    assert "name" in {fault.kind for fault in faults}
    assert not any("\n" in fault.message for fault in faults)
    folder.rename(tmp_path / "mi\nne")
    with pytest.raises(InputError, match="control character"):
        load_category("mvtec_ad", "mi\nne", tmp_path, seed=0)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_a_file_that_may_not_be_read_does_not_hide_the_other_faults(tmp_path: Path) -> None:
    folder = trees.mvtec_ad(tmp_path, "mine")
    (folder / "test/good/000.png").chmod(0)
    (folder / DENT).chmod(0)
    (folder / "train/good/003.png").write_bytes(b"")
    (check,) = verify("mvtec_ad", tmp_path)
    assert [fault.kind for fault in check.faults] == ["unreadable"] * 3
    assert check.fingerprint == ""


def test_all_faults_at_once_and_the_counts(tmp_path: Path) -> None:
    folder = trees.mvtec_ad(tmp_path)
    (folder / "test/crack/000.png").unlink()
    (folder / "train/good/003.png").write_bytes(b"")
    for junk in ("Thumbs.db", ".DS_Store", "readme.txt", "._000.png"):
        (folder / junk).write_text("junk")
    done: list[tuple[int, int]] = []
    (check,) = verify("mvtec_ad", tmp_path, on_file=lambda *at: done.append(at))
    assert done == [(number, 25) for number in range(1, 26)]
    assert check.counts == {"train": 20, "test": 5}
    assert check.official == {"train": 209, "test": 83}
    assert sorted(fault.kind for fault in check.faults) == ["count", "count", "missing", "unreadable"]
    report = json.loads(json.dumps(as_json("mvtec_ad", [check])))
    assert report["faults"] == 4
    assert {fault["kind"] for fault in report["categories"][0]["faults"]} == {"count", "missing", "unreadable"}


def test_private_splits_are_counted_and_read(tmp_path: Path) -> None:
    folder = trees.mvtec_ad2(tmp_path)
    (folder / "test_private/001_regular.png").write_bytes(b"cut")
    (check,) = verify("mvtec_ad2", tmp_path)
    assert check.counts["test_private"] == check.counts["test_private_mixed"] == 2
    assert [fault.kind for fault in check.faults if fault.kind != "count"] == ["unreadable"]
    assert sum(fault.kind == "count" for fault in check.faults) == 4


def test_visa_is_verified_too(tmp_path: Path) -> None:
    trees.visa(tmp_path)
    (check,) = verify("visa", tmp_path)
    assert [fault.kind for fault in check.faults] == ["count", "count"]
    (tmp_path / "candle/Data/Images/Normal/0000.JPG").unlink()
    (check,) = verify("visa", tmp_path)
    assert "missing" in {fault.kind for fault in check.faults}
    assert check.fingerprint == ""


def test_toy_has_no_files() -> None:
    with pytest.raises(InputError, match="drawn in memory"):
        verify("toy", None)


@pytest.mark.parametrize("dataset", ["mvtec_ad", "mvtec_ad2"])
def test_the_real_tiles_are_whole(dataset: str) -> None:
    (check,) = verify(dataset, trees.tiles(dataset))
    assert check.faults == ()
    assert check.official == {}

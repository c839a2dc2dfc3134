"""Loading: the official layouts, their splits, and one clear line for everything that can be wrong with them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdbench.datasets import DATASETS, list_categories, load_category
from rdbench.errors import InputError
from tests.command import Command
from tests.datasets import trees


def test_importing_is_light() -> None:
    code = "import sys, rdbench.datasets; sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'PIL')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_official_tables() -> None:
    assert [len(DATASETS[name].categories) for name in ("mvtec_ad", "mvtec_ad2", "visa", "toy")] == [15, 8, 12, 3]
    totals = {name: sum(counts["train"] for counts in DATASETS[name].counts.values()) for name in ("mvtec_ad", "visa")}
    assert totals == {"mvtec_ad": 3629, "visa": 8659}  # as published
    assert sum(counts["test"] for counts in DATASETS["mvtec_ad"].counts.values()) == 1725
    assert sum(counts["test"] for counts in DATASETS["visa"].counts.values()) == 962 + 1200


def test_toy_is_what_its_module_draws() -> None:
    for name in list_categories("toy", None):
        category = load_category("toy", name, None, seed=0)
        found = {"train": len(category.train), "validation": len(category.calibration), "test": len(category.test)}
        assert DATASETS["toy"].counts[name] == found


def test_mvtec_ad(tmp_path: Path) -> None:
    folder = trees.mvtec_ad(tmp_path)
    for junk in ("train/good/Thumbs.db", "train/good/.DS_Store", "test/crack/._000.png", "readme.txt"):
        (folder / junk).write_bytes(b"no image")
    assert list_categories("mvtec_ad", tmp_path) == ["bottle"]
    category = load_category("mvtec_ad", "bottle", tmp_path, seed=0)
    assert [image.key for image in category.test] == [
        "test/crack/000", "test/crack/001", "test/dent/000", "test/good/000", "test/good/001", "test/good/002",
    ]  # fmt: skip
    assert [image.label for image in category.test] == [1, 1, 1, 0, 0, 0]
    assert [image.defect for image in category.test] == ["crack", "crack", "dent", "good", "good", "good"]
    assert len({image.part for image in category.test}) == 6
    assert {image.lighting for image in category.test} == {""}
    assert len(category.train) == 10
    assert len(category.calibration) == 10  # never fewer than ten, though 10 % of 20 are two
    assert {image.key for image in category.train + category.calibration} == {f"train/good/{n:03d}" for n in range(20)}
    assert (
        category.custom == "20 train images where the official set has 209; 6 test images where the official set has 83"
    )
    mask = category.read_mask(category.test[0])
    assert mask.dtype == np.bool_
    assert mask.shape == (8, 12)
    assert mask.sum() == 24
    assert not category.read_mask(category.test[3]).any()


def test_the_hold_out_is_a_seeded_tenth(tmp_path: Path) -> None:
    trees.mvtec_ad(tmp_path, train=150)
    draws = [load_category("mvtec_ad", "bottle", tmp_path, seed).calibration for seed in (0, 0, 1)]
    assert [len(draw) for draw in draws] == [15, 15, 15]
    assert draws[0] == draws[1] != draws[2]


def test_mvtec_ad2(tmp_path: Path) -> None:
    trees.mvtec_ad2(tmp_path)
    category = load_category("mvtec_ad2", "vial", tmp_path, seed=0)
    assert (len(category.train), len(category.calibration), len(category.test)) == (4, 10, 24)
    assert category.calibration_source == "validation/good"
    assert {image.lighting for image in category.test} == set(trees.LIGHTINGS)
    parts = {image.part for image in category.test}
    assert parts == {f"test_public/{kind}/{number}" for kind in ("good", "bad") for number in ("000", "001")}
    image = next(image for image in category.test if image.key == "test_public/bad/001_shift_2")
    assert (image.lighting, image.part, image.label) == ("shift_2", "test_public/bad/001", 1)
    assert image.mask_path is not None
    assert image.mask_path.name == "001_shift_2_mask.png"


def test_visa(tmp_path: Path) -> None:
    trees.visa(tmp_path)
    category = load_category("visa", "candle", tmp_path, seed=0)
    assert (len(category.train), len(category.calibration), len(category.test)) == (4, 10, 4)
    assert [image.key for image in category.test] == [
        "test/anomaly/000", "test/anomaly/001", "test/normal/0014", "test/normal/0015",
    ]  # fmt: skip
    assert category.read_mask(category.test[0]).sum() == 24


def test_a_folder_of_any_shape(tmp_path: Path) -> None:
    trees.mvtec_ad(tmp_path, "mine")
    trees.mvtec_ad2(tmp_path, "yours")
    assert list_categories("folder", tmp_path) == ["mine", "yours"]
    assert load_category("folder", "mine", tmp_path, seed=0).custom
    assert load_category("folder", "yours", tmp_path, seed=0).calibration_source == "validation/good"


def test_images_of_your_own_without_masks_are_told_how_to_make_them_and_how_to_see_all(
    rdbench: Command, tmp_path: Path
) -> None:
    root = tmp_path / "my images"
    shutil.rmtree(trees.mvtec_ad(root, "mine") / "ground_truth")
    with pytest.raises(InputError, match="white where the defect is") as caught:
        load_category("folder", "mine", root, seed=0)
    assert f"without a defect belongs in {root}/mine/test/good" in str(caught.value)
    [said] = re.findall(r"3 faults in all: `rdbench (.*)`", str(caught.value))
    done = rdbench(*shlex.split(said))
    assert (done.code, done.out.count("is missing")) == (1, 3)


def test_the_root_may_hold_the_dataset_and_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees.mvtec_ad(tmp_path / "mvtec_ad")
    trees.mvtec_ad2(tmp_path / "mvtec_ad2")
    monkeypatch.setenv("RDBENCH_DATA", str(tmp_path))
    assert list_categories("mvtec_ad", None) == ["bottle"]
    assert list_categories("mvtec_ad2", None) == ["vial"]


def test_official_counts_are_not_custom(tmp_path: Path) -> None:
    folder = trees.mvtec_ad(tmp_path, "toothbrush", train=60)
    for number in range(3, 39):
        draw = folder / f"test/good/{number:03d}.png"
        trees.draw(draw)
    assert load_category("mvtec_ad", "toothbrush", tmp_path, seed=0).custom == ""


Damage = Callable[[Path], object]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda f: shutil.rmtree(f / "train"), ["train/good", "does not exist"]),
        (lambda f: [p.unlink() for p in (f / "train/good").iterdir()], ["train/good", "holds no image"]),
        (lambda f: [p.unlink() for p in list((f / "train/good").iterdir())[11:]], ["11 training images", "12"]),
        (lambda f: [shutil.rmtree(f / f"{p}/{d}") for p in ("test", "ground_truth") for d in ("crack", "dent")],
         ["no defect image"]),
        (lambda f: shutil.rmtree(f / "test/good"), ["no normal image"]),
        (lambda f: (f / "ground_truth/crack/001_mask.png").unlink(), ["ground_truth/crack/001_mask.png", "missing"]),
        (lambda f: (f / "test/crack/001.png").unlink(), ["ground_truth/crack/001_mask.png", "belongs to no image"]),
        (lambda f: shutil.rmtree(f / "test/dent"), ["ground_truth/dent/000_mask.png", "belongs to no image"]),
        (lambda f: trees.draw_mask(f / "ground_truth/crack/001_mask.png", (12, 9)),
         ["001_mask.png", "12 x 9", "12 x 8"]),
        (lambda f: trees.draw(f / "train/good/003.jpg"), ["003.jpg", "003.png", "keep one"]),
        (lambda f: trees.draw_mask(f / "ground_truth/crack/001.png"), ["two masks"]),
        (lambda f: (f / "ground_truth/crack/001_mask.png").write_bytes(b"no"), ["001_mask.png", "cannot be read"]),
    ],
)  # fmt: skip
def test_a_damaged_tree_gets_one_clear_line(tmp_path: Path, damage: Damage, expected: list[str]) -> None:
    damage(trees.mvtec_ad(tmp_path))
    with pytest.raises(InputError) as caught:
        load_category("mvtec_ad", "bottle", tmp_path, seed=0)
    message = str(caught.value)
    assert "\n" not in message
    for words in (str(tmp_path), *expected):
        assert words in message


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda f: shutil.rmtree(f / "validation"), ["validation/good", "does not exist"]),
        (lambda f: (f / "validation/good/003_regular.png").unlink(), ["9 validation images", "10"]),
        (lambda f: trees.draw(f / "test_public/good/lamp.png"), ["lamp.png", "<number>_<lighting>"]),
        (lambda f: shutil.rmtree(f / "test_public/ground_truth"), ["000_overexposed_mask.png", "missing"]),
    ],
)
def test_a_damaged_mvtec_ad2_tree_gets_one_clear_line(tmp_path: Path, damage: Damage, expected: list[str]) -> None:
    damage(trees.mvtec_ad2(tmp_path))
    with pytest.raises(InputError) as caught:
        load_category("mvtec_ad2", "vial", tmp_path, seed=0)
    for words in (str(tmp_path), *expected):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("candle,test,anomaly,candle/Data/Images/Anomaly/7.JPG,candle/Data/Masks/Anomaly/7.png", "7.JPG"),
        ("candle,test,anomaly,candle/Data/Images/Normal/0000.JPG,", "names no mask"),
        ("candle,test,odd,candle/Data/Images/Normal/0000.JPG,", "not of VisA's form"),
        ("candle,train,normal,../secret.JPG,", "not of VisA's form"),
        ('candle,train,normal,"candle/a\nb.JPG",', "not of VisA's form"),
        ("candle,train,normal,candle/Data/Images/Normal/0000.JPG,", "twice"),
    ],
)
def test_a_damaged_visa_table_gets_one_clear_line(tmp_path: Path, row: str, expected: str) -> None:
    with trees.visa(tmp_path).open("a") as table:
        table.write(row + "\n")
    with pytest.raises(InputError, match=expected):
        load_category("visa", "candle", tmp_path, seed=0)


def test_an_anomaly_among_visas_training_images_is_refused(tmp_path: Path) -> None:
    table = trees.visa(tmp_path)
    table.write_text(table.read_text().replace("candle,test,anomaly", "candle,train,anomaly", 1))
    with pytest.raises(InputError, match=r"has the anomaly .* among the training images; make its split `test`"):
        load_category("visa", "candle", tmp_path, seed=0)


def test_a_visa_table_of_another_kind_is_named_with_its_columns(tmp_path: Path) -> None:
    table = trees.visa(tmp_path)
    for text in (table.read_text().replace(",", ";"), ""):
        table.write_text(text)
        with pytest.raises(InputError, match=r"1cls\.csv has no column image, label, mask, object, split; its first"):
            load_category("visa", "candle", tmp_path, seed=0)


def test_a_visa_table_that_is_no_text(tmp_path: Path) -> None:
    trees.visa(tmp_path).write_bytes(b"object,split\n\xff\xfe\x00")
    with pytest.raises(InputError, match=r"1cls\.csv cannot be read"):
        list_categories("visa", tmp_path)


def test_wrong_roots_say_which_was_meant(tmp_path: Path) -> None:
    trees.mvtec_ad(tmp_path / "deep/data")
    trees.mvtec_ad2(tmp_path / "other")
    trees.mvtec_ad(tmp_path / "more" / "my data", "blue bottle")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    wrong: list[tuple[Path | None, str]] = [
        (None, "RDBENCH_DATA"),
        (tmp_path / "nowhere", "does not exist"),
        (tmp_path / ("x" * 300), "does not exist"),  # here pathlib raises, as where a folder may not be entered
        (tmp_path / "file", "is not a folder"),
        (tmp_path / "deep", f"use --root {tmp_path}/deep/data"),
        (tmp_path / "deep/data/bottle", f"use --root {tmp_path}/deep/data --category bottle"),
        (tmp_path / "more", f"use --root '{tmp_path}/more/my data'"),  # as a shell takes it
        (tmp_path / "more/my data/blue bottle", f"'{tmp_path}/more/my data' --category 'blue bottle'"),
        (tmp_path / "other", "use --dataset mvtec_ad2"),
        (tmp_path / "empty", "one folder per category"),
    ]
    for root, expected in wrong:
        with pytest.raises(InputError) as caught:
            list_categories("mvtec_ad", root)
        assert expected in str(caught.value)


def test_unknown_names_get_the_nearest(tmp_path: Path) -> None:
    trees.mvtec_ad(tmp_path)
    with pytest.raises(InputError, match="did you mean mvtec_ad"):
        list_categories("mvtecad", tmp_path)
    with pytest.raises(InputError, match="did you mean bottle"):
        load_category("mvtec_ad", "botle", tmp_path, seed=0)
    with pytest.raises(InputError, match=r"cable of mvtec_ad is not in .*found there: bottle"):
        load_category("mvtec_ad", "cable", tmp_path, seed=0)


def test_an_empty_mask_file_of_the_right_size_is_read_as_it_is(tmp_path: Path) -> None:
    folder = trees.mvtec_ad(tmp_path)
    Image.new("L", (12, 8)).save(folder / "ground_truth/crack/000_mask.png")
    category = load_category("mvtec_ad", "bottle", tmp_path, seed=0)
    assert not category.read_mask(category.test[0]).any()


@pytest.mark.parametrize(("dataset", "counts"), [("mvtec_ad", (185, 21, 199)), ("mvtec_ad2", (85, 18, 468))])
def test_the_real_tiles(dataset: str, counts: tuple[int, int, int]) -> None:
    root = trees.tiles(dataset)
    assert list_categories(dataset, root) == ["magnetic_tile"]
    category = load_category(dataset, "magnetic_tile", root, seed=0)
    assert (len(category.train), len(category.calibration), len(category.test)) == counts
    assert "not an official category" in category.custom
    assert sum(image.label for image in category.test) == {"mvtec_ad": 121, "mvtec_ad2": 234}[dataset]

"""The toy data set: the same images everywhere, exact masks, parts seen under several lights, files on request."""

import hashlib
import pickle
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from rdbench.datasets import toy
from rdbench.errors import InputError

DIGEST = """
import hashlib
from rdbench.datasets import toy
category = toy.load({name!r})
records = [category.train[0], *category.test[-4:]]
pictures = b"".join(category.read_image(r).tobytes() + category.read_mask(r).tobytes() for r in records)
print(hashlib.sha256(pictures).hexdigest(), category.fingerprint)
"""


@pytest.fixture(params=toy.CATEGORIES)
def category(request: pytest.FixtureRequest):
    return toy.load(request.param)


def test_counts_parts_and_lightings(category):
    assert (len(category.train), len(category.calibration), len(category.test)) == (60, 12, 60)
    assert Counter(record.label for record in category.test) == {0: 30, 1: 30}
    assert not any(record.label for record in (*category.train, *category.calibration))
    assert {record.lighting for record in category.test} == {"regular", "shift_1", "underexposed"}
    assert {record.lighting for record in (*category.train, *category.calibration)} == {"regular"}
    keys = [record.key for record in (*category.train, *category.calibration, *category.test)]
    assert len(set(keys)) == len(keys)
    parts = Counter(record.part for record in category.test)
    assert set(parts.values()) == {3}, "each test part is seen once under each light"
    assert len({record.part for record in category.train}) == 60
    assert not parts.keys() & {record.part for record in (*category.train, *category.calibration)}
    assert len({record.defect for record in category.test}) == 6
    assert category.custom == ""


def test_the_same_pictures_in_another_process(category):
    records = [category.train[0], *category.test[-4:]]
    pictures = b"".join(category.read_image(r).tobytes() + category.read_mask(r).tobytes() for r in records)
    here = f"{hashlib.sha256(pictures).hexdigest()} {category.fingerprint}"
    there = subprocess.run(
        [sys.executable, "-c", DIGEST.format(name=category.name)], capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here


def test_a_reader_travels_to_workers(category):
    record = category.test[-1]
    read_image, read_mask = pickle.loads(pickle.dumps((category.read_image, category.read_mask)))
    assert np.array_equal(read_image(record), category.read_image(record))
    assert np.array_equal(read_mask(record), category.read_mask(record))


def test_masks_hold_exactly_what_the_defect_changes(category):
    defective = [record for record in category.test if record.label]
    covered = 0
    for record in defective[::3]:
        image, mask = category.read_image(record), category.read_mask(record)
        assert image.shape == (256, 256, 3)
        assert image.dtype == np.uint8
        assert mask.shape == (256, 256)
        assert mask.dtype == np.bool_
        assert 10 < mask.sum() < 256 * 256 / 8
        # The same key, part, light and noise without the defect.
        good = category.read_image(replace(record, label=0))
        changed = (image != good).any(axis=2)
        assert not changed[~mask].any()
        covered += (changed.sum() / mask.sum()) > 0.6
        assert not category.read_mask(replace(record, label=0)).any()
    assert covered >= 5, "plain defects change most of their mask"


def test_a_part_keeps_its_defect_under_every_light(category):
    by_part: dict[str, list] = {}
    for record in category.test:
        if record.label:
            by_part.setdefault(record.part, []).append(record)
    for records in list(by_part.values())[:4]:
        first, *others = (category.read_mask(record) for record in records)
        assert all(np.array_equal(first, other) for other in others)
        assert len({record.defect for record in records}) == 1
        brightness = {record.lighting: category.read_image(record).mean() for record in records}
        assert brightness["underexposed"] < 0.8 * brightness["regular"]


def test_normal_images_differ_within_limits(category):
    pictures = [category.read_image(record).astype(float) for record in category.train[:6]]
    means = [picture.mean() for picture in pictures]
    assert 1 < np.ptp(means) < 60
    assert all(np.abs(a - pictures[0]).mean() > 2 for a in pictures[1:])
    assert all((picture == 255).mean() < 0.02 for picture in pictures), "no clipped highlights under regular light"


def test_fingerprints_tell_categories_apart():
    assert len({toy.load(name).fingerprint for name in toy.CATEGORIES}) == 3


def test_unknown_category_offers_the_nearest():
    with pytest.raises(InputError, match="did you mean twill"):
        toy.load("twil")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch):
    """A toy of one category with few parts, to be written quickly."""
    for name, value in {"CATEGORIES": ("flange",), "TRAIN": 3, "CALIBRATION": 2, "PARTS": 5}.items():
        monkeypatch.setattr(toy, name, value)
    return toy.load("flange")


def read(path):
    return np.asarray(Image.open(path))


def test_export_as_mvtec_ad2(small, tmp_path):
    toy.export(tmp_path / "toy", "mvtec_ad2")
    root = tmp_path / "toy" / "flange"
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))
    parts, lights = range(5), ("regular", "shift_1", "underexposed")
    expected = [f"train/good/{number:03d}_regular.png" for number in range(3)]
    expected += [f"validation/good/{number:03d}_regular.png" for number in range(2)]
    expected += [
        f"test_public/{kind}/{n:03d}_{light}.png" for kind in ("good", "bad") for n in parts for light in lights
    ]
    expected += [f"test_public/ground_truth/bad/{n:03d}_{light}_mask.png" for n in parts for light in lights]
    expected += [f"test_private/{n:03d}_regular.png" for n in parts]
    expected += [f"test_private_mixed/{n:03d}_mixed.png" for n in parts]
    assert files == sorted(expected)
    record = next(r for r in small.test if r.label and r.key.endswith("003_shift_1"))
    assert np.array_equal(read(root / "test_public/bad/003_shift_1.png"), small.read_image(record))
    mask = read(root / "test_public/ground_truth/bad/003_shift_1_mask.png")
    assert np.array_equal(mask, np.where(small.read_mask(record), 255, 0))


def test_export_as_mvtec_ad(small, tmp_path):
    toy.export(tmp_path, "mvtec_ad")
    root = tmp_path / "flange"
    assert len(list((root / "train/good").iterdir())) == 3 + 2
    assert len(list((root / "test/good").iterdir())) == 15
    defects = {path.name for path in (root / "test").iterdir()} - {"good"}
    assert (
        defects
        == {path.name for path in (root / "ground_truth").iterdir()}
        == {r.defect for r in small.test} - {"good"}
    )
    for defect in defects:
        stems = {path.stem for path in (root / "test" / defect).iterdir()}
        assert {path.stem for path in (root / "ground_truth" / defect).iterdir()} == {f"{s}_mask" for s in stems}


def test_export_touches_no_folder_with_files(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="not an empty directory"):
        toy.export(tmp_path, "mvtec_ad")
    with pytest.raises(InputError, match="did you mean mvtec_ad"):
        toy.export(tmp_path / "new", "mvtec_ad3")  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

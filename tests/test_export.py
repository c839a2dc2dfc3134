"""The server's archive, held against a checker that knows the format's description only."""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from rdbench.errors import InputError
from rdbench.export import PrivateMap, export_mvtec_ad2, exported_categories, private_images
from tests.datasets import trees

VALIDATION = {"vial": (0.2, 0.05)}


def maps(root: Path, category: str = "vial") -> Iterator[PrivateMap]:
    """A small smooth bump on a pedestal for each private image: as small as Reverse Distillation's maps."""
    for number, image in enumerate(private_images(root, category)):
        assert image.path is not None
        with Image.open(image.path) as opened:
            width, height = opened.size
        y, x = np.mgrid[:height, :width]
        split, stem = image.key.split("/")
        bump = 0.2 + 0.3 * np.exp(-((x - width / 3) ** 2 + (y - height / 2) ** 2) / (width + number))
        yield PrivateMap(category, split, stem, bump.astype(np.float32))


def read_tiff(content: bytes) -> NDArray[np.float16]:
    """A TIFF by its specification: one uncompressed float16 plane, little-endian, or this raises."""
    assert content[:4] == b"II*\0"
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    tags = {}
    for index in range(count):
        tag, kind, number = struct.unpack_from("<HHI", content, start + 2 + 12 * index)
        size = {2: 1, 3: 2, 4: 4, 5: 8}[kind]
        at = start + 10 + 12 * index
        if number * size > 4:
            (at,) = struct.unpack_from("<I", content, at)
        if kind in (3, 4):
            tags[tag] = struct.unpack_from(f"<{number}{'H' if kind == 3 else 'I'}", content, at)
    (width,), (height,) = tags[256], tags[257]
    assert (tags[258], tags[259], tags[277], tags[339]) == ((16,), (1,), (1,), (3,))  # 16 bits, plain, 1 plane, float
    (next_page,) = struct.unpack_from("<I", content, start + 2 + 12 * count)
    assert next_page == 0
    data = b"".join(content[at : at + size] for at, size in zip(tags[273], tags[279], strict=True))
    return np.frombuffer(data, "<f2").reshape(height, width)


def check(archive: Path, sizes: dict[str, tuple[int, int]]) -> dict[str, NDArray[np.float16]]:
    """`sizes`: "<object>/<split>/<stem>" -> (height, width) of every private image."""
    found: dict[str, NDArray[np.float16]] = {}
    names = []
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            assert member.isreg()
            names.append(member.name)
            kind, _, place = member.name.partition("/")
            file = tar.extractfile(member)
            assert file is not None
            if kind == "anomaly_images":
                found[place.removesuffix(".tiff")] = read_tiff(file.read())
            else:
                assert kind == "anomaly_images_thresholded"
                with Image.open(io.BytesIO(file.read())) as image:
                    assert (image.format, image.mode) == ("PNG", "L")
                    assert image.size[::-1] == sizes[place.removesuffix(".png")]
                    assert set(np.unique(np.asarray(image))) <= {0, 255}
    wanted = [f"anomaly_images/{place}.tiff" for place in sizes]
    wanted += [f"anomaly_images_thresholded/{place}.png" for place in sizes]
    assert sorted(names) == sorted(wanted)
    for place, size in sizes.items():
        assert found[place].shape == size
        assert np.isfinite(found[place]).all()
    return found


def test_the_archive_is_what_the_server_takes(tmp_path: Path) -> None:
    trees.mvtec_ad2(tmp_path / "root", "mine")
    done: list[tuple[int, int]] = []
    export = export_mvtec_ad2(
        maps(tmp_path / "root", "mine"),
        {"mine": VALIDATION["vial"]},
        tmp_path / "root",
        tmp_path / "submission.tar.gz",
        on_map=lambda *at: done.append(at),
    )
    places = [f"mine/test_private/{n:03d}_regular" for n in range(2)]
    places += [f"mine/test_private_mixed/{n:03d}_mixed" for n in range(2)]
    found = check(tmp_path / "submission.tar.gz", dict.fromkeys(places, (8, 12)))
    assert (export.maps, len(export.lacking)) == (4, 8)
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for item in maps(tmp_path / "root", "mine"):
        standard = (item.anomaly_map - 0.2) / 0.05
        assert np.allclose(found[f"mine/{item.split}/{item.stem}"], standard, rtol=2**-10, atol=1e-4)
    with tarfile.open(tmp_path / "submission.tar.gz") as tar:
        png = tar.extractfile("anomaly_images_thresholded/" + places[0] + ".png")
        assert png is not None
        flagged = np.asarray(Image.open(png)) == 255
    first = next(maps(tmp_path / "root", "mine")).anomaly_map
    assert np.array_equal(flagged, first > 0.2 + 3 * 0.05)
    assert 0 < flagged.sum() < flagged.size


def test_the_same_maps_give_the_same_bytes(tmp_path: Path) -> None:
    trees.mvtec_ad2(tmp_path / "root", "mine")
    contents = []
    for name in ("a.tar.gz", "b.tar.gz"):
        export_mvtec_ad2(maps(tmp_path / "root", "mine"), {"mine": (0.2, 0.05)}, tmp_path / "root", tmp_path / name)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]


Damage = Callable[[list[PrivateMap]], list[PrivateMap]]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda m: m[1:], "no map was given for mine/test_private/000_regular"),
        (lambda m: [], "and 1 more"),
        (lambda m: [*m, m[0]], "two maps were given for mine/test_private/000_regular"),
        (lambda m: [*m, replace(m[0], stem="900_regular")], "mine/test_private/900_regular, which is no private image"),
        (lambda m: [replace(m[0], anomaly_map=m[0].anomaly_map.T)], "is 8 x 12 pixels, the image 12 x 8"),
        (lambda m: [replace(m[0], anomaly_map=m[0].anomaly_map * np.nan)], "NaN"),
    ],
)
def test_bad_maps_write_nothing(tmp_path: Path, damage: Damage, expected: str) -> None:
    trees.mvtec_ad2(tmp_path / "root", "mine")
    given = damage(list(maps(tmp_path / "root", "mine")))
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=expected):
        export_mvtec_ad2(given, {"mine": (0.2, 0.05)}, tmp_path / "root", tmp_path / "out/submission.tar.gz")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(("out", "expected"), [("", "is a folder"), ("none/x.tar.gz", "does not exist")])
def test_a_place_that_cannot_be_written_to_is_named_before_any_map_is_made(
    tmp_path: Path, out: str, expected: str
) -> None:
    trees.mvtec_ad2(tmp_path / "root", "mine")

    def never() -> Iterator[PrivateMap]:
        raise AssertionError("a map was asked for")
        yield

    with pytest.raises(InputError, match=expected):
        export_mvtec_ad2(never(), {"mine": (0.2, 0.05)}, tmp_path / "root", tmp_path / out)


def test_what_the_disk_refuses_is_one_line(tmp_path: Path) -> None:
    trees.mvtec_ad2(tmp_path / "root", "mine")
    out = tmp_path / ("x" * 300)
    with pytest.raises(InputError, match=r"cannot write .*nothing was written"):
        export_mvtec_ad2(maps(tmp_path / "root", "mine"), {"mine": (0.2, 0.05)}, tmp_path / "root", out)
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_official_objects_need_their_official_number(tmp_path: Path) -> None:
    trees.mvtec_ad2(tmp_path, "vial")
    with pytest.raises(InputError, match=r"test_private has 2 images where 276 are wanted"):
        private_images(tmp_path, "vial")
    trees.mvtec_ad2(tmp_path, "mine")
    assert exported_categories(tmp_path) == ["vial"]


def test_a_constant_validation_map_is_refused(tmp_path: Path) -> None:
    trees.mvtec_ad2(tmp_path, "mine")
    with pytest.raises(InputError, match="nothing to scale by"):
        export_mvtec_ad2(maps(tmp_path, "mine"), {"mine": (0.2, 0.0)}, tmp_path, tmp_path / "x.tar.gz")


def test_float16_keeps_the_order_that_au_pro_looks_at() -> None:
    """Maps on a pedestal, where plain float16 has few levels left: the curve of FPR against overlap barely moves."""
    rng = np.random.default_rng(0)
    defect = np.zeros((256, 256), bool)
    defect[100:140, 60:90] = True
    score = 0.5 + 0.0004 * (rng.standard_normal((256, 256)) + 1.5 * defect)
    standard = ((score - 0.5) / 0.0004).astype(np.float16)

    def area(values: NDArray[np.floating]) -> float:
        """Area under true against false positive rate up to 0.05, each value its own threshold."""
        order = np.argsort(-values.ravel().astype(np.float64), kind="stable")
        last = np.append(np.diff(values.ravel()[order].astype(np.float64)) != 0, True)
        fpr = np.append(0, (np.cumsum(~defect.ravel()[order]) / (~defect).sum())[last])
        tpr = np.append(0, (np.cumsum(defect.ravel()[order]) / defect.sum())[last])
        grid = np.linspace(0, 0.05, 5001)
        return float(np.interp(grid, fpr, tpr).mean())

    assert abs(area(standard) - area(score)) < 1e-3
    assert abs(area(score.astype(np.float16)) - area(score)) > 1e-3  # what would happen unscaled


def test_the_real_tiles(tmp_path: Path) -> None:
    root = trees.tiles("mvtec_ad2")
    name = "magnetic_tile"
    export_mvtec_ad2(maps(root, name), {name: (0.2, 0.05)}, root, tmp_path / "submission.tar.gz")
    sizes = {f"{name}/{image.key}": (256, 256) for image in private_images(root, name)}
    assert len(sizes) == 24
    check(tmp_path / "submission.tar.gz", sizes)

"""`rdbench datasets`, `rdbench shifts` and `rdbench export` as a user meets them."""

from __future__ import annotations

import errno
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from rdbench.benchmark.store import LOCKS, open_store
from tests.command import QUICK, Command
from tests.datasets import trees


def test_an_archive_is_unpacked_listed_and_verified(rdbench: Command, tmp_path: Path) -> None:
    trees.mvtec_ad(tmp_path / "made", "bottle")
    with tarfile.open(tmp_path / "bottle.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "made" / "bottle", "bottle")
    root = tmp_path / "root"
    done = rdbench("datasets", "prepare", "mvtec_ad", tmp_path / "bottle.tar.xz", "--root", root)
    assert done.code == 0, done.err
    assert "bottle" in done.out
    assert "mvtec_ad  1 category found" in rdbench("datasets", "--root", root).out
    done = rdbench("datasets", "verify", "mvtec_ad", "--root", root)
    assert done.code == 1, "20 training images are not the official number"
    assert "209" in done.out


def test_every_fault_is_printed_with_its_path(rdbench: Command, tmp_path: Path) -> None:
    home = trees.mvtec_ad(tmp_path, "mine")
    done = rdbench("datasets", "verify", "mvtec_ad", "--root", tmp_path)
    assert done.code == 0
    assert "custom data: mine is not an official category of mvtec_ad" in " ".join(done.out.split())
    broken = home / "train/good/003.png"
    broken.write_bytes(broken.read_bytes()[:50])
    (home / "ground_truth/dent/000_mask.png").unlink()
    done = rdbench("datasets", "verify", "mvtec_ad", "--root", tmp_path)
    assert done.code == 1
    assert str(broken) in done.out
    assert "dent" in done.out
    done = rdbench("datasets", "verify", "mvtec_ad", "--root", tmp_path, "--json")
    report = json.loads(done.out)
    assert (done.code, report["faults"]) == (1, 2)
    paths = [fault["path"] for fault in report["categories"][0]["faults"]]
    assert str(broken) in paths


def test_toy_as_files_reads_as_what_it_was_drawn_from(rdbench: Command, tmp_path: Path) -> None:
    out = tmp_path / "toy"
    assert rdbench("datasets", "export", "toy", out, "--layout", "mvtec_ad2").code == 0
    assert rdbench("datasets", "verify", "mvtec_ad2", "--root", out).code == 0
    assert rdbench("datasets", "export", "toy", out).code == 2, "the directory is not empty"
    assert rdbench("datasets", "export", "mvtec_ad", tmp_path / "x").code == 2


def test_a_disk_that_fills_up_leaves_no_half_data_set(
    rdbench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, saved = Image.Image.save, []

    def full(self: Image.Image, path: Path) -> None:
        saved.append(path)
        if len(saved) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, path)

    out = tmp_path / "toy"
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", full)
        done = rdbench("datasets", "export", "toy", out)
    assert done.code == 2
    assert f"cannot write to {out}: No space left on device; nothing was left there" in done.error()
    assert not any(out.iterdir())


def test_pictures_are_not_written_among_results(rdbench: Command, tmp_path: Path) -> None:
    runs = open_store(tmp_path / "runs", create=True)
    runs.work_directory(LOCKS)
    image = trees.draw(tmp_path / "image.png", (64, 48))
    for command in (
        ("shifts", "preview", image, "--out", runs.root / "toy" / "sheet.png"),
        ("datasets", "export", "toy", runs.root / "toy"),
        ("predict", runs.root / "cell", image, "--out", runs.root / "figures"),
    ):
        done = rdbench(*command)
        assert done.code == 2
        assert "lies in a directory of results" in done.error()


def test_codes_of_emoji_in_names_are_printed_as_they_are(rdbench: Command, tmp_path: Path) -> None:
    trees.mvtec_ad(tmp_path, "cam:100:left")
    assert "cam:100:left" in rdbench("datasets", "verify", "folder", "--root", tmp_path).out
    assert "a:x:b.png" in rdbench("shifts", "preview", tmp_path / "a:x:b.png").error()


def test_shifts_are_listed_and_drawn(rdbench: Command, tmp_path: Path) -> None:
    listed = rdbench("shifts").out
    for kind in ("exposure", "defocus", "sensor", "viewpoint", "dirt"):
        assert kind in listed
    image = trees.draw(tmp_path / "image.png", (64, 48))
    done = rdbench("shifts", "preview", image, "--out", tmp_path / "sheet.png", "--kind", "defocus")
    assert done.code == 0, done.err
    assert Image.open(tmp_path / "sheet.png").width > 6 * 64
    assert rdbench("shifts", "preview", image, "--out", tmp_path / "blur.png", "--kind", "blur").code == 0
    heights = [Image.open(tmp_path / name).height for name in ("sheet.png", "blur.png")]
    assert heights[1] > 1.9 * heights[0], "a group is all its kinds"
    assert rdbench("shifts", "preview", image, "--kind", "defocos", "--out", tmp_path / "s.png").code == 2
    assert rdbench("shifts", "preview", tmp_path / "none.png", "--out", tmp_path / "s.png").code == 2
    assert rdbench("shifts", "preview", image, "--out", tmp_path / "nowhere" / "s.png").code == 2


def check_submission(archive: Path, root: Path, objects: dict[str, dict[str, int]]) -> None:
    """The rules of the server as the design states them, written apart from the code that writes the archive.

    `objects`: object -> private split -> number of images.
    """
    with tarfile.open(archive, "r:gz") as tar:
        members = {member.name: member for member in tar.getmembers()}
        assert all(member.isfile() for member in members.values())
        wanted = set()
        for name, splits in objects.items():
            for split, count in splits.items():
                images = sorted((root / name / split).glob("*.png"))
                assert len(images) == count
                for image in images:
                    size = Image.open(image).size[::-1]
                    tiff = f"anomaly_images/{name}/{split}/{image.stem}.tiff"
                    png = f"anomaly_images_thresholded/{name}/{split}/{image.stem}.png"
                    wanted |= {tiff, png}
                    values = tifffile.imread(io.BytesIO(tar.extractfile(members[tiff]).read()))
                    assert (values.dtype, values.shape) == (np.float16, size)
                    assert np.isfinite(values).all()
                    assert len(np.unique(values)) > 1
                    mask = np.asarray(Image.open(io.BytesIO(tar.extractfile(members[png]).read())))
                    assert mask.shape == size
                    assert set(np.unique(mask)) <= {0, 255}
        assert set(members) == wanted


def test_the_submission_of_a_run_is_what_the_server_takes(rdbench: Command, tmp_path: Path) -> None:
    trees.mvtec_ad2(tmp_path / "data", "rig")
    runs, out = tmp_path / "runs", tmp_path / "submission.tar.gz"
    given = ("--root", tmp_path / "data")
    run = ("run", "--dataset", "mvtec_ad2", *given, "--out", runs, *QUICK)
    export = ("export", "mvtec_ad2", *given, "--run", runs, "--out", out)
    assert rdbench(*run, "-m", "deterministic").code == 0
    done = rdbench(*export)
    assert (done.code, out.exists()) == (2, False)
    assert "--keep-models" in done.error()
    assert rdbench(*run, "-m", "tta,mc_dropout", "-o", "samples=2", "--keep-models").code == 0
    done = rdbench(*export)
    assert (done.code, out.exists()) == (2, False)
    assert "choose with --method and --seed" in done.error()
    done = rdbench(*export, "--method", "tta")
    assert done.code == 0, done.err
    check_submission(out, tmp_path / "data", {"rig": {"test_private": 2, "test_private_mixed": 2}})


def test_the_submission_of_the_real_tiles(rdbench: Command, tmp_path: Path) -> None:
    root = trees.tiles("mvtec_ad2")
    weights = trees.SHARED / "weights" / "resnet18_imagenet_layers1-3.pth"
    if not weights.is_file():
        pytest.skip(f"the ImageNet weights are not at {weights}")
    given = ("--root", root, "--weights", weights)
    done = rdbench(
        "run", "-m", "deterministic", "--dataset", "mvtec_ad2", *given, "--backbone", "resnet18", "--image-size", "64",
        "--epochs", "1", "--out", tmp_path / "runs", "--keep-models",
    )  # fmt: skip
    assert done.code == 0, done.err
    out = tmp_path / "submission.tar.gz"
    done = rdbench("export", "mvtec_ad2", *given, "--run", tmp_path / "runs", "--out", out)
    assert done.code == 0, done.err
    assert "the server wants all eight objects" in done.out
    check_submission(out, root, {"magnetic_tile": {"test_private": 12, "test_private_mixed": 12}})

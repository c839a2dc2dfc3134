"""Unpacking: what is official arrives; what is hostile or damaged writes nothing and leaves nothing behind."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from rdbench.datasets import list_categories, load_category
from rdbench.datasets.archive import prepare
from rdbench.errors import InputError
from tests.datasets import trees


def tar(path: Path, folder: Path, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for item in sorted(folder.iterdir()):
            archive.add(item, item.name)
    return path


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(("suffix", "mode"), [("tar", "w"), ("tar.gz", "w:gz"), ("tar.xz", "w:xz")])
def test_an_official_tar(tmp_path: Path, suffix: str, mode: str) -> None:
    trees.mvtec_ad(tmp_path / "source")
    (tmp_path / "source/license.txt").write_text("CC BY-NC-SA 4.0")
    archive = tar(tmp_path / f"mvtec.{suffix}", tmp_path / "source", mode)
    done: list[int] = []
    assert prepare("mvtec_ad", [archive], tmp_path / "new/root", on_file=done.append) == ["bottle"]
    assert done == list(range(1, 31))  # 20 + 6 images, 3 masks, the licence
    assert listing(tmp_path / "new/root") == listing(tmp_path / "source")
    assert load_category("mvtec_ad", "bottle", tmp_path / "new/root", seed=0).test


def test_archives_of_single_categories_and_nested_folders(tmp_path: Path) -> None:
    trees.mvtec_ad2(tmp_path / "one/mvtec_ad_2", "can")
    trees.mvtec_ad2(tmp_path / "two", "vial")
    (tmp_path / "two/license.txt").write_text("")
    (tmp_path / "one/mvtec_ad_2/license.txt").write_text("")
    archives = [tar(tmp_path / f"{name}.tar.gz", tmp_path / name) for name in ("one", "two")]
    assert prepare("mvtec_ad2", archives, tmp_path / "root") == ["can", "vial"]
    assert list_categories("mvtec_ad2", tmp_path / "root") == ["can", "vial"]


def test_archives_of_another_dataset_are_named_and_not_unpacked(tmp_path: Path) -> None:
    trees.mvtec_ad2(tmp_path / "tree", "flange")
    with tarfile.open(tmp_path / "flange.tar", "w") as archive:
        archive.add(tmp_path / "tree" / "flange", "flange")
    with pytest.raises(
        InputError, match="hold flange in the layout of mvtec_ad2: use `rdbench datasets prepare mvtec_"
    ):
        prepare("mvtec_ad", [tmp_path / "flange.tar"], tmp_path / "root")
    assert not list((tmp_path / "root").glob("*"))


def test_a_zip_with_visas_table(tmp_path: Path) -> None:
    trees.visa(tmp_path / "source")
    with zipfile.ZipFile(tmp_path / "visa.zip", "w") as archive:
        for path in sorted((tmp_path / "source").rglob("*")):
            archive.write(path, path.relative_to(tmp_path / "source"))
    assert prepare("visa", [tmp_path / "visa.zip"], tmp_path / "root") == ["candle"]
    assert load_category("visa", "candle", tmp_path / "root", seed=0).test


def member(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"x", link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content) if kind == tarfile.REGTYPE else 0
    return info


HOSTILE = {
    "absolute": member("/tmp/rdbench_evil.png"),
    "parent": member("bottle/../../evil.png"),
    "backslash": member("bottle\\..\\..\\evil.png"),
    "drive": member("C:evil.png"),
    "symbolic link": member("bottle/link", tarfile.SYMTYPE, link="/etc"),
    "link inside": member("bottle/link", tarfile.SYMTYPE, link="train"),
    "hard link": member("bottle/hard", tarfile.LNKTYPE, link="/etc/passwd"),
    "device": member("bottle/null", tarfile.CHRTYPE),
    "pipe": member("bottle/pipe", tarfile.FIFOTYPE),
    "twice": member("bottle/train/good/000.png"),
    "file as folder": member("bottle/train/good/000.png/evil"),
    "newline": member("bottle/a\nb", tarfile.SYMTYPE, link="/etc"),
    "no name": member(""),
    "deep": member("bottle/" + "d/" * 30, tarfile.DIRTYPE),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_tar_leaves_nothing(tmp_path: Path, kind: str) -> None:
    trees.mvtec_ad(tmp_path / "source")
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(tmp_path / "source/bottle", "bottle")
        archive.addfile(HOSTILE[kind], io.BytesIO(b"x"))
    before = listing(tmp_path)
    with pytest.raises(InputError) as caught:
        prepare("mvtec_ad", [path], tmp_path / "new/root")
    assert "\n" not in str(caught.value)
    assert listing(tmp_path) == before
    assert not Path("/tmp/rdbench_evil.png").exists()


def evil_zip(path: Path, name: str, mode: int = 0) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, "x")
    return path


@pytest.mark.parametrize(
    ("name", "mode"),
    [("/abs.png", 0), ("../evil.png", 0), ("bottle/train/good/link", stat.S_IFLNK | 0o777), ("fifo", stat.S_IFIFO)],
)
def test_a_hostile_zip_leaves_nothing(tmp_path: Path, name: str, mode: int) -> None:
    path = evil_zip(tmp_path / "evil.zip", name, mode)
    with pytest.raises(InputError, match=r"evil\.zip holds"):
        prepare("mvtec_ad", [path], tmp_path / "root")
    assert listing(tmp_path) == ["evil.zip"]


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_a_bomb_is_stopped(tmp_path: Path, kind: str) -> None:
    zeros = b"\0" * (100 * 2**20)
    path = tmp_path / f"bomb.{kind}"
    name = "bottle/train/good/000.png"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, zeros)
    else:
        with tarfile.open(path, "w:gz", compresslevel=1) as tarball:
            tarball.addfile(member(name, content=zeros), io.BytesIO(zeros))
    assert path.stat().st_size < 2**20
    with pytest.raises(InputError, match="unpacks to more than 64 MiB"):
        prepare("mvtec_ad", [path], tmp_path / "root")
    assert listing(tmp_path) == [path.name]


def test_the_bound_holds_over_all_archives(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file.png").write_bytes(os.urandom(600))
    archives = [tar(tmp_path / f"{name}.tar", tmp_path / name, "w") for name in ("a", "b")]
    with pytest.raises(InputError, match=r"b\.tar unpacks to more"):
        prepare("mvtec_ad", archives, tmp_path / "root", max_bytes=1000)
    assert not (tmp_path / "root").exists()


def test_folders_that_nest_step_by_step_leave_nothing(tmp_path: Path) -> None:
    """Deeper than `shutil.rmtree` could go, if they were made."""
    path = tmp_path / "deep.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for depth in range(40, 2000, 40):
            archive.addfile(member("/".join("d" * depth), tarfile.DIRTYPE))
    with pytest.raises(InputError, match="nests more than"):
        prepare("mvtec_ad", [path], tmp_path / "root")
    assert listing(tmp_path) == ["deep.tar.gz"]


def test_folders_count_as_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rdbench.datasets.archive.MAX_FILES", 10)
    with tarfile.open(tmp_path / "many.tar", "w") as archive:
        for number in range(11):
            archive.addfile(member(f"bottle/{number}", tarfile.DIRTYPE))
    with pytest.raises(InputError, match="more than 10 files"):
        prepare("mvtec_ad", [tmp_path / "many.tar"], tmp_path / "root")
    assert listing(tmp_path) == ["many.tar"]


def test_a_header_that_says_it_is_huge_is_not_read(tmp_path: Path) -> None:
    """`tarfile` alone reads it into memory whole, before the member that it belongs to is seen."""
    trees.mvtec_ad(tmp_path / "source")
    path = tar(tmp_path / "mvtec.tar", tmp_path / "source", "w")
    header = member("././@PaxHeader", tarfile.XHDTYPE)
    header.size = 8 * 2**20
    bomb = header.tobuf(tarfile.USTAR_FORMAT) + bytes(header.size)
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    path.write_bytes(path.read_bytes()[:end] + bomb + bytes(1024))
    with pytest.raises(InputError, match=r"mvtec\.tar is damaged \(a header of 8388608 bytes\)"):
        prepare("mvtec_ad", [path], tmp_path / "root")
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("damage", ["cut between members", "a damaged header", "a second archive behind"])
def test_a_plain_tar_that_is_not_whole_is_refused(tmp_path: Path, damage: str) -> None:
    """It has no checksum of its contents, and `tarfile` takes all of these for the archive's end."""
    trees.mvtec_ad(tmp_path / "source")
    path = tar(tmp_path / "mvtec.tar", tmp_path / "source", "w")
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        near_the_end = archive.getmembers()[-3].offset
    if damage == "cut between members":
        del content[near_the_end:]
    elif damage == "a damaged header":
        content[near_the_end + 10] ^= 1
    else:
        content = content * 2
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"mvtec\.tar is damaged"):
        prepare("mvtec_ad", [path], tmp_path / "root")
    assert not (tmp_path / "root").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scramble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, scramble])
@pytest.mark.parametrize("mode", ["w:gz", "w:xz"])
def test_a_damaged_archive_is_named_and_leaves_nothing(
    tmp_path: Path, mode: str, damage: Callable[[Path], None]
) -> None:
    trees.mvtec_ad(tmp_path / "source")
    path = tar(tmp_path / "mvtec.tar", tmp_path / "source", mode)
    damage(path)
    with pytest.raises(InputError, match=r"mvtec\.tar is"):
        prepare("mvtec_ad", [path], tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_what_is_there_already_is_kept(tmp_path: Path) -> None:
    trees.mvtec_ad(tmp_path / "source")
    archive = tar(tmp_path / "mvtec.tar", tmp_path / "source", "w")
    prepare("mvtec_ad", [archive], tmp_path / "root")
    before = listing(tmp_path / "root")
    with pytest.raises(InputError, match="bottle exists already"):
        prepare("mvtec_ad", [archive], tmp_path / "root")
    with pytest.raises(InputError, match="in more than one archive"):
        prepare("mvtec_ad", [archive, archive], tmp_path / "other")
    assert listing(tmp_path / "root") == before
    assert not (tmp_path / "other").exists()


def test_what_is_no_archive_of_the_dataset(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("no archive")
    trees.draw(tmp_path / "pictures/holiday/001.png")
    archive = tar(tmp_path / "holiday.tar", tmp_path / "pictures", "w")
    for path, expected in (
        (tmp_path / "text.zip", "is no tar"),
        (tmp_path / "gone.zip", "does not exist"),
        (tmp_path / ("x" * 300), "does not exist"),
        (archive, "no category of mvtec_ad"),
    ):
        with pytest.raises(InputError, match=expected):
            prepare("mvtec_ad", [path], tmp_path / "root")
    assert not (tmp_path / "root").exists()
    with pytest.raises(InputError, match="cannot unpack into"):
        prepare("mvtec_ad", [archive], tmp_path / ("x" * 300))
    with pytest.raises(InputError, match="unknown dataset"):
        prepare("toy", [archive], tmp_path / "root")

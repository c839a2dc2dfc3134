"""Names of files are strangers: images, defects and categories of odd names are run and shown, or refused by name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rdbench.benchmark.store import Store, read_predictions
from rdbench.datasets.scan import UNSAYABLE
from tests.command import QUICK, Command
from tests.datasets import trees
from tests.fuzzing import make_up_work

pytestmark = pytest.mark.long

ODD = (
    "-rf", "--out", "x..", "a..b", "%2e%2e%2fx", "<img src=x onerror=alert(1)>", "'\"&amp;", "{{ 7 * 7 }}", "$(id)",
    "e\u0301", "\u202etxt", "日本語 😀", " a ", "x" * 240, "*?[x]", "a\\b", "=1+1", "\ufeff", "[red]", "good",
)  # fmt: skip
NAMES = (
    st.sampled_from((*ODD, "a\nb", "\x1b[31m", "a\u2028b", "\udcff", "\x7f", "\t", ".x", ".", "..", "_mask"))
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=60)
)  # fmt: skip


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, beside which nothing is to be written."""
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    monkeypatch.setenv("COLUMNS", "5000")
    return tmp_path / "inside"


def test_images_of_odd_names_are_run_and_shown(rdbench: Command, inside: Path) -> None:
    """All of them in one category of such a name, through every command that reads or shows names."""
    folder = trees.mvtec_ad(inside / "data", "<b>'..&", train=12)
    for number, name in enumerate(ODD):
        (folder / f"train/good/{number:03d}.png").rename(folder / f"train/good/{name}.png") if number < 12 else None
        trees.draw(folder / f"test/{name}/{name}.png")
        if name != "good":
            trees.draw_mask(folder / f"ground_truth/{name}/{name}.png")
    run = ("run", "-m", "deterministic", "--dataset", "folder", "--root", "data", "--keep-models", *QUICK)
    done = rdbench(*run)
    assert done.code == 0, done.err
    ((cell, result),) = Store(inside / "runs").results()
    assert result.spec.category == folder.name
    assert {f"test/{name}/{name}" for name in ODD} <= set(read_predictions(cell, result).images)
    for command in (
        ("report", "runs", "--out", "site"), ("results", "runs", "-f", "markdown"), ("status", "runs"),
        ("submit", "runs", "--out", "entries"), ("validate", "entries"), ("verify", "runs", "--cells", "0"),
        ("datasets", "verify", "folder", "--root", "data"), ("predict", "--out", "figures", cell, "--", "-rf.png"),
        ("predict", "--out", "figures", cell, *(folder / f"test/{name}/{name}.png" for name in ODD[1::3])),
    ):  # fmt: skip
        shutil.copy(folder / "test/-rf/-rf.png", "-rf.png")
        done = rdbench(*command)
        assert done.code == 0, (command, done.err)
    assert sorted(os.listdir(inside)) == ["-rf.png", "data", "entries", "figures", "runs", "site"]
    assert sorted(os.listdir(inside.parent)) == ["cache", "inside"]
    assert len(os.listdir("figures")) == 1 + len(ODD[1::3])
    pages = "".join(path.read_text() for path in Path("site").rglob("*.html"))
    assert "&lt;b&gt;" in pages
    assert "<img src=x" not in pages
    assert "<b>'" not in pages


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A category without anything odd."""
    return trees.mvtec_ad(tmp_path_factory.mktemp("sound"), train=12)


@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(names=st.lists(NAMES, min_size=5, max_size=5))
@example(names=["-rf", ".x", "-rf", "-rf", "a\nb"])
def test_names_are_used_or_refused(
    rdbench: Command, inside: Path, sound: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    """Whatever a category, a defect and three images are called, in planning, storing and every page."""
    make_up_work(monkeypatch)
    for made in os.listdir(inside):
        shutil.rmtree(made)
    folder = inside / "data/bottle"
    shutil.copytree(sound, folder)
    try:
        category, defect, train, good, bad = names
        (folder / "train/good/000.png").rename(folder / f"train/good/{train}.png")
        (folder / "test/good/000.png").rename(folder / f"test/good/{good}.png")
        (folder / "test/crack/000.png").rename(folder / f"test/crack/{bad}.png")
        (folder / "ground_truth/crack/000_mask.png").rename(folder / f"ground_truth/crack/{bad}.png")
        for part in ("test", "ground_truth"):
            (folder / part / "crack").rename(folder / part / defect)
        folder.rename(folder.with_name(category))
    except (OSError, ValueError):
        return  # no file can be called so here
    hidden = any(name.startswith(".") for name in names)  # left aside by a run with all that is in it, said by verify
    used = [category, train, good, *([] if defect.startswith(".") else [defect, bad])]
    checked = rdbench("datasets", "verify", "folder", "--root", "data")
    done = rdbench("run", "-m", "deterministic", "--dataset", "folder", "--root", "data", *QUICK)
    if done.code == 0:
        assert checked.code == 0 or (hidden and "belongs to no split" in checked.out), checked.out
        assert not any(UNSAYABLE.search(name) for name in used if not name.startswith("."))
        assert rdbench("report", "runs", "--out", "site").code == 0
        assert rdbench("verify", "runs", "--cells", "0").code == 0
    else:
        assert (done.code, checked.code) in ((2, 1), (2, 2)), done.err
        named = any(name in done.err or repr(name)[1:-1] in done.err for name in names)
        assert named or (hidden and "root data holds no category" in done.err), done.err
    assert set(os.listdir(inside)) <= {"data", "runs", "site"}
    assert sorted(set(os.listdir(inside.parent)) - {"cache"}) == ["inside"]

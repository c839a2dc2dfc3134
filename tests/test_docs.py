"""What the README and the docs tell people to type works."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest
from PIL import Image

from tests.command import QUICK, Command
from tests.datasets import trees

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()


def console_commands(text: str) -> list[list[str]]:
    """The commands of a page's console blocks, comments left out."""
    blocks = "".join(re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL)).replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in blocks.splitlines() if line.strip()]


def test_the_readme_opens_with_two_commands_and_the_real_use() -> None:
    commands = console_commands(README)
    assert commands[:2] == [["make", "demo"], ["make", "test"]]
    real = "rdbench run --method tta --dataset mvtec_ad2 --root /data/mvtec_ad2"
    assert commands[2] == real.split()


def test_every_rdbench_command_of_the_readme_works(
    rdbench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees.mvtec_ad2(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    commands = [command for command in console_commands(README) if command[0] == "rdbench"]
    assert len(commands) > 5
    for _, *arguments in commands:
        if arguments[0] == "run":
            arguments = [argument.replace("/data/mvtec_ad2", str(tmp_path / "data")) for argument in arguments]
            arguments = [argument if argument != "2" else "1" for argument in arguments]
            arguments += [*QUICK, "-o", "deep_ensemble.members=2"] if "deep_ensemble" in str(arguments) else QUICK
        if arguments[0] == "verify":
            arguments = ["verify", "runs", "--root", tmp_path / "data", "--cells", "1"]
        if arguments[0] == "bench":
            arguments += ["--image-size", "64", "--batch-size", "2", "--rounds", "1"]
        done = rdbench(*arguments)
        assert done.code == 0, (arguments, done.err)
    assert (tmp_path / "site" / "index.html").is_file()


def test_what_make_demo_runs_works(rdbench: Command, tmp_path: Path) -> None:
    make = shutil.which("make")
    assert make, "make is not installed"
    planned = subprocess.run([make, "-n", "demo"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    lines = planned.replace("\\\n", " ").splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith(".venv/bin/rdbench ")]
    assert [command[0] for command in commands] == ["run", "leaderboard"]
    for command in commands:
        command = [argument.replace("demo/", f"{tmp_path}/") for argument in command]
        if command[0] == "run":
            command += [*QUICK, "--category", "twill", "-o", "deep_ensemble.members=2", "-o", "mc_dropout.samples=2"]
        done = rdbench(*command)
        assert done.code == 0, done.err
    assert (tmp_path / "site" / "index.html").is_file()


def test_the_example_of_a_method_is_what_new_writes_and_runs(rdbench: Command, tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "adding_a_method.md").read_text()
    (source,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    methods = tmp_path / "methods"
    assert rdbench("methods", "new", "my_method", "--dir", methods).code == 0
    assert (methods / "my_method.py").read_text() == source
    shown = rdbench("methods", "show", "my_method", "--methods-dir", methods)
    assert "how many times the noise is drawn" in " ".join(shown.out.split())
    trees.mvtec_ad2(tmp_path / "data")
    done = rdbench(
        "run", "-m", "my_method,deterministic", "-o", "my_method.samples=2", "--methods-dir", methods,
        "--dataset", "mvtec_ad2", "--root", tmp_path / "data", "--out", tmp_path / "runs", *QUICK,
    )  # fmt: skip
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    "page", [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))], ids=lambda p: p.name
)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not link.startswith(("http://", "https://")):
            assert (page.parent / link).exists(), link


def test_the_example_of_a_mask_draws_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (REPOSITORY / "docs" / "datasets.md").read_text()
    (source,) = re.findall(r"```python\n(.*?)\n *```\n", page, flags=re.DOTALL)
    trees.draw(tmp_path / "test" / "scratch" / "007.jpg", (160, 120))
    (tmp_path / "ground_truth" / "scratch").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    exec(textwrap.dedent(source), {})
    with Image.open("ground_truth/scratch/007_mask.png") as mask:
        assert (mask.size, mask.getbbox()) == ((160, 120), (40, 60, 120, 90))

"""The wheel works in an environment and a folder that hold nothing of the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.command import QUICK

pytestmark = pytest.mark.long

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(REPOSITORY)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `rdbench` command of an environment that has the wheel, and its dependencies by reference."""
    environment = tmp_path_factory.mktemp("environment")
    venv.EnvBuilder(with_pip=False, symlinks=True).create(environment)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment), "platbase": str(environment)}))
    # A path file's lines are not searched for path files in turn, so the checkout stays out of sight.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    command = environment / "bin" / "rdbench"
    command.write_text(f"#!{environment}/bin/python\nfrom rdbench.cli import main\nmain()\n")
    command.chmod(0o755)
    return command


def call(command: Path, folder: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([command, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_but_the_package_is_installed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"rdbench"}
    assert "rdbench/methods/mc_dropout.py" in names
    assert any(name.startswith("rdbench/leaderboard/templates/") for name in names)
    assert not [name for name in names if "test" in name]


def test_methods_are_found_and_run_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    listed = call(installed, tmp_path, "methods")
    for name in ("deterministic", "deep_ensemble", "mc_dropout", "tta"):
        assert name in listed
    printed = call(installed, tmp_path, "run", "--method", "deterministic", "--category", "twill", *QUICK)
    assert "1 cell run" in printed
    call(installed, tmp_path, "leaderboard")
    assert (tmp_path / "site" / "index.html").is_file()


def test_help_and_the_list_of_methods_start_no_torch(installed: Path, tmp_path: Path) -> None:
    python = installed.with_name("python")
    for arguments in (["--help"], ["methods"], ["methods", "show", "tta"], ["datasets"], ["run", "--help"]):
        code = (
            "import sys; from rdbench.cli import app\n"
            f"app({arguments!r}, standalone_mode=False)\n"
            "heavy = {'torch', 'torchvision', 'pandas', 'sklearn', 'scipy', 'torch_uncertainty'} & set(sys.modules)\n"
            "assert not heavy, heavy"
        )
        subprocess.run([python, "-c", code], cwd=tmp_path, check=True, capture_output=True)

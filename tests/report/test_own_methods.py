"""Results of a method that lies in a folder of one's own: every command that reads them may be told where."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from rdbench.check.new import method_source
from rdbench.report.leaderboard import write_site
from tests.command import QUICK, Command
from tests.made_up import MakeCell

pytestmark = pytest.mark.long


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where `own_net` lies, which has the options `samples` (10) and `scale` (0.1)."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "own_net.py").write_text(method_source("own_net"))
    return folder


def commands_on(page: str) -> list[str]:
    return [html.unescape(command) for command in re.findall(r"<pre><code>(.*?)</code></pre>", page)]


def test_every_command_knows_the_options_of_a_method_in_a_named_folder(
    rdbench: Command, folder: Path, tmp_path: Path
) -> None:
    runs, name, known = tmp_path / "runs", "own_net[samples=2]", ("--methods-dir", folder)
    toy = ("--dataset", "toy", "--category", "twill", *QUICK)
    done = rdbench("run", "-m", "own_net,deterministic", "-o", "samples=2", *known, *toy, "--out", runs)
    assert done.code == 0, done.err
    assert name in done.out
    for format in ("table", "csv", "markdown"):
        assert name in rdbench("results", runs, "--format", format, *known).out
        assert name not in rdbench("results", runs, "--format", format).out
    assert name in rdbench("compare", name, "deterministic", "--runs", runs, *known).out
    assert name in rdbench("readouts", "--runs", runs, "-m", name, "--format", "csv", *known).out
    assert name in rdbench("curve", "--runs", runs, "-m", name, *known).out
    assert rdbench("report", runs, "--out", tmp_path / "site", *known).code == 0
    [page] = [path.read_text() for path in (tmp_path / "site" / "methods").glob("*own_net-samples*.html")]
    assert "The deterministic student on features with added noise" in page
    assert "<dd>how many times the noise is drawn</dd>" in page
    assert "METHODS stands for the folder that holds own_net.py" in page

    [command] = commands_on(page)
    words = command.replace("METHODS", str(folder)).split()[1:]
    again = rdbench(*words, "--out", runs)
    assert (again.code, "0 cells run, 1 there already" in again.out) == (0, True), again.err
    entries = tmp_path / "none"
    entries.mkdir()
    done = rdbench("leaderboard", "--runs", runs, "--results", entries, "--out", tmp_path / "board", *known)
    assert done.code == 0, done.err
    assert name in (tmp_path / "board" / "index.html").read_text()


def test_a_folder_that_is_not_there_is_named(rdbench: Command, folder: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert rdbench("run", "-m", "deterministic", "--category", "twill", *QUICK, "--out", runs).code == 0
    for command in (("report", runs), ("results", runs), ("readouts", "--runs", runs)):
        done = rdbench(*command, "--methods-dir", "nowhere")
        assert (done.code, done.error()) == (2, "Error: --methods-dir nowhere: no such directory")


def test_the_command_of_a_method_that_is_not_built_in_names_its_folder(make_cell: MakeCell, tmp_path: Path) -> None:
    write_site([make_cell("unheard_of"), make_cell("tta")], tmp_path / "site")
    needs = {}
    for path in (tmp_path / "site" / "methods").iterdir():
        page = path.read_text()
        [command] = commands_on(page)
        assert ("--methods-dir METHODS" in command) == ("METHODS stands for" in page)
        needs[command.split()[3]] = "METHODS" in command
    assert needs == {"unheard_of": True, "tta": False}

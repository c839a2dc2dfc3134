"""Sweep files: what they mean, what is said of a wrong one, and shards of them."""

from __future__ import annotations

import ast
import hashlib
import io
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console

from rdbench import cli
from rdbench.benchmark.engines.local import InProcess
from rdbench.benchmark.plan import Share
from rdbench.benchmark.planning import Plan, Shard, make_plan
from rdbench.benchmark.progress import Reporter
from rdbench.benchmark.results import CellSpec
from rdbench.benchmark.store import Store, open_store, sha256
from rdbench.benchmark.sweep import read_sweep
from rdbench.errors import InputError
from tests.command import Command
from tests.datasets import trees
from tests.made_up import make_cell, make_predictions
from tests.same import predictions_of

SMALL = """\
defaults:
  categories: [twill, flange]
  image_size: 64
  epochs: 1
  precision: fp32
  gallery: false
runs:
  - methods: [deterministic]
    seeds: [0, 1]
  - methods: [mc_dropout, deterministic]
    options: {mc_dropout.samples: [2, 3]}
    seeds: [1]
"""


def planned(tmp_path: Path, text: str, shard: Shard | None = None) -> Plan:
    (tmp_path / "sweep.yaml").write_text(text)
    lines = read_sweep(tmp_path / "sweep.yaml", out=tmp_path / "runs", device="cpu")
    reporter = Reporter(Console(file=io.StringIO()))
    return make_plan(lines, reporter, InProcess(), shard, create=False)


def cells(plan: Plan) -> list[CellSpec]:
    return [spec for task in plan.tasks for spec in task.specs]


def test_a_sweep_is_every_combination_once(tmp_path: Path) -> None:
    plan = planned(tmp_path, SMALL)
    found = {(s.method, s.options.get("samples"), s.category, s.seed) for s in cells(plan)}
    assert len(cells(plan)) == len(found) == 2 * (2 + 2)
    assert ("mc_dropout", 3, "flange", 1) in found
    assert len({task.group_id for task in plan.tasks}) == len(plan.tasks) == 4
    assert not (tmp_path / "runs").exists(), "a plan writes nothing"


def test_names_and_options_stay_as_they_are_written(tmp_path: Path) -> None:
    """YAML would read 007 as 7, on as true and 12:30 as 750."""
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "odd.py").write_text(ODD)
    for category in ("007", "on", "12:30"):
        trees.mvtec_ad2(tmp_path / "data", category)
    text = f"""\
runs:
  - methods: odd
    methods_dir: {tmp_path}/methods
    datasets: folder
    root: {tmp_path}/data
    categories: [007, on, 12:30]
    options: {{mode: [off, on], rate: 1e-3, exact: true}}
"""
    (tmp_path / "sweep.yaml").write_text(text)
    (line,) = read_sweep(tmp_path / "sweep.yaml", out=tmp_path / "runs", device="cpu")
    assert line.categories == ("007", "on", "12:30")
    assert line.options["odd"] == [{"mode": mode, "rate": 0.001, "exact": True} for mode in ("off", "on")]


ODD = '''"""Options that YAML would read otherwise."""
from dataclasses import dataclass
from typing import Literal

@dataclass
class Odd:
    mode: Literal["on", "off"] = "on"
    rate: float = 0.1
    exact: bool = False
    def fit(self, train, context): ...
    def predict(self, batch): ...
    def save(self, directory): ...
    def load(self, directory, context): ...
'''


def test_one_group_with_other_shifts_is_one_task(tmp_path: Path) -> None:
    text = SMALL + "  - methods: [deterministic]\n    seeds: [1]\n    shifts: [lighting:3]\n"
    plan = planned(tmp_path, text)
    assert len(plan.tasks) == 4
    assert sorted(len(task.parts) for task in plan.tasks) == [1, 1, 2, 2]


def test_a_cell_asked_for_twice_keeps_its_model_if_either_asks_for_that(tmp_path: Path) -> None:
    text = SMALL + "  - methods: [deterministic]\n    seeds: [1]\n    keep_models: true\n"
    plan = planned(tmp_path, text)
    assert len(cells(plan)) == 2 * (2 + 2)
    keeping = [part for task in plan.tasks for part in task.parts if part.settings.keep_models]
    assert {(spec.method, spec.seed) for part in keeping for spec in part.specs} == {("deterministic", 1)}


def test_one_cell_has_one_threshold(tmp_path: Path) -> None:
    text = SMALL + "  - methods: [deterministic]\n    seeds: [1]\n    alpha: 0.2\n"
    words = r"sweep\.yaml, line 15: --alpha 0\.2: deterministic on toy/twill, seed 1 is asked for at alpha 0\.1 too;"
    with pytest.raises(InputError, match=words):
        planned(tmp_path, text)


def test_runs_ask_for_their_shares_of_a_node_and_one_group_for_one(tmp_path: Path) -> None:
    text = SMALL + "  - methods: [tta]\n    image_size: 96\n    seeds: [1]\n    cpus: 4\n    gpus: 0.5\n"
    shares = {task.specs[0].image_size: task.parts[0].settings.share for task in planned(tmp_path, text).tasks}
    assert shares == {(64, 64): Share(), (96, 96): Share(cpus=4, gpus=0.5)}
    words = r"line 15: --cpus 4 --gpus 0\.5: toy/twill, seed 1 is asked for with no --cpus or --gpus of its own too;"
    with pytest.raises(InputError, match=words):
        planned(tmp_path, text.replace("    image_size: 96\n", ""))


def test_a_value_that_a_method_refuses_is_named_with_its_line(tmp_path: Path) -> None:
    """The method is asked when the file has long been read."""
    text = "runs:\n  - methods: tta\n  - methods: mc_dropout\n    options:\n      p:\n        - 0.1\n        - 2.0\n"
    with pytest.raises(InputError, match=r"sweep\.yaml, line 7: method mc_dropout: p must be in \[0, 1\), got 2"):
        planned(tmp_path, text)


def test_a_wrong_device_is_not_the_files_fault(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(SMALL)
    with pytest.raises(InputError, match=r"^--device gpu: auto, cpu, cuda or cuda:N is wanted"):
        read_sweep(tmp_path / "sweep.yaml", out=tmp_path, device="gpu")


def test_an_empty_list_of_shifts_or_categories_replaces_that_of_the_defaults(tmp_path: Path) -> None:
    text = SMALL.replace("defaults:", "defaults:\n  shifts: [lighting:3]").replace(
        "seeds: [1]", "shifts: []\n    categories: []"
    )
    (tmp_path / "sweep.yaml").write_text(text)
    first, second = read_sweep(tmp_path / "sweep.yaml", out=tmp_path, device="cpu")
    assert (list(map(str, first.shifts)), second.shifts) == (["lighting:3"], ())
    assert second.categories == ("flange", "tablets", "twill")


def test_finished_cells_at_another_alpha_are_planned_for_and_said(rdbench: Command, tmp_path: Path) -> None:
    """Their figures in the store change, which nobody is to find out later."""
    sweep, out = tmp_path / "sweep.yaml", tmp_path / "runs"
    plan = planned(tmp_path, SMALL)
    made = [spec for spec in cells(plan) if spec.method == "deterministic"]
    for spec in made:
        make_predictions().save(tmp_path / "made_up.npz")
        result = make_cell(predictions_sha256=sha256(tmp_path / "made_up.npz"))
        open_store(out, create=True).write(result.model_copy(update={"spec": spec}), tmp_path / "made_up.npz")
    text = SMALL.partition("  - methods: [mc_dropout")[0]
    (tmp_path / "sweep.yaml").write_text(text)
    assert "alpha" not in rdbench("sweep", sweep, "--out", out, "--dry-run").out
    sweep.write_text(text.replace("defaults:", "defaults:\n  alpha: 0.2"))
    dry = rdbench("sweep", sweep, "--out", out, "--dry-run")
    assert "  4 finished cells from alpha 0.1 to 0.2: the threshold is set and the figures computed again" in dry.out
    assert {result.threshold.alpha for _, result in Store(out).results()} == {0.1}
    done = rdbench("sweep", sweep, "--out", out)
    assert done.code == 0, done.err
    assert "setting the threshold of 4 finished cells from alpha 0.1 to 0.2" in done.error()
    assert {result.threshold.alpha for _, result in Store(out).results()} == {0.2}
    assert "alpha" not in rdbench("sweep", sweep, "--out", out).error()


def test_a_method_file_is_read_once_for_all_runs_and_anew_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "methods").mkdir()
    file, sweep = tmp_path / "methods" / "odd.py", tmp_path / "sweep.yaml"
    sweep.write_text(
        f"defaults: {{methods: odd, methods_dir: {tmp_path}/methods}}\n"
        "runs:\n  - seeds: [0]\n  - seeds: [1]\n  - seeds: [2]\n"
    )
    parsed: list[object] = []
    parse = ast.parse

    def watched(source: object, *more: object, **named: object) -> object:
        parsed.append(source)
        return parse(source, *more, **named)  # type: ignore[call-overload]

    monkeypatch.setattr("ast.parse", watched)
    for source in (ODD, ODD.replace("0.1", "0.3"), ODD):
        file.write_text(source)
        lines = read_sweep(sweep, out=tmp_path, device="cpu")
        assert {line.options["odd"][0]["rate"] for line in lines} == {0.3 if "0.3" in source else 0.1}
        assert {line.methods["odd"].sha256 for line in lines} == {hashlib.sha256(source.encode()).hexdigest()}
    assert parsed.count(ODD.encode()) == 1


def test_what_a_method_file_does_to_the_process_when_imported_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Planning imports it in the process of the run."""
    (tmp_path / "methods").mkdir()
    harm = 'import os, torch\nos.chdir("/")\ntorch.set_default_dtype(torch.float64)\nprint("hello")\n'
    (tmp_path / "methods" / "odd.py").write_text(ODD.replace("from dataclasses", harm + "from dataclasses", 1))
    monkeypatch.chdir(tmp_path)
    planned(tmp_path, f"runs:\n  - methods: odd\n    methods_dir: {tmp_path}/methods\n    image_size: 64\n")
    assert Path.cwd() == tmp_path
    assert torch.get_default_dtype() == torch.float32
    assert "hello" not in capsys.readouterr().out, "a plan's output is the plan"


def test_a_task_says_where_the_data_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a node may be another."""
    trees.mvtec_ad2(tmp_path / "data")
    monkeypatch.setenv("RDBENCH_DATA", str(tmp_path / "data"))
    text = SMALL.replace("[twill, flange]", "[vial]").replace("defaults:", "defaults:\n  datasets: mvtec_ad2")
    plan = planned(tmp_path, text.replace("defaults:", "defaults:\n  backbones: embedded"))
    assert {part.settings.root for task in plan.tasks for part in task.parts} == {tmp_path / "data"}


def test_paths_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell makes `~` the home folder in a file."""
    trees.mvtec_ad2(tmp_path / "data")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "sweep.yaml").write_text("runs:\n  - methods: tta\n    datasets: folder\n    root: ~/data\n")
    (line,) = read_sweep(tmp_path / "sweep.yaml", out=tmp_path / "runs", device="cpu")
    assert line.root == tmp_path / "data"


@pytest.mark.parametrize("count", [3, 16])
def test_shards_are_disjoint_together_all_and_even(tmp_path: Path, count: int) -> None:
    text = SMALL.replace("seeds: [0, 1]", f"seeds: {list(range(20))}")
    whole = planned(tmp_path, text)
    shards = [planned(tmp_path, text, Shard(index, count)) for index in range(1, count + 1)]
    parts = [{spec.path for spec in cells(shard)} for shard in shards]
    assert sum(map(len, parts)) == len(cells(whole))
    assert set.union(*parts) == {spec.path for spec in cells(whole)}
    groups = [len(shard.tasks) for shard in shards]
    assert sum(groups) == len(whole.tasks) == 40
    assert max(groups) - min(groups) <= 1


def test_each_shard_has_its_share_of_the_groups_that_take_long(tmp_path: Path) -> None:
    text = "runs:\n  - methods: deterministic\n    categories: [twill]\n    image_size: 64\n    seeds: [0, 1, 2, 3]\n"
    text += text.partition("\n")[2] + "    epochs: 200\n"
    for index in (1, 2):
        found = cells(planned(tmp_path, text, Shard(index, 2)))
        assert sorted(spec.epochs for spec in found) == [20, 20, 200, 200]


def test_what_shards_plan_does_not_depend_on_what_a_machine_has(tmp_path: Path) -> None:
    """Else a category that one machine lacks is in no shard, and nobody says so."""
    for category in ("rice", "vial", "mine"):
        trees.mvtec_ad2(tmp_path / "data", category)

    def categories(dataset: str, named: str = "", sharded: bool = True) -> list[str]:
        text = f"runs:\n  - methods: tta\n    root: {tmp_path}/data\n    datasets: {dataset}\n{named}"
        (tmp_path / "sweep.yaml").write_text(text)
        (line,) = read_sweep(tmp_path / "sweep.yaml", out=tmp_path / "runs", device="cpu", sharded=sharded)
        return list(line.categories)

    assert categories("mvtec_ad2", sharded=False) == ["mine", "rice", "vial"]
    with pytest.raises(InputError, match="not on this machine: can, fabric, fruit_jelly, sheet_metal, wallplugs, waln"):
        categories("mvtec_ad2")
    assert categories("mvtec_ad2", "    categories: [vial, mine]\n") == ["vial", "mine"]
    with pytest.raises(
        InputError, match=r"line 5: categories of mvtec_ad2 that are not on this machine: can;.*here: m"
    ):
        categories("mvtec_ad2", "    categories: [vial, can]\n")
    with pytest.raises(InputError, match="categories of folder are to be named for --shard"):
        categories("folder")
    assert categories("folder", "    categories: [mine]\n") == ["mine"]
    assert categories("toy") == ["flange", "tablets", "twill"]


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/", "a/b", "-1/3", "1/0"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="I/N is wanted"):
        Shard.parse(text)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("runs:\n  - methods: [dtta]\n", 2, "unknown method 'dtta'; did you mean tta"),
        ("runs:\n  - methods: tta\n    sedes: [1]\n", 3, "unknown key 'sedes'; did you mean seeds"),
        ("runs:\n  - methods: tta\n    seeds: [0, x]\n", 3, "seeds wants a whole number"),
        ("runs:\n  - methods: tta\n    seeds: [true]\n", 3, "seeds wants a whole number"),
        ("runs:\n  - methods: tta\n\n    shifts: [lightning:3]\n", 4, "unknown shift 'lightning'"),
        ("runs:\n  - methods: tta\n    epochs: 0\n", 3, "--epochs 0"),
        ("runs:\n  - methods: tta\n    epochs: [1, 2]\n", 3, "epochs takes one value"),
        ("defaults:\n  image_size: 250\nruns:\n  - methods: tta\n", 2, "--image-size 250"),
        ("runs:\n  - methods: mc_dropout\n    options:\n      sample: 3\n", 4, "unknown option of mc_dropout 'sample'"),
        ("runs:\n  - methods: mc_dropout\n    options: {samples: x}\n", 3, "'x' is no int"),
        ("runs:\n  - methods: tta\n    methods: tta\n", 3, "methods is there twice"),
        ("runs:\n  - seeds: [1]\n", 2, "this run has no `methods:`"),
        ("runs:\n  - tta\n", 2, "keys with values"),
        ("runs: tta\n", 1, "a list `runs:` is wanted"),
        ("runs:\n  - methods: [tta\n", 3, "expected ',' or ']'"),
        ("runs:\n  - methods: {a: 1}\n", 2, "methods wants a plain value"),
        ("runs:\n  - methods: tta\n    datasets: [toy, toi]\n", 3, "unknown dataset 'toi'"),
        ("runs:\n  - methods:\n      - tta\n      - dtta\n", 4, "unknown method 'dtta'"),
        ("runs:\n  - methods: tta\n    shifts:\n      - blur:3\n      - blurr:3\n", 5, "unknown shift 'blurr'"),
        ("runs:\n  - methods: tta\n    seeds:\n      - 0\n      - -1\n", 5, "--seed -1: not negative"),
        ("runs:\n  - methods: mc_dropout\n    options:\n      p:\n        - 0.1\n        - x\n", 6, "'x' is no float"),
        ("runs:\n  - methods: mc_dropout\n    options: {p: []}\n", 3, "p has no value"),
        ("runs:\n  - methods: tta\n    gpus: 1.5\n", 3, "--gpus 1.5: a fraction or a whole number is wanted"),
        ("runs:\n  - methods: tta\n    cpus: 0\n", 3, "--cpus 0: at least 1 is wanted"),
        ("runs:\n  - methods: tta\n    seeds: []\n", 3, "seeds has no value"),
        ("runs:\n  - methods: tta\n    datasets: []\n", 3, "datasets has no value"),
        ("runs:\n  - methods: tta\n    seeds: !each [1]\n", 3, "tags (!each) are not read"),
        ("runs:\n  - methods: tta\n    epochs: !half 2\n", 3, "tags (!half) are not read"),
    ],
)
def test_a_wrong_sweep_names_file_and_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_sweep(path, out=tmp_path, device="cpu")
    assert f"{path}, line {line}: " in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a list `runs:` is wanted"),
        ("a: &x [1]\nruns: *x\n", "aliases"),
        ("[" * 500_000, "nested too deeply"),
        ("# " + "x" * 1_000_001, "larger than"),
        ("!!python/object/apply:os.system ['true']", "tags .* are not read"),
        ("\x00", "special characters are not allowed"),
    ],
)
def test_what_is_no_sweep_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_sweep(tmp_path / "sweep.yaml", out=tmp_path, device="cpu")
    assert "sweep.yaml" in str(error.value)


def test_shards_run_apart_and_merged_equal_one_run(rdbench: Command, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(SMALL.replace("[twill, flange]", "[twill]"))
    dry = rdbench("sweep", sweep, "--out", tmp_path / "one", "--dry-run")
    assert "4 cells: 0 there already, 4 to run in 2 groups" in dry.out
    assert "3 fits; 1 of the cells differ from another in predicting alone" in dry.out
    assert "not known yet" in dry.out
    assert not (tmp_path / "one").exists()
    assert rdbench("sweep", sweep, "--out", tmp_path / "one").code == 0
    parts = [tmp_path / f"part{index}" for index in (1, 2)]
    for index, part in enumerate(parts, start=1):
        done = rdbench("sweep", sweep, "--out", part, "--shard", f"{index}/2")
        assert done.code == 0, done.err
    assert all(len(predictions_of(part)) < 4 for part in parts)
    assert rdbench("merge", *parts, "--out", tmp_path / "merged").code == 0
    assert predictions_of(tmp_path / "merged") == predictions_of(tmp_path / "one")
    given = ("-c", "twill", "--image-size", "64", "--epochs", "1", "--precision", "fp32", "--no-gallery")
    done = rdbench("run", "-m", "deterministic", "--seed", "0", "--seed", "1", *given, "--out", tmp_path / "merged")
    assert "0 cells run, 2 there already" in done.out, "a run is a sweep of one line"
    again = rdbench("sweep", sweep, "--out", tmp_path / "merged", "--dry-run")
    assert "4 cells: 4 there already, 0 to run in 0 groups" in again.out
    more = sweep.with_name("more.yaml")
    more.write_text(sweep.read_text().replace("[0, 1]", "[0, 1, 2]"))
    dry = rdbench("sweep", more, "--out", tmp_path / "merged", "--dry-run", "--workers", 9)
    assert re.search(r"time: fitting and predicting alone take about [\d.]+ s, from measured costs", dry.out)
    assert "decoding, shifts and evaluation come on top" in dry.out
    assert "workers" not in dry.out, "one group has nothing for a second worker"
    more.write_text(sweep.read_text().replace("[0, 1]", "[0, 1, 2, 3]"))
    dry = rdbench("sweep", more, "--out", tmp_path / "merged", "--dry-run", "--workers", 9)
    assert re.search(r"take about [\d.]+ s \([\d.]+ s with 2 workers\)", dry.out)


def test_what_a_sweep_leaves_out_is_what_a_run_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(cli.sweeps, "run_lines", lambda settings, **_: asked.extend(settings))
    cli.run(method=["deterministic", "mc_dropout"], dataset="toy")
    file = tmp_path / "sweep.yaml"
    file.write_text("runs:\n  - methods: [deterministic, mc_dropout]\n")
    [settings] = read_sweep(file, out=Path("runs"), device="auto")
    assert asked == [settings]
    assert settings.precision == "fp32"  # bf16 only where it was asked for, whatever the machine has

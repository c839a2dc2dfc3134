"""What a plan is said to take, from what finished cells have cost; results are read without their figures for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rdbench.benchmark.forecast import describe_plan
from rdbench.benchmark.head import read_head
from rdbench.benchmark.results import CellResult, Figure
from rdbench.benchmark.store import RESULT, open_store, sha256
from rdbench.errors import InputError
from tests.benchmark.test_sweep import cells, planned
from tests.made_up import make_cell, make_predictions

SWEEP = """\
defaults: {{categories: [twill], image_size: 64, epochs: 1, precision: fp32, seeds: {seeds}}}
runs:
  - methods: [mc_dropout]
    options: {{samples: {samples}}}
"""


def finish(tmp_path: Path, samples: list[int], train_seconds: float, inference_ms: float) -> None:
    """Cells of seed 0 that have cost so much; they have 12 images to calibrate on and 60 to test."""
    make_predictions().save(tmp_path / "made_up.npz")
    made = make_cell(predictions_sha256=sha256(tmp_path / "made_up.npz"))
    cost = {"train_seconds": Figure(value=train_seconds), "inference_ms": Figure(value=inference_ms)}
    for spec in cells(planned(tmp_path, SWEEP.format(seeds=[0], samples=samples))):
        result = made.model_copy(update={"spec": spec, "cost": cost})
        open_store(tmp_path / "runs", create=True).write(result, tmp_path / "made_up.npz")


def said(tmp_path: Path, samples: list[int]) -> str:
    return "\n".join(describe_plan(planned(tmp_path, SWEEP.format(seeds=[1], samples=samples))))


def test_what_a_method_cost_with_other_options_says_nothing(tmp_path: Path) -> None:
    """100 samples take fifty times as long as 2."""
    finish(tmp_path, [2], train_seconds=0.0, inference_ms=10_000 / 72)
    assert "about 10 s, from measured costs" in said(tmp_path, [2])
    assert "not known yet" in said(tmp_path, [100, 200])
    both = said(tmp_path, [2, 100])
    assert "about 10 s, from measured costs" in both
    assert "and 1 cell of which none alike is finished" in both


def test_a_fit_that_cells_share_is_counted_once(tmp_path: Path) -> None:
    finish(tmp_path, [2, 3, 4], train_seconds=36_000.0, inference_ms=0.0)
    found = said(tmp_path, [2, 3, 4])
    assert "about 10 h, from measured costs" in found
    assert "1 fit; 2 of the cells differ from another in predicting alone" in found
    assert "fits of a group that build on the plain student share its training" in found


def test_planning_reads_no_figures_of_finished_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 71 conditions they take 200 times as long as the rest."""
    finish(tmp_path, [2], train_seconds=1.0, inference_ms=1.0)
    monkeypatch.setattr(CellResult, "model_validate_json", lambda *_: pytest.fail("read whole"))
    plan = planned(tmp_path, SWEEP.format(seeds=[0, 1], samples=[2]) + "    alpha: 0.2\n")
    assert [(before, after) for _, before, after in plan.levels] == [(0.1, 0.2)]
    assert "1 there already" in "\n".join(describe_plan(plan))


def test_the_beginning_of_a_result_is_that_of_the_result(tmp_path: Path) -> None:
    file, whole = tmp_path / RESULT, make_cell(conditions=("clean", *(f"blur:{each}" for each in range(500))))
    text = whole.model_dump_json(indent=1)
    file.write_text(text)
    head = read_head(file)
    assert {name: getattr(whole, name) for name in type(head).model_fields} == dict(head)
    file.write_text(json.dumps(dict(reversed(json.loads(text).items()))))
    assert read_head(file) == head, "in whatever order"
    for damaged in (text[:2000], text[:-100], "", "[]", text.replace('"alpha":', '"beta":')):
        file.write_text(damaged)
        with pytest.raises(InputError, match=rf"{RESULT} is no valid result: "):
            read_head(file)
    file.unlink()
    with pytest.raises(InputError, match="cannot read"):
        read_head(file)

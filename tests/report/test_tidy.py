"""Tidy rows: columns, undefined values, names that tell variants apart."""

import csv
import io
import json

import pandas as pd
import pytest

from rdbench.report.tidy import COLUMNS, as_csv, as_json, tidy
from rdbench.report.variants import method_labels


def test_one_row_per_cell_condition_and_metric(make_cell):
    cell = make_cell("tta", conditions=("clean", "noise:3"), figures={"image_auroc": 0.875})
    table = tidy([cell])
    assert tuple(table.columns) == COLUMNS
    assert len(table) == sum(len(figures) for figures in cell.figures().values())
    row = table[(table.metric == "image_auroc") & (table.condition == "noise:3")].iloc[0]
    assert (row.method, row.dataset, row.category, row.seed, row.backbone) == ("tta", "toy", "grid", 0, "resnet18")
    assert (row.value, row.low, row.high) == (0.875, pytest.approx(0.835), pytest.approx(0.905))
    assert set(table[table.metric == "train_seconds"].condition) == {"clean"}


def test_cells_that_differ_in_shifts_alone_are_told_apart(make_cell):
    cells = [make_cell(conditions=("clean",)), make_cell(conditions=("clean", "noise:3"))]
    table = tidy(cells)
    assert set(table.method) == {"deterministic"}
    conditions = table.groupby("cell", sort=False).condition.unique().map(set)
    assert conditions.tolist() == [{"clean"}, {"clean", "noise:3"}]
    assert conditions.index.tolist() == [cell.spec.path.as_posix() for cell in cells]


def test_undefined_is_nan_with_its_reason_and_never_zero_or_one(make_cell):
    table = tidy([make_cell(failures=0)])
    row = table[table.metric == "augrc"].iloc[0]
    assert pd.isna(row.value)
    assert row.note == "no failures"
    [written] = [row for row in csv.DictReader(io.StringIO(as_csv(table))) if row["metric"] == "augrc"]
    assert (written["value"], written["note"]) == ("", "no failures")
    [record] = [row for row in json.loads(as_json(table)) if row["metric"] == "augrc"]
    assert record["value"] is None


def test_numbers_survive_csv_to_the_last_digit(make_cell):
    table = tidy([make_cell(figures={"image_auroc": 1 / 3})])
    [row] = [row for row in csv.DictReader(io.StringIO(as_csv(table))) if row["metric"] == "image_auroc"]
    assert float(row["value"]) == 1 / 3


def test_another_alpha_is_in_the_name(make_cell):
    assert set(tidy([make_cell("tta"), make_cell("tta", alpha=0.05)]).method) == {"tta", "tta at alpha 0.05"}


def test_no_results_give_an_empty_table_with_the_columns():
    assert as_csv(tidy([])) == ",".join(COLUMNS) + "\n"
    assert json.loads(as_json(tidy([]))) == []


def test_options_that_differ_from_each_other_or_from_the_defaults_are_in_the_name(make_cell):
    unknown = [make_cell("not_at_hand", options={"p": p, "samples": 8}) for p in (0.1, 0.3)]
    assert method_labels(unknown) == ["not_at_hand[p=0.1]", "not_at_hand[p=0.3]"]
    assert method_labels(unknown[:1]) == ["not_at_hand"]


def test_options_of_a_method_at_hand_are_shown_where_they_are_not_its_defaults(make_cell, tmp_path, monkeypatch):
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "mine.py").write_text(
        '"""Mine."""\nfrom dataclasses import dataclass\n@dataclass\nclass Mine:\n    p: float = 0.1\n'
        + "".join(f"    def {name}(self): ...\n" for name in ("fit", "predict", "save", "load"))
    )
    monkeypatch.chdir(tmp_path)
    assert method_labels([make_cell("mine", options={"p": 0.1})]) == ["mine"]
    assert method_labels([make_cell("mine", options={"p": 0.3})]) == ["mine[p=0.3]"]


def test_settings_other_than_those_of_most_methods_are_in_the_name(make_cell):
    cells = [make_cell("a", epochs=200), make_cell("b", epochs=200), make_cell("c", epochs=5)]
    assert method_labels(cells) == ["a", "b", "c[epochs=5]"]
    assert method_labels(cells[1:]) == ["b[epochs=200]", "c[epochs=5]"]
    maps = [make_cell("a"), make_cell("b"), make_cell("c", map_size=(32, 32))]
    assert method_labels(maps) == ["a", "b", "c[map=32x32]"]


def test_settings_are_in_the_name_only_where_they_differ_on_one_dataset_and_backbone(make_cell):
    cells = [make_cell(epochs=10), make_cell(epochs=40), make_cell(epochs=40, dataset="mvtec_ad")]
    assert method_labels(cells) == ["deterministic[epochs=10]", "deterministic[epochs=40]", "deterministic"]

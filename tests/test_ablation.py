"""Tests of ablation.py on synthetic digits."""

import dataclasses
import importlib
import pkgutil

import torch

from common import data
from tests import ablation, synthetic

ROWS = [row for rows in ablation.ROWS.values() for row in rows]


def test_rows_have_names_of_their_own_and_options_and_constants_that_exist():
    assert len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        module = importlib.import_module(row.script)
        changed = (
            dataclasses.replace(module.Config(), **row.options) != module.Config() or row.constants
        )
        assert bool(changed) == (not row.name.startswith("as it is:"))
        assert all(pkgutil.resolve_name(name) is not value for name, value in row.constants.items())
        assert len(row.seeds) >= 2 and min(row.seeds) > 100


def test_a_row_is_trained_by_its_script_and_measured_on_validation_images(
    data_dir, tmp_path, monkeypatch
):
    synthetic.make_small(monkeypatch)
    seen, validated = [], ablation.validated
    monkeypatch.setattr(ablation, "validated", lambda *of: seen.append(of[2]) or validated(*of))
    config = ablation.Config(output_dir=tmp_path, data_dir=data_dir)
    row = ablation.Row(
        "a", "q4_few_shot", {"subsets": 2, "shots": 2, "iterations": 60}, {}, "scratch, augmented"
    )
    fits = ablation.measure(row, 101, config)
    validation = data.load("mnist", data_dir).validation
    assert len(fits) == 2 and {len(fit) for fit in fits} == {4}
    (fit,) = ablation.measure(ablation.Row("b", "q1_autoencoder", {"epochs": 1}), 101, config)
    assert 0 < fit["mse"] < fit["bce"] and fit["seconds"] > 0
    assert len(seen) == 3 and all(torch.equal(split.inputs, validation.inputs) for split in seen)
    assert not list(tmp_path.rglob(".q*")), "what main began is removed"


def test_a_table_has_mean_and_deviation_of_all_fits_worked_by_hand():
    rows = [
        ablation.Row("a", "q1_autoencoder", seeds=(1, 2)),
        ablation.Row("not run", "q1_autoencoder"),
    ]
    runs = {
        ("a", 1): [{"accuracy": 0.90, "seconds": 1.0}],
        ("a", 2): [{"accuracy": 0.92, "seconds": 3.0}],
    }
    *_, line = ablation.table(rows, runs)
    assert line == "| a | 91.00 ± 1.41 % | 2.0 ± 1.4 | 2 |"
    assert ablation.spread([0.012341], "mse") == "0.01234", "one value has no deviation"

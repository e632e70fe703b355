"""studies/ablation.py: a small table, and its lines worked by hand."""

import pandas
import pytest

from studies import ablation
from tests import helpers


def test_a_table_is_made_of_fits_on_every_seed(data_dir, tmp_path):
    done = helpers.run_module(
        "studies.ablation",
        *("--table", "start", "--epochs", 1, "--seeds", 101, 102, "--workers", 1),
        *("--dataset", "own", "--data-dir", data_dir, "--output-dir", tmp_path),
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "studies" / "ablation" / "start"
    lines = (folder / "table.md").read_text("utf-8").splitlines()
    assert len(lines) == 2 + len(ablation.ROWS["start"])
    assert all("| 2 |" in line for line in lines[2:])
    numbers = pandas.read_csv(folder / "numbers.csv")
    assert set(numbers.split) == {"validation"}
    assert set(numbers.subset) == {"seed 101", "seed 102"}


@pytest.mark.parametrize(
    ("changed", "difference", "evidence"),
    [
        ([0.80, 0.81, 0.82], "+10.00 (+10.00 to +10.00 points)", "real"),
        ([0.80, 0.61, 0.76], "+1.33 (-24.16 to +26.83 points)", "not shown"),
        ([0.80], "", ""),
    ],
)
def test_a_difference_is_real_if_its_interval_does_not_hold_0(changed, difference, evidence):
    records = []
    for seed, value in enumerate(changed):
        for row, of_row in ((ablation.RECIPE, [0.70, 0.71, 0.72][seed]), ("more", value)):
            record = {"row": row, "seed": seed, "subset": "", "measure": "accuracy"}
            records.append(record | {"value": of_row})
    recipe, more = ablation.compare(pandas.DataFrame(records), "accuracy").to_dict("records")
    assert (more["difference"], more["evidence"]) == (difference, evidence)
    assert recipe["difference"] == recipe["evidence"] == ""
    assert (more["n"], more[""]) == (len(changed), "more")

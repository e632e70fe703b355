"""studies/other_data.py: a folder beside its copy, and one that is not there."""

import shutil
from pathlib import Path

import pandas

from tests import helpers


def test_claims_stand_beside_each_other_and_what_is_missing_is_said(
    trained: Path, data_dir: Path, tmp_path: Path
):
    folder = tmp_path / "outputs"
    shutil.copytree(trained, folder)
    shutil.copytree(trained, folder / "again")
    done = helpers.run_module(
        "studies.other_data",
        *("--dataset", "own", "--data-dir", data_dir, "--output-dir", folder),
        *("--others", "again", "kmnist"),
    )
    assert done.returncode == 0, done.stderr

    claims = pandas.read_csv(folder / "studies/other_data/claims.csv", keep_default_na=False)
    first = claims[claims.dataset == "own"].drop(columns="dataset").reset_index(drop=True)
    again = claims[claims.dataset == "again"].drop(columns="dataset").reset_index(drop=True)
    assert len(first) > 5 and first.equals(again)
    q5 = first[first.claim == "Q1's encoder"].squeeze()
    assert float(q5["mean"]) == measured_gain(trained)

    # No results: an empty column, and the command that makes them.
    assert "kmnist is not there: python reproduce.py --studies" in done.stdout
    assert "--dataset kmnist" in done.stdout


def measured_gain(folder: Path) -> float:
    """Return fine-tuned minus scratch, means of the balanced subsets' test accuracies."""
    means = []
    for step, model in (("q5_transfer", "fine-tuned"), ("q4_few_shot", "scratch")):
        numbers = pandas.read_csv(folder / step / "numbers.csv", keep_default_na=False)
        chosen = numbers[
            (numbers.model == model)
            & (numbers.split == "test")
            & (numbers.measure == "accuracy")
            & numbers.subset.str.startswith("balanced")
        ]
        means.append(chosen.value.astype(float).mean())
    return means[0] - means[1]

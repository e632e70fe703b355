"""studies/reconstruction_loss.py: a small run beside Q1 and Q3."""

import shutil

import pandas
import pytest

from tests import helpers


def test_measures_the_claims_for_each_loss(trained, data_dir, tmp_path):
    outputs = shutil.copytree(trained, tmp_path / "outputs")
    done = helpers.run_module(
        "studies.reconstruction_loss",
        *("--dataset", "own", "--data-dir", data_dir, "--output-dir", outputs),
        *("--losses", "mse"),
    )
    assert done.returncode == 0, done.stderr

    folder = outputs / "studies" / "reconstruction_loss"
    numbers = pandas.read_csv(folder / "numbers.csv")
    scores = numbers.pivot(index="model", columns="measure", values="value")
    assert list(scores.index) == ["Q1, L1", "Q1, MSE", "Q3, L1", "Q3, MSE", "original"]
    assert (folder / "claims.png").exists()
    assert (folder / "digits.png").exists()

    # Q3's latents are Q2's, whatever its decoder minimises; Q1's are its own.
    assert scores.slant_r2["Q3, L1"] == scores.slant_r2["Q3, MSE"]
    assert scores.slant_r2["Q1, L1"] != scores.slant_r2["Q1, MSE"]
    assert scores.mse["Q3, L1"] != scores.mse["Q3, MSE"]

    # What was read gives the numbers that Q3 wrote of it.
    of_q3 = pandas.read_csv(outputs / "q3_frozen_decoder" / "numbers.csv")
    of_q3 = of_q3.pivot(index="model", columns="measure", values="value")
    for measure in ("l1", "slant_r2", "deviation_kept", "reading_accuracy"):
        for model in ("Q1", "Q3"):
            value = scores.loc[f"{model}, L1", measure]
            assert value == pytest.approx(of_q3.loc[model, measure], rel=1e-6)

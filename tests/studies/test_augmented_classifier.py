"""studies/augmented_classifier.py: a small run beside Q2 and Q3, and the calibration error."""

import math
import shutil

import pandas
import pytest
import torch
from torch import nn

from studies.augmented_classifier import calibration_error, smoothed_loss
from tests import helpers


def test_trains_three_classifiers_and_their_decoders(trained, data_dir, tmp_path):
    outputs = shutil.copytree(trained, tmp_path / "outputs")
    done = helpers.run_module(
        "studies.augmented_classifier",
        *("--dataset", "own", "--data-dir", data_dir, "--output-dir", outputs),
        *("--copies", 1),
    )
    assert done.returncode == 0, done.stderr

    folder = outputs / "studies" / "augmented_classifier"
    numbers = pandas.read_csv(folder / "numbers.csv")
    scores = numbers.pivot(index="model", columns="measure", values="value")
    assert (folder / "classifiers.png").exists()
    assert (folder / "decoders.png").exists()

    variants = ["plain", "warps", "smoothing", "warps and smoothing"]
    classifiers = scores.loc[[f"Q2, {variant}" for variant in variants]]
    decoders = scores.loc[[f"Q3, {variant}" for variant in variants]]
    assert classifiers.cross_entropy.nunique() == 4
    assert decoders.l1.nunique() == 4
    assert classifiers.averaged_accuracy.notna().all()

    # The plain ones are those that Q2 and Q3 have trained.
    of_q2 = pandas.read_csv(outputs / "q2_classifier" / "numbers.csv")
    of_q2 = of_q2.query("model == 'Q2' and split == 'test'").set_index("measure").value
    assert classifiers.cross_entropy["Q2, plain"] == pytest.approx(of_q2["cross_entropy"])
    of_q3 = pandas.read_csv(outputs / "q3_frozen_decoder" / "numbers.csv")
    of_q3 = of_q3.query("model == 'Q3' and split == 'test'").set_index("measure").value
    assert decoders.l1["Q3, plain"] == pytest.approx(of_q3["l1"])


def test_calibration_error_by_hand():
    # Three images with probability 0.9, of which two are classified correctly, in one bin; one with
    # 0.6, correct, in another.
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    labels = torch.tensor([0, 0, 1, 1])
    expected = 3 / 4 * abs(0.9 - 2 / 3) + 1 / 4 * abs(0.6 - 1)
    assert calibration_error(probabilities, labels) == pytest.approx(expected, rel=1e-6)


def test_calibration_error_of_a_classifier_that_is_always_sure_and_right():
    assert calibration_error(torch.eye(10), torch.arange(10)) == 0


def test_smoothed_loss_by_hand():
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    loss, metrics = smoothed_loss(nn.Identity(), logits, torch.tensor([0]), smoothing=0.3)
    total = math.exp(2) + 1 + math.exp(-1)
    log_probabilities = [2 - math.log(total), -math.log(total), -1 - math.log(total)]
    # 0.7 for the label, and a third of 0.3 for each class.
    expected = -(0.8 * log_probabilities[0] + 0.1 * sum(log_probabilities[1:]))
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert metrics["cross_entropy"].item() == pytest.approx(-log_probabilities[0], rel=1e-5)

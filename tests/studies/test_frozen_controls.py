"""studies/frozen_controls.py: a small run beside Q3, and its controls."""

import shutil

import numpy
import pandas
import pytest
import torch

from common.data import Split
from common.models import Classifier, Decoder, Encoder, Head
from studies.frozen_controls import Logits, Probabilities, WiderDecoder, median_images
from tests import helpers


def test_measures_every_control(trained, data_dir, tmp_path):
    outputs = shutil.copytree(trained, tmp_path / "outputs")
    done = helpers.run_module(
        "studies.frozen_controls",
        *("--dataset", "own", "--data-dir", data_dir, "--output-dir", outputs),
    )
    assert done.returncode == 0, done.stderr

    folder = outputs / "studies" / "frozen_controls"
    numbers = pandas.read_csv(folder / "numbers.csv")
    scores = numbers.pivot(index="model", columns="measure", values="value")
    assert (folder / "digits.png").exists()
    assert (folder / "latents.png").exists()

    # A decoder was trained for each, and what is from the digit alone is measured beside them.
    drawn = scores.variance_explained.dropna()
    assert set(drawn.index) == {
        "Q3, wider",
        "logits",
        "probabilities",
        "random encoder",
        "class mean",
        "class median",
    }
    assert drawn["class mean"] == pytest.approx(0, abs=1e-6)
    assert drawn["class median"] < 0  # it is the best for L1, not for the squared error
    assert scores.l1["class median"] < scores.l1["class mean"]

    # What can be read, also from what Q1 and Q2 have trained.
    read = {"Q1", "Q2", "logits", "probabilities", "random encoder"}
    assert set(scores.size_r2.dropna().index) == read
    assert set(scores.size_ridge_r2.dropna().index) == read - {"probabilities"}
    of_q3 = pandas.read_csv(outputs / "q3_frozen_decoder" / "numbers.csv")
    of_q3 = of_q3.pivot(index="model", columns="measure", values="value")
    assert scores.slant_r2["Q2"] == pytest.approx(of_q3.slant_r2["Q3"], rel=1e-6)


def test_logits_and_probabilities_are_the_classifiers():
    classifier = Classifier(Encoder(12), Head(12))
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    logits = Logits(classifier)(images)
    probabilities = Probabilities(classifier)(images)
    assert torch.equal(logits, classifier(images))
    expected = logits.exp() / logits.exp().sum(1, keepdim=True)
    torch.testing.assert_close(probabilities, expected)


def test_wider_decoder_is_q3s_if_not_widened():
    weights = [parameter.shape for parameter in Decoder(12).parameters()]
    as_wide = WiderDecoder(12, 1, torch.Generator().manual_seed(0))
    assert [parameter.shape for parameter in as_wide.parameters()] == weights

    wider = WiderDecoder(12, 2, torch.Generator().manual_seed(0))
    assert wider(torch.zeros(5, 12)).shape == (5, 1, 28, 28)


def test_median_images():
    values = numpy.arange(30, dtype=numpy.float32)
    images = torch.from_numpy(values).view(30, 1, 1, 1).expand(30, 1, 28, 28)
    labels = torch.arange(30) % 10  # digit d has the images of value d, d + 10 and d + 20
    medians = median_images(Split(images, labels))
    assert medians.shape == (10, 1, 28, 28)
    assert (medians == numpy.arange(10, 20).reshape(10, 1, 1, 1)).all()

"""studies/label_spreading.py: a small run, and the graph and its labels against references."""

import warnings
from pathlib import Path

import numpy
import pandas
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.semi_supervised import LabelSpreading

from common.data import Split
from common.few_shot import Subset
from studies import label_spreading
from studies.label_spreading import ALPHA, ITERATIONS, NEIGHBOURS
from tests import helpers


def test_labels_are_passed_on_trained_on_and_compared(pretrained: Path, data_dir: Path):
    done = helpers.run_module(
        "studies.label_spreading",
        *("--dataset", "own", "--data-dir", data_dir, "--output-dir", pretrained),
        *("--epochs", 1, "--long-epochs", 1),
    )
    assert done.returncode == 0, done.stderr

    folder = pretrained / "studies/label_spreading"
    numbers = pandas.read_csv(folder / "numbers.csv", keep_default_na=False)
    accuracy = numbers[numbers.measure == "accuracy"].groupby(["split", "model"]).value
    assert accuracy.mean().between(0, 1).all()
    assert len(accuracy.mean()["test"]) == len(accuracy.mean()["unlabelled"]) + 1 == 7
    assert (accuracy.count() == accuracy.count().iloc[0]).all()


@pytest.fixture
def points() -> numpy.ndarray:
    """Two clouds of 60 points each in three dimensions, apart."""
    random = numpy.random.default_rng(0)
    points = random.normal(size=(120, 3))
    points[60:, 0] += 6
    return points


def test_graph_against_all_distances(points: numpy.ndarray):
    graph = label_spreading.neighbour_graph(points).toarray()

    distances = cdist(points, points)
    numpy.fill_diagonal(distances, numpy.inf)
    nearest = numpy.sort(distances, axis=1)[:, NEIGHBOURS - 1]
    weights = numpy.exp(-(distances**2) / numpy.outer(nearest, nearest))
    weights[distances > nearest[:, None]] = 0
    numpy.testing.assert_allclose(graph, weights + weights.T, atol=1e-9)


def test_spreading_against_scikit_learn(points: numpy.ndarray):
    graph = label_spreading.neighbour_graph(points)
    indices, labels = numpy.array([0, 1, 60, 61]), numpy.array([3, 3, 7, 7])
    spread = label_spreading.spread(graph, indices, labels)

    known = numpy.full(len(points), -1)
    known[indices] = labels
    reference = LabelSpreading(kernel=lambda *_: graph, alpha=ALPHA, max_iter=ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has not converged
        reference.fit(points, known)
    numpy.testing.assert_array_equal(spread, reference.transduction_)
    right = numpy.repeat([3, 7], len(points) // 2)
    assert (spread == right).mean() > 0.95  # a few points lie between the two clouds


def test_given_labels_are_kept_and_not_counted(points: numpy.ndarray):
    graph = label_spreading.neighbour_graph(points)
    indices, labels = numpy.arange(0, 12), numpy.array([3] * 11 + [7])
    spread = label_spreading.spread(graph, indices, labels)
    assert spread[11] == 7 and spread[20] == 3

    subset = Subset("balanced 1", 1, torch.tensor([0, 1]))
    split = Split(torch.zeros(6, 1, 28, 28), torch.tensor([3, 3, 3, 3, 7, 7]))
    right = label_spreading.share_right(torch.tensor([0, 0, 3, 3, 7, 3]), subset, split)
    assert right == pytest.approx(3 / 4)

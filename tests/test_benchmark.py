"""Tests of common/benchmark.py: both loops train the same model on the same images."""

import pytest
import torch

import q2_classifier
from common import benchmark, data


@pytest.fixture(scope="module")
def split(data_dir):
    return data.load("own", data_dir).train[:200]


def test_the_plain_loops_images_are_those_of_the_data_set(split):
    images = benchmark.PilImages(split)
    assert len(images) == 200
    for index in (0, 7, 199):
        image, label = images[index]
        assert torch.allclose(image, split.images[index], atol=1e-6)
        assert label == split.labels[index]


def test_either_loop_trains_its_model_on_all_images(split):
    for contest in benchmark.contests(split, torch.device("cpu")):
        assert contest.plain_turn() > 0
        history = contest.our_turn()
        assert history.step.max() == 2  # of 128 and 72 images


def test_the_recipe_is_q2s():
    assert q2_classifier.recipe(q2_classifier.Config()) == benchmark.Q2_RECIPE


def test_time_to_the_goal_is_of_the_fewest_epochs_that_reach_it(data_dir, capsys):
    benchmark.time_to_goal(data.load("own", data_dir), torch.device("cpu"))
    *shorter, last = capsys.readouterr().out.splitlines()
    reached = [float(line.split("epochs: ")[1].split("%")[0]) >= 99 for line in (*shorter, last)]
    assert not any(reached[:-1])
    assert reached[-1] or len(reached) == benchmark.MOST_EPOCHS


def test_it_prints_a_line_for_each_model(data_dir, capsys):
    config = benchmark.Config(dataset="own", data_dir=data_dir, device="cpu", images=128)
    benchmark.main(config)
    assert len(capsys.readouterr().out.splitlines()) == 4

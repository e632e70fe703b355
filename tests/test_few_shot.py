"""Tests of common/few_shot.py: which images are drawn, and when a fit on them is measured."""

import itertools

import numpy
import pytest
import torch

from common import few_shot
from common.run import InputError

# 40 of each digit.
LABELS = torch.from_numpy(numpy.random.default_rng(5).permutation(numpy.arange(400) % 10))
# 2 shots of seed 0, noted from a run of torch 2.14.
SUBSET = [66, 5, 370, 163, 134, 285, 241, 97, 349, 216]
SUBSET += [183, 319, 89, 392, 55, 218, 140, 257, 256, 276]


def test_balanced_subsets_are_nested_and_come_from_their_seed_alone():
    torch.manual_seed(123)
    assert few_shot.balanced(LABELS, 2, seed=0).tolist() == SUBSET
    largest = few_shot.balanced(LABELS, 40, seed=3)
    assert sorted(largest.tolist()) == list(range(400))
    assert LABELS[largest].tolist() == list(range(10)) * 40
    for shots in (1, 5, 39):
        assert torch.equal(few_shot.balanced(LABELS, shots, seed=3), largest[: 10 * shots])
    with pytest.raises(InputError, match="got 40, expected 1 to 39"):
        few_shot.balanced(LABELS[1:], 40, seed=0)


def test_the_reports_subset_and_balanced_ones():
    subsets = few_shot.labelled_subsets(LABELS, shots=2, count=3, seed=0)
    assert subsets[0].name == few_shot.REPORT
    assert subsets[0].indices.tolist() == list(range(100))
    for subset in subsets[1:]:
        assert LABELS[subset.indices].bincount().tolist() == [2] * 10
    assert len({tuple(subset.indices.tolist()) for subset in subsets}) == 4

    others = few_shot.labelled_subsets(LABELS, shots=2, count=3, seed=1)
    assert torch.equal(others[0].indices, subsets[0].indices)
    assert len({subset.seed for subset in subsets + others}) == 8
    names = {subset.file_name(model) for subset in subsets for model in ("scratch", "frozen")}
    assert len(names) == 8


@pytest.mark.parametrize("images", [10, 20, 100, 130, 1_000])
def test_epochs_for_about_so_many_steps(images):
    steps = few_shot.epochs_for(600, images, batch_size=50) * -(-images // 50)
    assert steps == pytest.approx(600, rel=0.02)
    assert few_shot.epochs_for(1, images, batch_size=50) == 1


@pytest.mark.parametrize("epochs", [1, 3, 100, 777])
def test_records_are_about_equally_far_apart_on_a_logarithmic_axis(epochs):
    recorded = sorted(few_shot.record_epochs(epochs))
    assert recorded[:2] == [0, 1] and recorded[-1] == epochs
    for epoch, later in itertools.pairwise(recorded[1:]):
        assert later <= max(1.7 * epoch, epoch + 1)
    assert len(recorded) <= 3 + 2 * numpy.log2(epochs)

"""Tests of common/measures/reader.py on small digits."""

import numpy
import pytest
import torch

from common.data import Split
from common.measures import reader
from common.models import fingerprint
from tests import helpers


def small_digits(count: int, seed: int) -> Split:
    images, labels = helpers.digits(count, seed)
    return Split(torch.from_numpy(images)[:, None] / 255, torch.from_numpy(labels).long())


def test_it_learns_to_read_and_counts_what_is_read_rightly():
    trained = reader.train_reader(small_digits(600, seed=0), epochs=4)
    test = small_digits(200, seed=1)
    labels = test.labels.numpy()
    read = reader.read(trained, test.images)
    assert (read == labels).mean() > 0.9
    assert reader.reading_accuracy(trained, test.images, labels) == (read == labels).mean()
    wrong = numpy.where(numpy.arange(200) < 50, (read + 1) % 10, read)
    assert reader.reading_accuracy(trained, test.images.numpy(), wrong) == 0.75
    for images in (test.images[1:], test.images[:, 0], test.images * numpy.nan):
        with pytest.raises(ValueError):
            reader.reading_accuracy(trained, images, labels)


def test_it_depends_on_its_seed_alone():
    def trained(seed: int) -> str:
        torch.rand(1)  # moves the global generator on
        return fingerprint(reader.train_reader(small_digits(100, seed=0), epochs=1, seed=seed))

    assert trained(3) == trained(3) != trained(4)
    assert fingerprint(reader.build(3)) != fingerprint(reader.build(4))

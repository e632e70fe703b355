"""Tests of common/data.py: digits whose pixels tell their label and their index in the file."""

import hashlib
import struct
from pathlib import Path

import numpy
import pytest
import torch

from common import data
from common.run import InputError
from tests import helpers


@pytest.fixture(scope="module")
def dataset(data_dir: Path) -> data.Dataset:
    return data.load("own", data_dir)


def index_in_file(split: data.Split) -> numpy.ndarray:
    """Read what helpers.digits put into the first two pixels."""
    high, low = (split.images[:, 0, 0, :2].double() * 255).round().long().T.numpy()
    return high * 256 + low


@pytest.mark.parametrize(
    ("name", "size", "drawn"),
    [("train", 1_100, (1_200, 1)), ("validation", 100, (1_200, 1)), ("test", 300, (300, 2))],
)
def test_images_keep_their_pixels_and_their_labels(name, size, drawn, dataset):
    split = getattr(dataset, name)
    assert split.images.shape == (size, 1, 28, 28)
    assert (split.images.dtype, split.labels.dtype) == (torch.float32, torch.int64)
    images, labels = helpers.digits(*drawn)
    members = index_in_file(split)
    numpy.testing.assert_array_equal(split.labels.numpy(), labels[members])
    numpy.testing.assert_allclose(split.images[:, 0].numpy(), images[members] / 255, atol=1e-6)
    part = split[torch.tensor([7, 3])]
    assert index_in_file(part).tolist() == members[[7, 3]].tolist()
    assert part.labels.tolist() == labels[members[[7, 3]]].tolist()


def test_the_split_of_60_000_images_is_the_published_one(tmp_path):
    indices = numpy.arange(60_000)
    images = numpy.zeros((60_000, 28, 28), numpy.uint8)
    images[:, 0, 0], images[:, 0, 1] = divmod(indices, 256)
    labels = (indices % 10).astype(numpy.uint8)
    for part, count in (("train", 60_000), ("t10k", 10_100)):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(helpers.idx(images[:count]))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(helpers.idx(labels[:count]))
    loaded = data.load("own", tmp_path)

    # Noted from a run of torch 2.14; another split would change every published number.
    validation = index_in_file(loaded.validation)
    assert validation[:8].tolist() == [138, 143, 147, 159, 172, 185, 190, 209]
    digest = hashlib.sha256(validation.astype("<i8").tobytes()).hexdigest()
    assert digest == "642fb73a0c6979470f5acb21ae541be703f74a69b246c27abbf093ec9a6f773e"
    train = index_in_file(loaded.train)
    assert sorted([*train, *validation]) == indices.tolist()
    assert (numpy.diff(train) > 0).all()  # in the order of the file
    assert train[:100].tolist() == list(range(100))
    # Of longer test files, as QMNIST's, the first 10,000.
    assert index_in_file(loaded.test).tolist() == list(range(10_000))

    quick = data.load("own", tmp_path, quick=True)
    members = [*index_in_file(quick.train), *index_in_file(quick.validation)]
    assert sorted(members) == list(range(6_000)) and len(quick.validation) == 500
    assert index_in_file(quick.test).tolist() == list(range(1_000))
    assert quick.sha256 == loaded.sha256  # of the same files; its options say that it is quick


def test_sha256_is_of_all_four_files_and_damaged_ones_are_refused(tmp_path, dataset):
    folder = helpers.write_idx_files(tmp_path)
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    content = b"".join((folder / f"{name}-ubyte").read_bytes() for name in names)
    assert dataset.sha256 == hashlib.sha256(content).hexdigest()

    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=path.name):
        data.load("own", folder)


def test_a_notebook_may_name_a_dataset_and_a_folder_as_text(tmp_path, dataset):
    folder = helpers.write_idx_files(tmp_path)
    assert data.load("OWN", str(folder)).sha256 == dataset.sha256
    with pytest.raises(InputError, match="expected one of mnist"):
        data.load("cifar", str(folder))


def test_of_qmnists_rows_of_labels_the_class_comes_first():
    rows = [[3, 77, 77, 77, 77, 77, 77, 77], [8, 66, 66, 66, 66, 66, 66, 66]]
    content = struct.pack(">HBBII", 0, 12, 2, 2, 8)  # int32, two dimensions
    content += b"".join(struct.pack(">8i", *row) for row in rows)
    labels = data.parse_idx(content)
    assert labels.tolist() == [3, 8] and labels.dtype == torch.int64


def test_first_of_each_digit(dataset):
    labels = dataset.test.labels.tolist()
    rows = data.first_of_each_digit(dataset.test.labels, 2).tolist()
    for digit, (first, second) in enumerate(rows):
        assert first == labels.index(digit)
        assert second == labels.index(digit, first + 1)

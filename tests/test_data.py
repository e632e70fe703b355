import hashlib
import struct

import numpy
import pytest
import torch

from common import data, download
from common.run import InputError
from tests import synthetic

LABELS = torch.from_numpy(
    numpy.random.default_rng(5).permutation(numpy.arange(400) % 10)
)  # 40 of each digit
# 2 shots of seed 0, noted from a run of torch 2.14
SUBSET = [
    66,
    5,
    370,
    163,
    134,
    285,
    241,
    97,
    349,
    216,
    183,
    319,
    89,
    392,
    55,
    218,
    140,
    257,
    256,
    276,
]


def load(files: list[bytes], device: str = "cpu") -> data.Dataset:
    """Load a dataset of these verified files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "prepare", lambda dataset, data_dir: (files, {}))
        return data.load("mnist", "nowhere", device)


@pytest.fixture(scope="module")
def dataset(raw_contents):
    return load(list(raw_contents.values()))


@pytest.fixture(scope="module")
def full_size():
    """The dataset of files as long as QMNIST's and in their form, with images of two pixels to save time."""
    index = numpy.arange(60_000)
    images = synthetic.idx(
        numpy.stack([index // 256, index % 256], axis=1).astype(numpy.uint8).reshape(-1, 1, 2)
    )
    rows = numpy.stack([index % 10, *[numpy.full(60_000, 77)] * 7], axis=1).astype(">i4")
    labels = struct.pack(">HBBII", 0, 12, 2, *rows.shape) + rows.tobytes()
    return load([images, labels, images, labels])


def index_in_file(split):
    """Read what synthetic.digits and full_size put into the first two pixels."""
    high, low = (split.inputs[:, 0, 0, :2].double() * 255).round().long().T.numpy()
    return high * 256 + low


def test_load_goes_through_the_verified_files(data_dir, dataset):
    loaded = data.load("mnist", data_dir)
    assert torch.equal(loaded.train.inputs, dataset.train.inputs)
    assert torch.equal(loaded.test.targets, dataset.test.targets)
    path = data_dir / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        InputError, match=r"train-images-idx3-ubyte: wrong bytes.*no network in tests"
    ):
        data.load("mnist", data_dir)


@pytest.mark.parametrize(
    "name, size, seed", [("train", 1_100, 1), ("validation", 5_000, 1), ("test", 300, 2)]
)
def test_images_keep_their_pixels_and_their_labels(name, size, seed, dataset):
    split = getattr(dataset, name)
    assert split.inputs.shape == (len(split), 1, 28, 28) == (size, 1, 28, 28)
    assert split.inputs.dtype == torch.float32
    assert split.targets.dtype == torch.int64
    images, labels = synthetic.digits(300 if name == "test" else 6_100, seed)
    members = index_in_file(split)
    numpy.testing.assert_array_equal(split.targets.numpy(), labels[members])
    numpy.testing.assert_allclose(split.inputs[:, 0].numpy(), images[members] / 255, atol=1e-6)


def test_the_fingerprint_is_the_sha256_of_all_files(raw_contents, dataset):
    files = list(raw_contents.values())
    assert (
        dataset.fingerprint == hashlib.sha256(files[0] + files[1] + files[2] + files[3]).hexdigest()
    )
    files[3] = files[3][:-1] + bytes([(files[3][-1] + 1) % 10])
    assert load(files).fingerprint != dataset.fingerprint


def test_train_and_validation_share_out_the_file_and_train_keeps_its_order_and_first_hundred(
    dataset,
):
    train, validation = index_in_file(dataset.train), index_in_file(dataset.validation)
    assert sorted([*train, *validation]) == list(range(6_100))
    assert (numpy.diff(train) > 0).all()
    assert train[:100].tolist() == list(range(100))


def test_the_split_of_the_full_size_is_the_stored_one(full_size):
    # Noted from a run of torch 2.14; another split would make every published number another one.
    validation = index_in_file(full_size.validation)
    assert validation[:8].tolist() == [138, 143, 147, 159, 172, 185, 190, 209]
    digest = hashlib.sha256(validation.astype("<i8").tobytes()).hexdigest()
    assert digest == "642fb73a0c6979470f5acb21ae541be703f74a69b246c27abbf093ec9a6f773e"
    train = index_in_file(full_size.train)
    assert len(train) == 55_000
    assert not set(train) & set(validation)


def test_qmnist_labels_are_the_class_and_its_test_split_is_mnists(full_size):
    assert index_in_file(full_size.test).tolist() == list(range(10_000))
    for split in (full_size.train, *full_size.held_out.values()):
        numpy.testing.assert_array_equal(split.targets.numpy(), index_in_file(split) % 10)


def test_what_an_autoencoder_is_to_return_are_the_images_of_every_split(dataset):
    images = dataset.to_reconstruct()
    assert images.fingerprint == dataset.fingerprint
    for name in ("train", "validation", "test"):
        split, expected = getattr(images, name), getattr(dataset, name).inputs
        assert torch.equal(split.inputs, expected) and torch.equal(split.targets, expected)


@pytest.mark.parametrize(
    "images, batch_size, sizes",
    [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 5, [3]), (1, 1, [1])],
    ids=str,
)
def test_batches_visit_every_index_once_and_the_last_is_ragged(images, batch_size, sizes, dataset):
    visited = list(
        data.batches(dataset.test[:images], batch_size, torch.Generator().manual_seed(0))
    )
    assert [len(indices) for indices in visited] == sizes
    assert all(indices.dtype == torch.int64 for indices in visited)
    assert sorted(torch.cat(visited).tolist()) == list(range(images))


def test_every_random_choice_comes_from_its_seed_alone(raw_contents, dataset):
    def order(generator):
        return torch.cat(list(data.batches(dataset.test, 16, generator))).tolist()

    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(123)
    state = torch.get_rng_state()
    first_epoch, second_epoch = order(generator), order(generator)
    assert order(torch.Generator().manual_seed(3)) == first_epoch != second_epoch
    assert order(torch.Generator().manual_seed(4)) != first_epoch != list(range(300))
    again = load(list(raw_contents.values()))
    assert index_in_file(again.validation).tolist() == index_in_file(dataset.validation).tolist()
    assert data.balanced(LABELS, 2, seed=0).tolist() == SUBSET
    assert torch.equal(torch.get_rng_state(), state)
    assert (
        len(set(data.balanced(LABELS, 2, seed=1).tolist()) & set(SUBSET)) < 10
    )  # 1 of 20 is expected by chance


def test_balanced_subsets_are_nested_and_hold_the_digits_in_tens():
    largest = data.balanced(LABELS, 40, seed=3)
    assert sorted(largest.tolist()) == list(range(400))
    assert LABELS[largest].tolist() == list(range(10)) * 40
    for shots in (1, 5, 39):
        assert data.balanced(LABELS, shots, seed=3).tolist() == largest.tolist()[: 10 * shots]


def test_more_shots_than_a_digit_has_are_refused():
    labels, short = LABELS[1:], LABELS[0]  # 39 images of one digit are left, 40 of the others
    with pytest.raises(
        InputError, match=f"^--shots: got 40, expected 1 to 39, .* of digit {short}$"
    ):
        data.balanced(labels, 40, seed=0)

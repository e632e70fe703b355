import ast
import hashlib
import os
import struct
import subprocess
import sys

import numpy
import pytest
import torch

from common import data, download, run
from tests import synthetic

LABELS = torch.from_numpy(numpy.random.default_rng(5).permutation(numpy.arange(400) % 10))  # 40 of each digit
DRAW = [66, 5, 370, 163, 134, 285, 241, 97, 349, 216, 183, 319, 89, 392, 55, 218, 140, 257, 256, 276]  # 2 shots, seed 0


@pytest.fixture(scope="module")
def dataset(raw_contents):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(download, "prepare", lambda dataset, data_dir: (list(raw_contents.values()), {}))
        return data.load("mnist", "nowhere")


@pytest.fixture
def full_size(monkeypatch):
    """The dataset of files as long as QMNIST's and in their form, with images of two pixels to save time."""

    def prepare(dataset, data_dir):
        index = numpy.arange(60_000)
        images = numpy.stack([index // 256, index % 256], axis=1).astype(numpy.uint8).reshape(-1, 1, 2)
        rows = numpy.stack([index % 10, *[numpy.full(60_000, 77)] * 7], axis=1).astype(">i4")
        labels = struct.pack(">HBBII", 0, 12, 2, *rows.shape) + rows.tobytes()
        return [synthetic.idx(images), labels, synthetic.idx(images), labels], {}

    monkeypatch.setattr(download, "prepare", prepare)
    return data.load("qmnist", "nowhere")


def index_in_file(split):
    """Read what synthetic.digits and full_size put into the first two pixels."""
    high, low = (split.images[:, 0, 0, :2].double() * 255).round().long().T.numpy()
    return high * 256 + low


def test_load_goes_through_the_verified_files(data_dir, raw_contents, dataset):
    loaded = data.load("mnist", data_dir)
    assert torch.equal(loaded.train.images, dataset.train.images)
    assert torch.equal(loaded.test.labels, dataset.test.labels)
    path = data_dir / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FileNotFoundError, match="cut short"):
        data.load("mnist", data_dir)


@pytest.mark.parametrize("name, images", [("train", 1_100), ("validation", 5_000), ("test", 300)])
def test_load_gives_float_images_and_integer_labels(name, images, dataset):
    split = getattr(dataset, name)
    assert len(split) == images
    assert split.images.shape == (images, 1, 28, 28)
    assert split.images.dtype == torch.float32
    assert split.labels.shape == (images,)
    assert split.labels.dtype == torch.int64
    assert split.images.min() == 0
    assert 0.9 < split.images.max() <= 1
    assert sorted(split.labels.unique().tolist()) == list(range(10))


@pytest.mark.parametrize("name, count, seed", [("train", 6_100, 1), ("validation", 6_100, 1), ("test", 300, 2)])
def test_images_keep_their_pixels_and_their_labels(name, count, seed, dataset):
    split = getattr(dataset, name)
    images, labels = synthetic.digits(count, seed)
    members = index_in_file(split)
    numpy.testing.assert_array_equal(split.labels.numpy(), labels[members])
    numpy.testing.assert_allclose(split.images[:, 0].numpy() * 255, images[members], atol=1e-4)


def test_load_puts_everything_on_the_device(raw_contents, monkeypatch):
    monkeypatch.setattr(download, "prepare", lambda dataset, data_dir: (list(raw_contents.values()), {}))
    loaded = data.load("mnist", "nowhere", torch.device("meta"))
    for split in (loaded.train, loaded.validation, loaded.test):
        assert split.images.device.type == split.labels.device.type == "meta"


def test_the_fingerprint_tells_other_files_apart(raw_contents, dataset, monkeypatch):
    files = list(raw_contents.values())
    assert dataset.fingerprint == hashlib.sha256(files[0] + files[1] + files[2] + files[3]).hexdigest()
    files[3] = files[3][:-1] + bytes([(files[3][-1] + 1) % 10])
    monkeypatch.setattr(download, "prepare", lambda dataset, data_dir: (files, {}))
    assert data.load("mnist", "nowhere").fingerprint != dataset.fingerprint


def test_train_and_validation_share_out_the_file(dataset):
    train, validation = index_in_file(dataset.train), index_in_file(dataset.validation)
    assert sorted([*train, *validation]) == list(range(6_100))


def test_train_keeps_the_order_of_the_file_and_its_first_hundred(dataset):
    train = index_in_file(dataset.train)
    assert (numpy.diff(train) > 0).all()
    assert train[:100].tolist() == list(range(100))


def test_the_split_does_not_depend_on_torchs_seed(raw_contents, dataset, monkeypatch):
    monkeypatch.setattr(download, "prepare", lambda dataset, data_dir: (list(raw_contents.values()), {}))
    torch.manual_seed(123)
    state = torch.get_rng_state()
    again = data.load("mnist", "nowhere")
    assert index_in_file(again.validation).tolist() == index_in_file(dataset.validation).tolist()
    assert torch.equal(torch.get_rng_state(), state)


def test_the_split_of_the_full_size_is_the_stored_one(full_size):
    # Noted from a run of torch 2.14; another split would make every published number another one.
    validation = index_in_file(full_size.validation)
    assert validation[:8].tolist() == [138, 143, 147, 159, 172, 185, 190, 209]
    digest = hashlib.sha256(validation.astype("<i8").tobytes()).hexdigest()
    assert digest == "642fb73a0c6979470f5acb21ae541be703f74a69b246c27abbf093ec9a6f773e"
    train = index_in_file(full_size.train)
    assert len(train) == 55_000
    assert train[135:141].tolist() == [135, 136, 137, 139, 140, 141]
    assert not set(train) & set(validation)


def test_qmnist_labels_are_the_class_and_its_test_split_is_mnists(full_size):
    assert index_in_file(full_size.test).tolist() == list(range(10_000))
    for split in (full_size.train, full_size.validation, full_size.test):
        assert split.labels.dtype == torch.int64
        numpy.testing.assert_array_equal(split.labels.numpy(), index_in_file(split) % 10)


def test_indexing_a_split_keeps_images_and_labels_together(dataset):
    chosen = torch.tensor([7, 3, 299])
    subset = dataset.test[chosen]
    assert index_in_file(subset).tolist() == [7, 3, 299]
    assert subset.labels.tolist() == [dataset.test.labels[index].item() for index in (7, 3, 299)]
    assert len(subset) == 3
    tail = dataset.test[295:]
    assert index_in_file(tail).tolist() == [295, 296, 297, 298, 299]
    assert tail.labels.tolist() == dataset.test.labels.tolist()[295:]


def split_of(images):
    return data.Split(torch.zeros(images, 1, 2, 2), torch.zeros(images, dtype=torch.int64))


@pytest.mark.parametrize(
    "images, batch_size, sizes", [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 5, [3]), (1, 1, [1])], ids=str
)
def test_batches_visit_every_index_once_and_the_last_is_ragged(images, batch_size, sizes):
    visited = list(data.batches(split_of(images), batch_size, torch.Generator().manual_seed(0)))
    assert [len(indices) for indices in visited] == sizes
    assert all(indices.dtype == torch.int64 for indices in visited)
    assert sorted(torch.cat(visited).tolist()) == list(range(images))


def test_the_order_of_batches_comes_from_the_generator_alone():
    def order(generator):
        return torch.cat(list(data.batches(split_of(50), 16, generator))).tolist()

    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first_epoch, second_epoch = order(generator), order(generator)
    assert torch.equal(torch.get_rng_state(), state)
    assert order(torch.Generator().manual_seed(3)) == first_epoch
    assert order(torch.Generator().manual_seed(4)) != first_epoch
    assert second_epoch != first_epoch
    assert first_epoch != list(range(50))


def test_first_is_the_beginning_of_the_file():
    assert data.first().tolist() == list(range(100))
    assert data.first(3).tolist() == [0, 1, 2]
    assert data.first().dtype == torch.int64


@pytest.mark.parametrize("shots", [1, 5, 40])
def test_a_balanced_draw_has_the_shots_of_every_digit(shots):
    draw = data.balanced(LABELS, shots, seed=0)
    assert draw.dtype == torch.int64
    assert len(set(draw.tolist())) == len(draw) == 10 * shots
    assert numpy.bincount(LABELS.numpy()[draw.numpy()]).tolist() == [shots] * 10


def test_a_balanced_draw_begins_with_the_smaller_ones_in_tens_of_all_digits():
    ten = data.balanced(LABELS, 10, seed=3)
    for shots in (1, 5, 9):
        assert data.balanced(LABELS, shots, seed=3).tolist() == ten.tolist()[: 10 * shots]
    assert LABELS[ten].tolist() == list(range(10)) * 10


def test_a_balanced_draw_is_the_stored_one():
    assert data.balanced(LABELS, 2, seed=0).tolist() == DRAW


def test_a_balanced_draw_depends_on_its_seed_alone():
    torch.manual_seed(123)
    state = torch.get_rng_state()
    assert data.balanced(LABELS, 2, seed=0).tolist() == DRAW
    assert torch.equal(torch.get_rng_state(), state)
    shared = set(data.balanced(LABELS, 2, seed=1).tolist()) & set(DRAW)
    assert len(shared) < 10  # 1 of 20 is expected by chance


def test_a_balanced_draw_is_the_same_in_another_process():
    call = f"balanced(torch.tensor({LABELS.tolist()}), 2, seed=0).tolist()"
    command = [sys.executable, "-c", f"import torch; from common.data import balanced; print({call})"]
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    ran = subprocess.run(command, cwd=run.REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    assert ast.literal_eval(ran.stdout) == data.balanced(LABELS, 2, seed=0).tolist()


def test_digits_are_drawn_independently_of_each_other():
    # Labels in order, so that the place among a digit's images is index % 40.
    draw = data.balanced(torch.arange(10).repeat_interleave(40), 4, seed=0).reshape(4, 10)
    for places in (draw % 40).tolist():
        assert len(set(places)) > 3


def test_a_balanced_draw_reaches_all_of_a_digits_images():
    drawn = torch.cat([data.balanced(LABELS, 1, seed) for seed in range(60)])
    places = [numpy.flatnonzero(LABELS.numpy() == LABELS[index].item()).tolist().index(index) for index in drawn]
    assert min(places) == 0
    assert max(places) == 39


@pytest.mark.parametrize("shots", [0, -1])
def test_a_draw_of_no_shots_is_refused(shots):
    with pytest.raises(ValueError, match=f"shots: got {shots}, expected 1 to 40"):
        data.balanced(LABELS, shots, seed=0)


def test_a_draw_of_more_shots_than_a_digit_has_is_refused():
    labels, short = LABELS[1:], LABELS[0]  # 39 images of one digit are left, 40 of the others
    assert len(data.balanced(labels, 39, seed=0)) == 390
    with pytest.raises(ValueError, match=f"shots: got 40, expected 1 to 39, .* of digit {short}$"):
        data.balanced(labels, 40, seed=0)

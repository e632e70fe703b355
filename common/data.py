"""A dataset as tensors in memory, on the device that trains on it."""

import dataclasses
import struct
from pathlib import Path

import numpy
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from common import download
from common.download import FIRST_IMAGES
from common.run import InputError, generator

VALIDATION_SHARE = 12  # one in twelve of the training file: 5,000 of 60,000 images
TEST_IMAGES = 10_000  # QMNIST's test file holds 60,000, of which the first 10,000 are MNIST's
QUICK_IMAGES = {"train": 6_000, "test": 1_000}  # of each file, where a look is all that is wanted


@dataclasses.dataclass(frozen=True)
class Split:
    """Images (N, 1, 28, 28) float32 in [0, 1] and their labels (N,) int64. Indexing gives a part of
    it.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: Tensor | slice) -> "Split":
        return Split(self.images[indices], self.labels[indices])

    def to_classify(self) -> TensorDataset:
        """Return what a classifier trains on: images, and labels as targets."""
        return TensorDataset(self.images, self.labels)

    def to_reconstruct(self) -> TensorDataset:
        """Return what an autoencoder trains on: images, and the same images as targets."""
        return TensorDataset(self.images, self.images)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The three splits, and the sha256 of the raw files that they come from."""

    train: Split
    validation: Split
    test: Split
    sha256: str


def load(
    dataset: str, data_dir: Path | str, device: torch.device | str = "cpu", quick: bool = False
) -> Dataset:
    """Load ``dataset``, fetching what is missing into ``data_dir``.

    InputError when there is no such dataset or its files cannot be had.

    The 60,000 training images give 55,000 to train on and 5,000 for validation, the same for every
    script and seed. The first 100 are never drawn for validation and train keeps the order of the
    file, so that its first 100 are those of the exercise. The test split has 10,000 images.
    ``quick`` takes the first tenth of each file.
    """
    try:
        files = download.prepare(dataset, Path(data_dir).expanduser())
    except OSError as error:
        raise InputError(str(error)) from error
    images, labels, test_images, test_labels = (parse_idx(file.content) for file in files)
    if quick:
        images, labels = images[: QUICK_IMAGES["train"]], labels[: QUICK_IMAGES["train"]]
        test_images = test_images[: QUICK_IMAGES["test"]]
        test_labels = test_labels[: QUICK_IMAGES["test"]]

    order = torch.randperm(len(images) - FIRST_IMAGES, generator=generator(0, "validation split"))
    is_validation = torch.zeros(len(images), dtype=torch.bool)
    is_validation[FIRST_IMAGES + order[: len(images) // VALIDATION_SHARE]] = True

    return Dataset(
        train=_split(images[~is_validation], labels[~is_validation], device),
        validation=_split(images[is_validation], labels[is_validation], device),
        test=_split(test_images[:TEST_IMAGES], test_labels[:TEST_IMAGES], device),
        sha256=download.fingerprint(files),
    )


def first_of_each_digit(labels: Tensor, count: int = 1) -> Tensor:
    """Return the indices of the first ``count`` images of each digit, (10, count) int64, on the
    CPU.
    """
    rows = []
    for digit in range(10):
        rows.append(torch.nonzero(labels.cpu() == digit)[:count, 0])
    return torch.stack(rows)


def parse_idx(content: bytes) -> Tensor:
    """Read the IDX format: two zero bytes, a type code, the number of dimensions, the dimensions,
    the values.
    """
    is_int32 = content[2] == download.INT32
    dimensions = content[3]
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    values = numpy.frombuffer(
        content, ">i4" if is_int32 else "u1", offset=4 + 4 * dimensions
    ).reshape(shape)
    if is_int32:  # QMNIST's labels are rows of eight numbers, the class first
        return torch.from_numpy(values[:, 0].astype(numpy.int64))
    return torch.from_numpy(values.copy())


def _split(images: Tensor, labels: Tensor, device: torch.device | str) -> Split:
    return Split(images[:, None].to(device).float().div_(255), labels.to(device, torch.int64))

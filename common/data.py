"""A dataset as tensors in memory on the training device: splits, batches, balanced subsets."""

import dataclasses
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy
import torch
from torch import Tensor

from common import download
from common.run import InputError, generator

VALIDATION_IMAGES = 5_000
TEST_IMAGES = 10_000  # QMNIST's test file holds 60,000, of which the first 10,000 are MNIST's
FIRST_IMAGES = 100  # the report's few examples


@dataclasses.dataclass(frozen=True)
class Split:
    """Inputs (N, ...) and what is wanted for each, targets (N, ...), on one device. Indexing gives a part of it.

    A dataset holds images (N, 1, 28, 28) float32 in [0, 1] and labels (N,) int64; an autoencoder's targets are images.
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, indices: Tensor | slice) -> "Split":
        return Split(self.inputs[indices], self.targets[indices])


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The three splits, and the sha256 of the raw files that they come from."""

    train: Split
    validation: Split
    test: Split
    fingerprint: str

    @property
    def held_out(self) -> dict[str, Split]:
        """The splits that nothing is trained on, by name."""
        return {"validation": self.validation, "test": self.test}

    def to_reconstruct(self) -> "Dataset":
        """Return the dataset of an autoencoder: the images are also the targets."""
        splits = (Split(split.inputs, split.inputs) for split in (self.train, self.validation, self.test))
        return Dataset(*splits, self.fingerprint)


def load(dataset: str, data_dir: Path, device: torch.device | str = "cpu") -> Dataset:
    """Load ``dataset``, fetching what is missing into ``data_dir``; InputError when the files cannot be had.

    The 60,000 training images give 55,000 train and 5,000 validation images, the same for every script and seed:
    validation is drawn from all but the first 100, and train keeps the order of the file, so that its first 100 are the
    report's few examples. The test split has 10,000 images.
    """
    try:
        files, _ = download.prepare(dataset, data_dir)
    except OSError as error:
        raise InputError(str(error)) from error
    images, labels, test_images, test_labels = map(_parse, files)
    order = torch.randperm(len(images) - FIRST_IMAGES, generator=generator(0, "validation split")) + FIRST_IMAGES
    is_validation = torch.zeros(len(images), dtype=torch.bool)
    is_validation[order[:VALIDATION_IMAGES]] = True
    return Dataset(
        _split(images[~is_validation], labels[~is_validation], device),
        _split(images[is_validation], labels[is_validation], device),
        _split(test_images[:TEST_IMAGES], test_labels[:TEST_IMAGES], device),
        download.fingerprint(files),
    )


def batches(split: Split, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield indices (B,) int64 that visit ``split`` once, in an order from ``generator``; the last are the rest."""
    yield from torch.randperm(len(split), generator=generator).to(split.inputs.device).split(batch_size)


def balanced(labels: Tensor, shots: int, seed: int) -> Tensor:
    """Draw ``shots`` training indices per digit at random from ``seed``: (10 * shots,) int64, digits 0 to 9 in turn.

    The first 10 * k of one seed are its subset of k shots. Raises InputError when a digit has fewer images than asked.
    """
    columns = []
    for digit in range(10):
        members = torch.nonzero(labels.cpu() == digit).flatten()
        if shots > len(members):
            raise InputError(f"--shots: got {shots}, expected 1 to {len(members)}, the images of digit {digit}")
        order = torch.randperm(len(members), generator=generator(seed, f"balanced draw/{digit}"))
        columns.append(members[order[:shots]])
    return torch.stack(columns, dim=1).flatten()  # (shots, 10) -> (10 * shots,)


def first_of_each_digit(labels: Tensor) -> Tensor:
    """Return the index of the first image of each digit, (10,) int64, on the CPU."""
    return torch.stack([torch.nonzero(labels.cpu() == digit)[0, 0] for digit in range(10)])


def _parse(content: bytes) -> Tensor:
    """Read the IDX format: two zero bytes, a type code, the number of dimensions, the dimensions, the values."""
    is_int32, dimensions = content[2] == download.INT32, content[3]
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    values = numpy.frombuffer(content, ">i4" if is_int32 else "u1", offset=4 + 4 * dimensions).reshape(shape)
    # QMNIST's labels are rows of eight numbers, the class first.
    return torch.from_numpy(values[:, 0].astype(numpy.int64) if is_int32 else values.copy())


def _split(images: Tensor, labels: Tensor, device: torch.device | str) -> Split:
    return Split(images[:, None].to(device).float().div_(255), labels.to(device, torch.int64))

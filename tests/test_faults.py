"""Faults for real: killed processes, Ctrl-C, full disks, two runs at once, pipes."""

import os
import random
import re
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from common import plots, results, train
from tests import synthetic

resource = pytest.importorskip("resource", reason="POSIX alone has limits and signals like these")
ROOT = Path(__file__).resolve().parents[1]
BITS = ("*.safetensors", "*.png", "metrics.jsonl")  # summary.json and config.json say seconds and paths


@pytest.fixture(scope="module")
def whole(tmp_path_factory, raw_contents):
    """The folder of Q2's results of a process that nothing disturbed, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("whole")
    synthetic.write(folder / "data", raw_contents)
    synthetic.finished("q2_classifier", raw_contents, folder, "--help")  # what the first process waits for
    started = time.perf_counter()
    assert synthetic.finished("q2_classifier", raw_contents, folder) == 0, printed(folder)
    return folder, time.perf_counter() - started


@pytest.fixture
def folder(tmp_path, raw_contents):
    """A folder with the data, and earlier results of other bits in the place of Q2's and Q4's."""
    synthetic.write(tmp_path / "data", raw_contents)
    for script in ("q2_classifier", "q4_few_shot"):
        earlier = tmp_path / "outputs" / script
        earlier.mkdir(parents=True)
        for name in ("model.safetensors", "metrics.jsonl", "summary.json", "loss.png"):
            (earlier / name).write_text(f"earlier {name}")
        digests = {path.name: results.sha256(path) for path in earlier.iterdir()}
        results.write_json(earlier / "config.json", {"files_sha256": digests})
    return tmp_path


def printed(folder: Path) -> str:
    return (folder / "printed").read_text()


def line(folder: Path) -> str:
    """Return what a process said of its error, and see to it that it is one line."""
    assert printed(folder).startswith("error: ") and printed(folder).count("\n") == 1, printed(folder)
    return printed(folder)


def contents(folder: Path, *patterns: str) -> dict[str, bytes]:
    """Return the files that match, in subfolders too, by their path."""
    paths = sorted({path for pattern in patterns or ("*",) for path in folder.rglob(pattern) if path.is_file()})
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _mark_fits(folder: Path, threads: int) -> None:
    """Leave a file for every thread that has begun to train."""
    torch.set_num_threads(threads)
    fit = train.fit

    def marking(*arguments, **settings):
        (folder / f"fitting-{threading.get_ident()}").touch()
        return fit(*arguments, **settings)

    train.fit = marking


def wait_for_fits(process, folder: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(list(folder.glob("fitting-*"))) < count and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.is_alive(), printed(folder)


@pytest.mark.parametrize("number", range(3))
def test_killed_at_a_random_moment_the_earlier_result_stays_whole_and_the_next_run_gives_the_same_bits(
    number, whole, folder, raw_contents
):
    undisturbed, seconds = whole
    target, moment = folder / "outputs" / "q2_classifier", random.Random().uniform(0, seconds)
    before, expected = contents(target), contents(undisturbed / "outputs" / "q2_classifier", *BITS)
    process = synthetic.started("q2_classifier", raw_contents, folder)
    process.join(moment)
    process.kill()
    process.join()
    assert results.read_config(target), f"killed after {moment} s"
    if process.exitcode:  # else it was faster than the one before
        assert process.exitcode == -signal.SIGKILL, printed(folder)
        assert contents(target) == before or contents(target, *BITS) == expected, f"killed after {moment} s"
    assert synthetic.finished("q2_classifier", raw_contents, folder) == 0, printed(folder)
    assert contents(target, *BITS) == expected and results.read_config(target), f"killed after {moment} s"
    assert sorted(path.name for path in target.parent.iterdir()) == ["q2_classifier", "q4_few_shot"]


@pytest.mark.parametrize(
    ("script", "option", "threads"), [("q2_classifier", "--epochs", 1), ("q4_few_shot", "--plain-iterations", 2)]
)
def test_ctrl_c_ends_at_once_with_130_keeps_earlier_results_and_leaves_nothing_beside(
    script, option, threads, folder, raw_contents
):
    before = contents(folder / "outputs")
    options = {"prepare": partial(_mark_fits, folder, threads)}  # Q4's fits run side by side
    process = synthetic.started(script, raw_contents, folder, option, "99999", **options)  # that is minutes
    wait_for_fits(process, folder, threads)
    os.kill(process.pid, signal.SIGINT)
    process.join(20)  # a hang, not a time: the machine is shared
    process.kill()
    assert process.exitcode == 130
    assert "interrupted; earlier results are kept" in line(folder)
    assert contents(folder / "outputs") == before
    assert sorted(path.name for path in (folder / "outputs").iterdir()) == ["q2_classifier", "q4_few_shot"]


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def _full_disk(name: str) -> None:
    """Let the disk be full in the middle of the figure or the text of this name."""

    def full(path, *arguments, **settings):
        if path.name != name:
            return write(path, *arguments, **settings)
        path.write_bytes(b"half")
        with Path("/dev/full").open("wb", buffering=0) as disk:
            disk.write(b"more")

    owner, function = (plots, "plot_confusion") if name.endswith("png") else (Path, "write_text")
    write = getattr(owner, function)
    setattr(owner, function, full)


NO_FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
FULL = [pytest.param(partial(_full_disk, name), marks=NO_FULL, id=name) for name in ("confusion.png", "config.json")]


@pytest.mark.parametrize("fault", [_limit, *FULL])
def test_a_full_disk_is_one_line_and_leaves_the_earlier_result_and_nothing_beside(fault, folder, raw_contents):
    before = contents(folder / "outputs")
    assert synthetic.finished("q2_classifier", raw_contents, folder, "--epochs", "1", prepare=fault) == 2
    assert re.search(r"error: cannot write .*(No space left|File too large)", line(folder))
    assert contents(folder / "outputs") == before
    assert sorted(path.name for path in (folder / "outputs").iterdir()) == ["q2_classifier", "q4_few_shot"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output_folder_is_one_line(folder, raw_contents):
    (folder / "outputs").chmod(0o500)
    assert synthetic.finished("q2_classifier", raw_contents, folder) == 2
    assert "give another --output-dir" in line(folder)


def test_two_runs_at_once_into_one_folder_both_end_well_and_leave_one_whole_result(whole, folder, raw_contents):
    other = folder / "other"
    other.mkdir()
    os.symlink(folder / "data", other / "data")
    os.symlink(folder / "outputs", other / "outputs")
    first = synthetic.started("q2_classifier", raw_contents, folder)
    assert synthetic.finished("q2_classifier", raw_contents, other, "--epochs", "2") == 0, printed(other)
    first.join()
    assert first.exitcode == 0, printed(folder)
    target = folder / "outputs" / "q2_classifier"
    epochs = results.read_config(target)["options"]["epochs"]
    assert epochs in (2, 3) and (target / "metrics.jsonl").read_text().count("\n") == epochs
    expected = contents(whole[0] / "outputs" / "q2_classifier", *BITS)
    assert (contents(target, *BITS) == expected) == (epochs == 3)
    assert sorted(path.name for path in (folder / "outputs").iterdir()) == ["q2_classifier", "q4_few_shot"]

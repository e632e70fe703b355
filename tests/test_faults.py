"""Faults for real: killed processes, full disks, damaged files, two runs at once, hostile terminals."""

import ast
import dataclasses
import gc
import io
import json
import os
import pickle
import random
import re
import signal
import string
import subprocess
import sys
import time
import tracemalloc
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import q1_autoencoder
import q2_classifier
import q3_frozen_decoder
import q4_few_shot
import q5_transfer
import reproduce
from common import checkpoint, data, download, few_shot, plots, run, train
from common.losses import classification_loss
from common.models import digest
from tests import stress, synthetic

resource = pytest.importorskip("resource", reason="POSIX alone has limits and signals like these")
ROOT = Path(__file__).resolve().parents[1]
MODULES = (q1_autoencoder, q2_classifier, q3_frozen_decoder, q4_few_shot, q5_transfer, reproduce)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, raw_contents):
    """The data and the complete results of Q2 and Q4, of processes that nothing disturbed; and their seconds."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, stress.prepare(folder, raw_contents, "q2_classifier", "q4_few_shot")


@pytest.fixture
def folder(tmp_path, raw_contents):
    synthetic.write(tmp_path / "data", raw_contents)
    return tmp_path


def printed(folder: Path) -> str:
    return (folder / "printed").read_text()


def line(folder: Path) -> str:
    """Return what a process said of its error, and see to it that it is one line."""
    lines = [text for text in printed(folder).splitlines() if not text.startswith(("replacing", "going on", "no unf"))]
    assert len(lines) == 1 and lines[0].startswith("error: "), printed(folder)
    return lines[0]


@pytest.mark.parametrize("script", ["q2_classifier"] * 4 + ["q4_few_shot"])
def test_killed_at_a_random_moment_and_resumed_to_the_same_bits(script, whole, raw_contents):
    reference, seconds = whole
    moment = random.Random().uniform(0, seconds[script])
    try:
        stress.kill_and_resume(script, raw_contents, reference, moment)
    except AssertionError as error:
        raise AssertionError(f"killed after {moment} s: {error}") from error


def _die_before_renaming(number: int) -> None:
    replace, calls = os.replace, []

    def dying(*arguments):
        calls.append(arguments)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*arguments)

    os.replace = dying


@pytest.mark.parametrize("number", [2, 5])  # writing: the mark of an unfinished run, three snapshots, model.pt
def test_killed_during_a_write_leaves_the_old_file_and_the_next_run_cleans_up(number, whole, folder, raw_contents):
    results = folder / "outputs" / "q2_classifier"
    prepare = partial(_die_before_renaming, number)
    assert synthetic.finished("q2_classifier", raw_contents, folder, prepare=prepare) == -signal.SIGKILL
    names = {path.name for path in results.iterdir()}
    assert any(name.startswith(run.BESIDE) for name in names)
    assert "model.pt" not in names and (run.SNAPSHOT in names) == (number == 5)
    assert synthetic.finished("q2_classifier", raw_contents, folder, "--resume") == 0
    assert stress.contents(results) == stress.contents(whole[0] / "outputs" / "q2_classifier")
    assert not any(path.name.startswith(run.BESIDE) for path in results.iterdir())


def test_resuming_with_other_options_is_refused_and_without_resume_it_starts_afresh(folder, raw_contents, whole):
    results = folder / "outputs" / "q2_classifier"
    prepare = partial(_die_before_renaming, 4)
    synthetic.finished("q2_classifier", raw_contents, folder, prepare=prepare)
    kept = (results / run.SNAPSHOT).read_bytes()
    other = ("--resume", "--batch-size", "100", "--no-augment")
    assert synthetic.finished("q2_classifier", raw_contents, folder, *other) == 2
    for part in ("batch_size 256 then, 100 now", "augment True then, False now", "leave out --resume"):
        assert part in line(folder)
    assert (results / run.SNAPSHOT).read_bytes() == kept
    assert synthetic.finished("q2_classifier", raw_contents, folder) == 0
    assert "replacing the earlier run" in printed(folder)
    assert stress.contents(results) == stress.contents(whole[0] / "outputs" / "q2_classifier")


@pytest.mark.parametrize(
    ("script", "option", "until"),
    [("q2_classifier", "--epochs", run.SNAPSHOT), ("q4_few_shot", "--plain-iterations", run.UNFINISHED)],
)
def test_ctrl_c_ends_soon_keeps_what_is_complete_and_says_how_to_go_on(script, option, until, folder, raw_contents):
    process = synthetic.started(script, raw_contents, folder, option, "99999")  # minutes, in Q4 within one epoch
    deadline = time.monotonic() + 60
    while not list(folder.rglob(f"*{until}")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)  # Q4's threads are at work
    os.kill(process.pid, signal.SIGINT)
    process.join(20)  # a hang, not a time: the machine is shared
    process.kill()
    assert process.exitcode == 130
    assert "--resume" in line(folder)
    assert list(folder.rglob(f"*{until}")) and not list(folder.rglob(f"{run.BESIDE}*"))


def _limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _full_disk() -> None:
    def full(path, content):
        with Path(path).open("wb", buffering=0) as file, Path("/dev/full").open("wb", buffering=0) as disk:
            file.write(content[: len(content) // 2])
            disk.write(content)

    Path.write_bytes = full


NO_FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")


@pytest.mark.parametrize(
    "fault", [partial(_limit, 100_000), pytest.param(_full_disk, marks=NO_FULL)], ids=["limited", "full"]
)
def test_disk_full_is_one_line_and_leaves_the_earlier_result(fault, whole, folder, raw_contents):
    results = folder / "outputs" / "q2_classifier"
    results.mkdir(parents=True)
    for path in (whole[0] / "outputs" / "q2_classifier").iterdir():
        (results / path.name).write_bytes(path.read_bytes())
    before = stress.contents(results)
    code = synthetic.finished("q2_classifier", raw_contents, folder, prepare=fault)
    assert code == 2
    assert re.search(r"error: cannot write .*(No space left|File too large)", line(folder))
    assert stress.contents(results) == before and not list(results.rglob(f"{run.BESIDE}*"))


def test_an_output_folder_that_cannot_be_is_one_line(folder, raw_contents):
    (folder / "outputs").write_text("a file")
    assert synthetic.finished("q2_classifier", raw_contents, folder) == 2
    assert "give another --output-dir" in line(folder)
    assert (folder / "outputs").read_text() == "a file"
    assert synthetic.finished("q2_classifier", raw_contents, folder, "--output-dir", "/proc/outputs") == 2
    assert "give another --output-dir" in line(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output_folder_is_one_line(folder, raw_contents):
    (folder / "outputs").mkdir(mode=0o500)
    assert synthetic.finished("q2_classifier", raw_contents, folder) == 2
    assert "give another --output-dir" in line(folder)


def test_a_second_run_into_the_same_folder_is_refused_and_names_the_first(folder, raw_contents):
    first = synthetic.started("q2_classifier", raw_contents, folder, "--epochs", "999")
    unfinished = folder / "outputs" / "q2_classifier" / run.UNFINISHED
    deadline = time.monotonic() + 60
    while not unfinished.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    try:
        assert synthetic.finished("q2_classifier", raw_contents, folder) == 2
        assert f"process {first.pid}" in line(folder)
    finally:
        first.kill()
        first.join()
    assert synthetic.finished("q2_classifier", raw_contents, folder) == 0, (
        "a lock that a killed run left does not block"
    )


def damaged(content: bytes, seed: int):
    """Yield the content cut short at 20 places, then with one bit flipped at 50."""
    random_ = random.Random(seed)
    for _ in range(20):
        yield content[: random_.randrange(len(content))]
    for _ in range(50):
        place, flipped = random_.randrange(len(content)), bytearray(content)
        flipped[place] ^= 1 << random_.randrange(8)
        yield bytes(flipped)


@pytest.mark.parametrize("name", [file.name for file in download.DATASETS["mnist"][1]])
def test_every_damaged_data_file_is_detected(name, data_dir, raw_contents, monkeypatch):
    monkeypatch.setattr(download, "_fetch", lambda *_: ["no mirror"])
    path = data_dir / "MNIST" / "raw" / name
    for content in damaged(raw_contents[name], seed=len(name)):
        path.write_bytes(content)
        with pytest.raises(FileNotFoundError, match=name) as error:
            download.prepare("mnist", data_dir)
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("script", ["q2_classifier/model", "q4_few_shot/autoencoder_draw_1"])
def test_every_damaged_checkpoint_is_detected_or_harmless(script, whole, tmp_path):
    path = tmp_path / "q1_autoencoder" / "model.pt"
    path.parent.mkdir()
    content = (whole[0] / "outputs" / f"{script}.pt").read_bytes()
    path.write_bytes(content)
    good = checkpoint.load(path)
    detected = 0
    for broken in damaged(content, seed=1):
        path.write_bytes(broken)
        try:
            found = checkpoint.load(path)
        except ValueError as error:
            detected += 1
            assert len(str(error).splitlines()) == 1 and "make it with" in str(error)
        else:
            assert digest(found.model) == digest(good.model) and found.config == good.config
            assert found.summary == good.summary
    assert detected >= 60


def test_a_damaged_snapshot_is_said_and_the_run_starts_over_to_the_same_bits(whole, folder, raw_contents):
    results = folder / "outputs" / "q2_classifier"
    synthetic.finished("q2_classifier", raw_contents, folder, prepare=partial(_die_before_renaming, 4))
    content = (results / run.SNAPSHOT).read_bytes()
    for broken in damaged(content, seed=2):
        (folder / "broken.pt").write_bytes(broken)
        try:
            found, _ = checkpoint.read(folder / "broken.pt")
        except ValueError:
            continue
        assert repr(found) == repr(checkpoint.read(results / run.SNAPSHOT)[0])
    (results / run.SNAPSHOT).write_bytes(content[: len(content) // 2])
    assert synthetic.finished("q2_classifier", raw_contents, folder, "--resume") == 0
    assert "starting over" in printed(folder)
    assert stress.contents(results) == stress.contents(whole[0] / "outputs" / "q2_classifier")


def test_results_whose_bits_changed_are_not_complete(whole, tmp_path):
    for path in (whole[0] / "outputs" / "q2_classifier").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert run.complete(tmp_path)
    for name in ("summary.json", "metrics.jsonl", "config.json", "model.pt"):
        content = (tmp_path / name).read_bytes()
        for broken in list(damaged(content, seed=3))[15:25]:
            (tmp_path / name).write_bytes(broken)
            found = run.complete(tmp_path)
            assert found is None or name == "config.json"
            if found:
                run.differences(found, found)  # has every field that is compared
        (tmp_path / name).write_bytes(content)
    assert run.complete(tmp_path)


class Hostile:
    def __reduce__(self):
        return (os.mkdir, ("a_folder_that_a_pickle_made",))


def test_a_pickle_that_would_run_code_is_refused_without_running_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "q1_autoencoder" / "model.pt"
    path.parent.mkdir()
    for write in (lambda: path.write_bytes(pickle.dumps(Hostile())), lambda: torch.save({"model": Hostile()}, path)):
        write()
        with pytest.raises(ValueError, match="cannot use"):
            checkpoint.load(path)
        with pytest.raises(ValueError, match="damaged"):
            checkpoint.read(path)
    assert not (tmp_path / "a_folder_that_a_pickle_made").exists()


BAD_VALUES = {
    int: ["one", "1.5", "-1", "", "nan", "1e3", "0x10", "--"],
    float: ["fast", "-1", "nan", "inf", "-inf", "", "1,5"],
    bool: ["maybe"],
}


def bad_command_lines():
    """Yield scripts with one impossible option each: every option of every script, and mistakes of other kinds."""
    for module in MODULES:
        for field in dataclasses.fields(module.Config):
            option = f"--{field.name.replace('_', '-')}"
            if field.type is Path:
                continue
            for value in BAD_VALUES.get(field.type, ["", "nothing", "MNIST"]):
                yield module, [option, value]
            if field.type is not bool:
                yield module, [option]
                yield module, [f"{option}s", "1"]
        for other in (
            ["positional"],
            ["-x"],
            ["--seed", "1", "2"],
            ["--help-me"],
            ["--seed=1=2"],
            ["--ünknown"],
        ):
            yield module, other


def test_every_bad_command_line_is_one_line_with_code_two_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    count = 0
    for module, arguments in bad_command_lines():
        with pytest.raises(SystemExit) as stop:
            run.command_line(lambda config: pytest.fail("main ran"), module.Config, arguments)
        told = capsys.readouterr()
        assert stop.value.code == 2, arguments
        assert told.out == "" and len(told.err.splitlines()) == 1, (arguments, told)
        assert told.err.startswith("error: ") and "Traceback" not in told.err
        count += 1
    assert count >= 500
    assert list(tmp_path.iterdir()) == []


WORDS = st.text(string.printable, max_size=8) | st.integers().map(str) | st.floats().map(str)
NAMES = st.sampled_from(
    ["seed", "epochs", "batch-size", "learning-rate", "latent-dim", "loss", "dataset", "device", "x"]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(NAMES, WORDS), max_size=3))
def test_any_command_line_is_parsed_or_refused_in_one_line(options):
    arguments = [part for name, value in options for part in (f"--{name}", value)]
    try:
        config = run.parse(q1_autoencoder.Config, "q1_autoencoder", arguments)
    except ValueError as error:
        assert str(error).strip()
    except SystemExit as stop:
        assert not stop.code and {"--help", "-h"} & set(arguments)
    else:
        assert 0 <= config.seed < 2**32 and config.epochs >= 1 and 2 <= config.latent_dim <= 784
        assert 0 < config.learning_rate < float("inf")


LABELS = torch.arange(600) % 10


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 59), st.integers(0, 2**32 - 1))
def test_balanced_draws_are_balanced_distinct_nested_and_repeatable(shots, seed):
    drawn = data.balanced(LABELS, shots, seed)
    assert torch.bincount(LABELS[drawn], minlength=10).tolist() == [shots] * 10
    assert len(set(drawn.tolist())) == 10 * shots
    assert torch.equal(drawn, data.balanced(LABELS, shots, seed))
    assert torch.equal(drawn, data.balanced(LABELS, shots + 1, seed)[: 10 * shots])
    assert not torch.equal(drawn, data.balanced(LABELS, shots, (seed + 1) % 2**32))


@settings(max_examples=60, deadline=None)
@given(st.integers(-5, 0) | st.integers(61, 10**9))
def test_draws_of_impossible_size_are_refused(shots):
    with pytest.raises(ValueError, match=f"got {shots}, expected 1 to 60"):
        data.balanced(LABELS, shots, 0)


def test_progress_bar_and_figures_change_no_weights(whole, data_dir, tmp_path, monkeypatch, capsys):
    synthetic.make_small(monkeypatch)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for name in ("curves", "confusion", "mistakes"):
        monkeypatch.setattr(plots, name, lambda *_, **__: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the process had
    try:
        options = ["--epochs", "3", "--device", "cpu", "--data-dir", str(data_dir), "--output-dir", str(tmp_path / "o")]
        run.command_line(q2_classifier.main, q2_classifier.Config, options)
    finally:
        torch.set_num_threads(threads)
    assert "epoch 3/3" in capsys.readouterr().err
    weights = (tmp_path / "o" / "q2_classifier" / "model.pt").read_bytes()
    assert weights == (whole[0] / "outputs" / "q2_classifier" / "model.pt").read_bytes()


def test_memory_stays_flat_over_200_epochs(data_dir):
    few = data.load("mnist", data_dir).train[:40]
    model = few_shot.classifier(q2_classifier.build(q2_classifier.Config()).encoder, few_shot.Draw("", 0, None), "cpu")
    settings = {"batch_size": 20, "learning_rate": 1e-3, "weight_decay": 0.0, "seed": 0}
    sizes, tensors = [], []

    def loss_fn(*arguments):
        sizes.append(tracemalloc.get_traced_memory()[0])
        if len(sizes) in (100, 500):
            tensors.append(sum(issubclass(type(found), torch.Tensor) for found in gc.get_objects()))
        return classification_loss(*arguments)

    tracemalloc.start()
    train.fit(model, loss_fn, few, {"test": few}, epochs=200, **settings)
    tracemalloc.stop()
    assert sizes[-1] - sizes[len(sizes) // 10] < 1_000_000  # the history: 400 steps of two numbers, 200 records
    assert len(tensors) == 2 and abs(tensors[1] - tensors[0]) <= 5


def test_half_a_million_history_points_are_drawn(tmp_path):
    steps = torch.rand(500_000).add(0.1).tolist()
    history = [
        {"step": (i + 1) * 5_000, "train": {"bce": steps[i * 5_000 : (i + 1) * 5_000]}}
        | {split: {"bce": 0.5} for split in ("validation", "test")}
        for i in range(100)
    ]
    started = time.perf_counter()
    plots.curves(tmp_path / "loss.png", history, "bce", "title", "unit")
    print(f"500,000 points in {time.perf_counter() - started:.1f} s")  # never asserted: the machine is shared
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_an_ascii_terminal_gets_no_traceback(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    run.command_line(lambda config: print("95.9 ± 0.5"), q1_autoencoder.Config, [])
    terminal.flush()
    assert terminal.buffer.getvalue().splitlines() == [b"95.9 ? 0.5"]


def test_a_pipe_gets_no_colours_and_no_progress_bar(whole):
    assert "figures and numbers" in printed(whole[0])
    assert not {"\x1b", "\r"} & set(printed(whole[0]))


def test_a_bare_environment_without_screen_locale_or_matplotlib_folder(folder):
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    environment |= {"MPLCONFIGDIR": "/proc/nowhere", "HOME": "/proc/nowhere", "PATH": os.environ["PATH"]}
    code = "import sys; from pathlib import Path; import q5_transfer; from common import plots, run; "
    code += "plots.bars(Path(sys.argv[1]), {'t': {'a': 1.0}}, 'b'); "
    code += "run.command_line(q5_transfer.main, q5_transfer.Config, ['--help'])"
    command = [sys.executable, "-c", code, folder / "a.png"]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    assert (folder / "a.png").exists()
    assert b"\x1b" not in done.stdout and b"--spread-epochs" in done.stdout


def test_no_file_is_opened_in_the_locale_of_the_machine():
    for path in [*ROOT.glob("*.py"), *ROOT.glob("common/*.py")]:
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(call, ast.Call) and getattr(call.func, "attr", "") in ("read_text", "write_text"):
                assert call.args or call.keywords, f"{path.name}:{call.lineno}"


def test_unfinished_names_its_process(tmp_path):
    options = run.Options(output_dir=tmp_path, device="cpu")
    folder = run.start(options, "q.py", run.provenance(options, "q.py", torch.device("cpu"), "f", {}))
    assert json.loads((folder / run.UNFINISHED).read_text())["process"] == os.getpid()

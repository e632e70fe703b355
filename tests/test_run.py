"""Tests of common/run.py; this is the docstring of the small script below."""

import dataclasses
import errno
import importlib
import os
import shlex
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pandas
import pytest
import torch

from common import results, run
from tests import helpers

SCRIPTS = [
    "q1_autoencoder",
    "q2_classifier",
    "q3_frozen_decoder",
    "q4_few_shot",
    "q5_transfer",
    "reproduce",
]


posix = pytest.mark.skipif(os.name == "nt", reason="POSIX alone has such shells, limits, signals")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(run.Options):
    epochs: int = 3
    """Passes over the training images."""
    learning_rate: float = 0.5
    """Peak of the schedule."""
    weight_decay: float = 0.0
    """Decoupled."""
    shots: tuple[int, ...] = (1, 5)
    """Images per digit."""
    mode: Literal["fast", "slow"] = "fast"
    """How."""
    warm: bool = False
    """Whether."""


def finish_step(output_dir: Path, name: str, needs: tuple[str, ...] = (), **options) -> dict:
    """Run a step that leaves next to nothing; return what its config.json then says."""
    config = Config(output_dir=output_dir, device="cpu", **options)
    step = run.start(name, config, needs)
    (step.folder / "model.safetensors").write_text(f"weights of {options}")
    step.log({"accuracy": 1 / 3, "l1": 1e-300}, model="Q", split="test")
    step.log({"accuracy": torch.tensor(0.5)}, model="Q", split="train", subset="balanced 1")
    step.finish("data")
    return results.read_config(output_dir / name)


def exit_code(main, *arguments: str) -> int:
    """Return the exit code of a command line."""
    with pytest.raises(SystemExit) as stop:
        run.command_line(main, Config, list(arguments))
    return stop.value.code


# --- the command line ---


def test_main_gets_the_defaults_or_what_the_command_line_says(capsys):
    configs = []
    run.command_line(configs.append, Config, [])
    line = "--dataset qmnist --data-dir a --output-dir b/c --device cpu --seed 4294967295"
    line += " --epochs 1 --learning-rate 1e-9 --weight-decay 0 --shots 2 3 4 --mode=slow --warm"
    run.command_line(configs.append, Config, line.split())
    shared = run.Options(
        dataset="qmnist",
        data_dir=Path("a"),
        output_dir=Path("b/c"),
        device="cpu",
        seed=2**32 - 1,
    )
    own = {"epochs": 1, "learning_rate": 1e-9, "shots": (2, 3, 4), "mode": "slow", "warm": True}
    assert configs == [Config(), Config(**vars(shared), **own)]
    assert configs[0].data_dir == helpers.ROOT / "data"  # wherever it is started
    assert configs[0].output_dir == helpers.ROOT / "outputs"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "arguments",
    [
        "--seed -1",
        "--seed 4294967296",
        "--dataset cifar10",
        "--epochs 0",
        "--epochs 1.5",
        f"--epochs {'9' * 400}",
        "--learning-rate 0",
        "--learning-rate inf",
        "--weight-decay nan",
        "--weight-decay -1",
        "--mode medium",
        "--warm maybe",
        "--device",
        "--ünknown 1",
        "positional",
    ],
)
def test_a_bad_option_is_a_mistake_of_the_user_that_is_named(arguments, capsys):
    def main(config):
        raise AssertionError("main ran")

    assert exit_code(main, *arguments.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and arguments.split()[-1].strip("-")[:30] in printed.err


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_and_describes_every_option(script, capsys):
    module = importlib.import_module(script)
    with pytest.raises(SystemExit, match=r"^0$"):
        run.command_line(module.main, module.Config, ["--help"])
    printed = capsys.readouterr().out
    hidden = {"seed"} if script == "reproduce" else set()  # it has --seeds
    for field in dataclasses.fields(module.Config):
        if field.name not in hidden:
            assert f"--{field.name.replace('_', '-')} " in printed, field.name
    assert module.__doc__.splitlines()[0].split()[-1] in printed


def test_a_script_works_from_any_folder_without_screen_and_locale(tmp_path):
    plain = {"LC_ALL": "C", "PYTHONUTF8": 0, "PYTHONCOERCECLOCALE": 0, "PYTHONIOENCODING": "ascii"}
    script = helpers.ROOT / "reproduce.py"
    done = helpers.finish(helpers.start(script, "--epochz", 3, cwd=tmp_path, **plain))
    assert (done.returncode, done.stdout) == (2, "") and "--epochz" in done.stderr


def test_a_leading_tilde_is_the_home_folder():
    configs = []
    run.command_line(configs.append, Config, ["--output-dir=~/x", "--data-dir", "y/~"])
    assert configs == [Config(output_dir=Path.home() / "x", data_dir=Path("y/~"))]


TALKATIVE = """
from common import run

def main(config):
    step = run.start("small", config)
    step.log({"l1": 0.5}, model="Q", split="test")
    print("numbers " * 100_000)
    step.finish("data")

run.command_line(main, run.Options)
"""


@posix
@pytest.mark.parametrize("redirection", ["| true", ">/dev/full", ">&-", ">&- 2>&-"])
def test_a_run_is_not_lost_for_want_of_a_reader(redirection, tmp_path):
    script = tmp_path / "small.py"
    script.write_text(TALKATIVE)
    command = shlex.join([sys.executable, str(script), "--output-dir", str(tmp_path)])
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{command} {redirection}"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(helpers.ROOT)},
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert results.read_config(tmp_path / "small")


@posix
def test_a_run_with_a_progress_bar_is_not_lost_for_want_of_a_reader(tmp_path, data_dir):
    options = ["--dataset", "own", "--data-dir", data_dir, "--output-dir", tmp_path]
    words = [sys.executable, helpers.ROOT / "q2_classifier.py", *options, "--epochs", "1"]
    command = f"{shlex.join(str(word) for word in words)} >&- 2>&-"
    assert subprocess.run(["bash", "-c", command]).returncode == 0
    assert results.read_config(tmp_path / "q2_classifier")


@pytest.mark.parametrize(
    "error, code",
    [
        (run.InputError("got 3,\n  expected 4:\nuse 4"), 2),
        (run.RunError("collapsed:\ntry again"), 1),
        (OSError(errno.ENOSPC, "No space left", "/x"), 2),
        (OSError(errno.EFBIG, "File too large"), 2),
        (torch.OutOfMemoryError("CUDA"), 1),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_bug_of_ours_is_one_line(error, code, capsys):
    def main(config):
        raise error

    assert exit_code(main) == code
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), KeyError("x"), RuntimeError("x"), AssertionError("x"), OSError(2, "x")],
    ids=lambda error: type(error).__name__,
)
def test_any_other_exception_keeps_its_traceback(error):
    def main(config):
        raise error

    with pytest.raises(type(error)) as raised:
        run.command_line(main, Config, [])
    assert raised.value is error


def test_a_command_repeats_a_run_with_what_is_not_the_default():
    script = helpers.ROOT / "q1_autoencoder.py"
    assert run.command(script, Config(output_dir=Path("x"), device="cpu")) == (
        "python q1_autoencoder.py"
    )
    changed = Config(dataset="own", seed=3, shots=(2, 3), mode="slow", warm=True)
    command = run.command(helpers.ROOT / "studies" / "label_curve.py", changed)
    words = command.split()
    assert words[:3] == ["python", "-m", "studies.label_curve"]
    again = []
    run.command_line(again.append, Config, words[3:])
    assert again == [changed]


# --- generators and devices ---


def test_a_generator_keeps_its_stored_values():
    # Half of the first 8 bytes of `printf encoder/0 | sha256sum`: a signed number holds no more.
    assert run.generator(0, "encoder").initial_seed() == 0xBFB7CBB82A126463 // 2
    assert run.generator(7, "batches/3").initial_seed() == 0x5880E448C077A1BA // 2
    numbers = torch.randint(1_000, (4,), generator=run.generator(0, "encoder"))
    assert numbers.tolist() == [208, 559, 875, 83]


def test_generators_differ_by_seed_and_purpose_and_do_not_move_the_global_one():
    before = torch.get_rng_state()
    numbers = set()
    for seed in (0, 1, 11, 2**32 - 1):
        for purpose in ("encoder", "batches/1", "batches/11", "batches/1/1"):
            numbers.add(torch.rand(1, generator=run.generator(seed, purpose)).item())
    assert len(numbers) == 16
    assert torch.equal(torch.get_rng_state(), before)


def test_the_device_is_the_one_of_the_option_or_the_best_there_is():
    has_cuda = torch.cuda.is_available()
    has_mps = torch.backends.mps.is_available()
    assert run.select_device("cpu") == torch.device("cpu")
    best = "cuda" if has_cuda else "mps" if has_mps else "cpu"
    assert run.select_device("auto") == torch.device(best)
    for name, is_there in (("cuda", has_cuda), ("mps", has_mps)):
        if is_there:
            assert run.select_device(name) == torch.device(name)
        else:
            with pytest.raises(run.InputError, match=f"{name}.*expected auto"):
                run.select_device(name)


def test_a_number_too_small_for_a_fast_product_is_zero_in_every_thread():
    is_supported = torch.set_flush_denormal(False)
    try:
        smallest = torch.full((1_000,), 2e-38)
        assert (smallest / 4).any()
        run.select_device("cpu")
        with ThreadPoolExecutor(1) as pool:
            quarter = pool.submit(lambda: smallest / 4).result()
        if is_supported:
            assert not (smallest / 4).any() and not quarter.any()
    finally:
        torch.set_flush_denormal(False)


# --- the folder of a run ---


def test_finish_leaves_one_whole_folder_and_where_it_came_from(tmp_path, capsys):
    config = Config(output_dir=tmp_path, device="cpu", seed=5, mode="slow", shots=(2,))
    step = run.start("small", config)
    step.log({"accuracy": 1 / 3, "l1": 1e-300}, model="Q", split="test")
    step.log({"accuracy": torch.tensor(0.5)}, model="Q", split="train", subset="balanced 1")
    history = pandas.DataFrame(
        {"step": [0, 1], "split": "test", "measure": "l1", "value": [0.5, 0.25]}
    )
    step.log_history(history, model="Q")
    step.log_history(history, model="Q", subset="balanced 1")
    step.finish("data")

    folder = tmp_path / "small"
    assert [path.name for path in tmp_path.iterdir()] == ["small"]
    assert str(folder) in capsys.readouterr().out
    names = ["config.json", "history.csv", "numbers.csv"]
    assert sorted(path.name for path in folder.iterdir()) == names

    numbers = run.read_table(folder / "numbers.csv")
    assert numbers.equals(step.numbers)  # to the last bit
    assert numbers.value.tolist() == [1 / 3, 1e-300, 0.5]
    assert numbers.subset.tolist() == ["", "", "balanced 1"]
    assert run.read_table(folder / "history.csv").equals(step.history)
    assert len(step.history) == 4

    written = results.read_config(folder)
    options = {"dataset": "mnist", "seed": 5, "epochs": 3, "learning_rate": 0.5}
    options |= {"quick": False, "weight_decay": 0.0, "shots": [2], "mode": "slow", "warm": False}
    assert written["options"] == options
    assert written["device"] == "cpu" and written["threads"] == torch.get_num_threads()
    assert written["command"] == "python test_run.py --seed 5 --shots 2 --mode slow"
    assert written["data_sha256"] == "data" and written["built_on"] == {}
    assert written["versions"]["python"] == sys.version.split()[0]
    assert {"common/run.py", "common/results.py"} <= set(written["code_files"])
    assert written["code_sha256"] == results.code_sha256(written["code_files"])
    for name in names[1:]:
        assert written["files_sha256"][name] == results.sha256(folder / name)


def test_results_of_other_options_or_data_are_not_replaced_without_a_word(tmp_path, capsys):
    finish_step(tmp_path, "small")
    finish_step(tmp_path, "small")
    assert capsys.readouterr().err == ""
    finish_step(tmp_path, "small", dataset="own")
    assert capsys.readouterr().err.count("python test_run.py\n") == 1
    config = Config(output_dir=tmp_path, device="cpu", dataset="own")
    step = run.start("small", config)
    step.log({"accuracy": 1 / 3}, model="Q", split="test")
    with pytest.raises(KeyError, match="psnr"):
        step.log({"accuracy": 0.5, "psnr": 30.0}, model="Q", split="test")
    step.finish("data of today")
    assert "other data" in capsys.readouterr().err


def test_options_made_in_a_notebook_are_written_down(tmp_path):
    made = "import dataclasses\nfrom common import run"
    made += "\n@dataclasses.dataclass(frozen=True, kw_only=True)"
    made += "\nclass Config(run.Options):\n    epochs: int = 3"
    made += f"\nstep = run.start('small', Config(output_dir=run.Path({str(tmp_path)!r}), epochs=4))"
    made += "\nstep.log({'l1': 0.5}, model='Q', split='test')\nstep.finish('data')"
    done = helpers.finish(helpers.start("-OO", "-c", made))  # no file, no docstrings
    assert done.returncode == 0, done.stderr
    assert results.read_config(tmp_path / "small")["command"] == "python small.py --epochs 4"


def test_a_run_needs_whole_results_of_the_same_images_and_seed_and_writes_down_which(tmp_path):
    needs = ("q1_autoencoder", "studies/augmentation")
    commands = ("python q1_autoencoder.py", "python -m studies.augmentation")

    def refused() -> str:
        with pytest.raises(run.InputError) as error:
            finish_step(tmp_path, "q5_transfer", needs, dataset="own", seed=3)
        return str(error.value)

    assert all(command in refused() for command in commands)
    finish_step(tmp_path, needs[0], dataset="own", seed=3)
    for options in (
        {"dataset": "mnist", "seed": 3},
        {"dataset": "own", "seed": 0},
        {"dataset": "own", "seed": 3, "quick": True},
    ):
        finish_step(tmp_path, needs[1], **options)
        assert commands[1] in refused() and commands[0] not in refused()
    first = results.read_config(tmp_path / needs[0])
    second = finish_step(tmp_path, needs[1], dataset="own", seed=3)
    written = finish_step(tmp_path, "q5_transfer", needs, dataset="own", seed=3)
    assert written["built_on"] == {
        needs[0]: results.result_sha256(first),
        needs[1]: results.result_sha256(second),
    }

    results.write_json(tmp_path / needs[0] / "config.json", {"files_sha256": {}})
    assert commands[0] in refused()  # of another version
    results.write_json(tmp_path / needs[0] / "config.json", first)
    (tmp_path / needs[0] / "model.safetensors").write_text("other weights")
    assert commands[0] in refused()
    names = [path.name for path in tmp_path.iterdir()]
    assert sorted(names) == ["q1_autoencoder", "q5_transfer", "studies"]


def test_a_quick_run_has_a_folder_of_its_own_unless_one_is_given(tmp_path):
    assert run.Options(quick=True).output_dir == run.OUTPUT_DIR / "quick"
    assert run.Options(quick=True, output_dir=tmp_path).output_dir == tmp_path
    assert run.Options().output_dir == run.OUTPUT_DIR


def test_what_an_earlier_step_left_can_be_read(tmp_path):
    finish_step(tmp_path, "first", epochs=7)
    second = run.start("second", Config(output_dir=tmp_path, device="cpu"), ("first",))
    assert second.options_of("first").epochs == 7
    assert second.path_of("first") == tmp_path / "first" / "model.safetensors"
    assert second.table_of("first", "numbers").value.tolist() == [1 / 3, 1e-300, 0.5]
    with pytest.raises(run.InputError, match="history"):
        second.table_of("first", "history")
    second.workspace.discard()


def test_a_folder_that_cannot_be_is_the_users_mistake(tmp_path):
    (tmp_path / "small").write_text("a file")
    for output_dir in (tmp_path, tmp_path / "small"):
        with pytest.raises(run.InputError, match="--output-dir"):
            run.start("small", Config(output_dir=output_dir, device="cpu"))
    assert (tmp_path / "small").read_text() == "a file"


# --- faults of real runs ---


@posix
def test_a_full_disk_is_one_line_and_leaves_the_earlier_result_alone(tmp_path, capsys):
    import resource

    before = finish_step(tmp_path, "small")
    capsys.readouterr()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def main(config):
        step = run.start("small", config)
        for number in range(1000):
            step.log({"l1": number}, model=f"model {number}", split="test")
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # bytes a file
        try:
            step.finish("data")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            step.workspace.discard()

    assert exit_code(main, "--output-dir", str(tmp_path), "--device", "cpu") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["small"]
    assert results.read_config(tmp_path / "small") == before


@posix
def test_ctrl_c_ends_a_script_with_130_and_leaves_the_earlier_result_alone(tmp_path, data_dir):
    before = finish_step(tmp_path, "q2_classifier")
    script = helpers.ROOT / "q2_classifier.py"
    folders = ("--data-dir", data_dir, "--output-dir", tmp_path)
    options = ("--dataset", "own", "--device", "cpu", "--epochs", 99_999)  # that takes hours
    process = helpers.start(script, *folders, *options)
    helpers.wait_for(lambda: list(tmp_path.glob(".q2_classifier-*.new")))
    process.send_signal(signal.SIGINT)
    done = helpers.finish(process)
    assert done.returncode == 130 and done.stderr.count("\n") == 1, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["q2_classifier"]
    assert results.read_config(tmp_path / "q2_classifier") == before

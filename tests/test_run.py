"""Tests of common/run.py; this sentence is the help text of the small script below."""

import ast
import contextlib
import dataclasses
import errno
import importlib
import inspect
import io
import itertools
import json
import math
import os
import runpy
import string
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Literal

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import q1_autoencoder
from common import results, run
from tests import synthetic

ROOT = Path(__file__).resolve().parents[1]
MODULES = [importlib.import_module(name) for name in (*synthetic.SCRIPTS, "reproduce")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallConfig(run.Options):
    epochs: int = 3
    """How many passes, at least one."""
    learning_rate: float = 0.5
    """Rate above zero."""
    weight_decay: float = 0.0
    """Rate of zero or more."""
    mode: Literal["fast", "slow"] = "fast"
    """Which of two modes."""
    warm: bool = True
    """Whether it starts warm."""


def ended(capsys, main, *arguments: str, config_class=SmallConfig) -> tuple[int, str, str]:
    """Return exit code, the one line on stderr and stdout of a command line that ends early."""
    with pytest.raises(SystemExit) as stop:
        run.command_line(main, config_class, list(arguments))
    printed = capsys.readouterr()
    assert stop.value.code == 0 or (printed.err.startswith("error: ") and printed.err.count("\n") == 1), arguments
    return stop.value.code, printed.err.strip(), printed.out


def raising(error: BaseException):
    def main(config):
        raise error

    return main


def finished(output_dir: Path, name: str, needs=(), history=(), numbers=(), **options) -> dict:
    """Run a step that leaves weights and nothing else of weight, and return what config.json then says."""
    step = run.start(SmallConfig(output_dir=output_dir, device="cpu", **options), name, needs)
    (step.folder / "model.safetensors").write_text(f"weights of {options}")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        summary = step.finish("data", list(history), list(numbers), {"loss.png": "title"}, ["answer"], [{"mean": 1.0}])
    assert printed.getvalue() == f"answer\nfigures and numbers: {output_dir / name}\n"
    assert json.loads((output_dir / name / "summary.json").read_text()) == summary
    return results.read_config(output_dir / name)


def test_main_gets_the_defaults_or_what_the_command_line_says(capsys):
    configs = []
    run.command_line(configs.append, SmallConfig, [])
    line = "--dataset qmnist --data-dir a --output-dir b/c --device cpu --seed 4294967295 --epochs 1 --no-warm"
    line += " --learning-rate 1e-9 --weight-decay 0 --mode=slow"
    run.command_line(configs.append, SmallConfig, line.split())
    values = {"epochs": 1, "learning_rate": 1e-9, "weight_decay": 0.0, "mode": "slow", "warm": False, "seed": 2**32 - 1}
    folders = {"data_dir": Path("a"), "output_dir": Path("b/c")}
    assert configs == [SmallConfig(), SmallConfig(dataset="qmnist", device="cpu", **folders, **values)]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("--nonsense 3", ["--nonsense"]),
        ("--seed one", ["--seed", "'one'"]),
        ("--seed -1", ["--seed: got -1, expected 0 to 4294967295"]),
        (f"--seed {'9' * 400}", ["--seed"]),  # too large for a float
        ("--dataset cifar10", ["--dataset", "'cifar10'", "mnist", "fashion-mnist", "kmnist", "qmnist"]),
        ("--device tpu", ["--device", "'tpu'", "cpu", "cuda"]),
        ("--epochs 0", ["--epochs: got 0, expected 1 to 1000000000"]),
        ("--epochs 1000000001", ["--epochs: got 1000000001"]),
        ("--learning-rate 0", ["--learning-rate: got 0.0, expected 1e-09 or more"]),
        ("--weight-decay -1e-9", ["--weight-decay: got -1e-09, expected 0 or more"]),
        ("--weight-decay nan", ["--weight-decay: got nan"]),
    ],
)
def test_a_bad_option_is_one_line_that_names_it(arguments, parts, capsys):
    code, line, out = ended(capsys, raising(AssertionError("main ran")), *arguments.split())
    assert (code, out) == (2, "") and not set(line) & set("│╭╮╰╯─")
    assert all(part in line for part in parts), line


def bad_command_lines():
    """Yield scripts with one impossible option, of all that they have, and mistakes of other kinds."""
    values = {int: ["1.5", "-1", "", "0x10"], float: ["fast", "-1", "nan", "-inf"], bool: ["maybe"]}
    for module in MODULES:
        for field in dataclasses.fields(module.Config):
            option = f"--{field.name.replace('_', '-')}"
            for value in [] if field.type is Path else values.get(field.type, ["", "MNIST"]):
                yield module, value if field.type is bool else option, [option, value]
            if field.type is not bool:
                yield module, option, [option]
                yield module, f"{option}s", [f"{option}s", "1"]
        for other in (["positional"], ["-x"], ["--help-me"], ["--seed=1=2"], ["--ünknown"]):
            yield module, other[0].split("=")[0], other


def test_every_impossible_option_of_every_script_is_one_line_with_code_two_that_names_it(capsys):
    lines = list(bad_command_lines())
    assert len(lines) > 200
    for module, option, arguments in lines:
        code, line, out = ended(capsys, raising(AssertionError("main ran")), *arguments, config_class=module.Config)
        assert (code, out) == (2, "") and option.removesuffix("s") in line, (arguments, line)


WORDS = st.text(string.printable, max_size=8) | st.integers().map(str) | st.floats().map(str)
NAMES = st.sampled_from(["seed", "epochs", "learning-rate", "latent-dim", "loss", "dataset", "device", "x"])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(NAMES, WORDS), max_size=3))
def test_any_command_line_is_parsed_or_refused(options):
    arguments = [part for name, value in options for part in (f"--{name}", value)]
    try:
        config = run.parse(q1_autoencoder.Config, "help", arguments)
    except run.InputError as error:
        assert str(error).strip()
    except SystemExit as stop:
        assert not stop.code and {"--help", "-h"} & set(arguments)
    else:
        assert 0 <= config.seed < 2**32 and config.epochs >= 1 and 2 <= config.latent_dim <= 784
        assert 0 < config.learning_rate < math.inf


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_help_is_the_docstring_and_describes_every_option(module, capsys):
    code, line, out = ended(capsys, module.main, "--help", config_class=module.Config)
    assert (code, line) == (0, "")
    text = "".join(out.replace("│", "").split())
    assert text.count("".join(module.__doc__.splitlines()[0].split())) == 1
    for config_class in module.Config.__mro__[:-1]:
        body = ast.parse(textwrap.dedent(inspect.getsource(config_class))).body[0].body
        for field, description in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign):
                words = description.value.value.split()
                assert len(words) >= 3 and "".join(words) + "(default:" in text, field.target.id


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (run.InputError("got 3,\n  expected 4:\nuse 4"), 2, "error: got 3, expected 4: use 4"),
        (run.RunError("collapsed:\ntry again"), 1, "error: collapsed: try again"),
        (OSError(errno.ENOSPC, "No space left", "/x"), 2, "error: cannot write /x (No space left)"),
        (OSError(errno.EFBIG, "File too large"), 2, "error: cannot write the results (File too large)"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "error: cannot write /x (Permission denied)"),
        (MemoryError(), 1, "error: out of memory"),
        (torch.OutOfMemoryError("CUDA"), 1, "error: out of memory"),
    ],
)
def test_a_users_mistake_a_failed_run_and_a_full_disk_are_one_line(error, code, line, capsys):
    found_code, found_line, out = ended(capsys, raising(error))
    assert (found_code, out) == (code, "") and found_line.startswith(line)


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), KeyError("x"), RuntimeError("x"), AssertionError("x"), FileNotFoundError(errno.ENOENT, "x")],
    ids=lambda error: type(error).__name__,
)
def test_any_other_exception_keeps_its_traceback(error):
    with pytest.raises(type(error)) as raised:
        run.command_line(raising(error), SmallConfig, [])
    assert raised.value is error


@pytest.mark.parametrize("error", [run.InputError("x"), run.RunError("x"), ValueError("x"), MemoryError()])
def test_a_run_that_fails_leaves_the_earlier_result_and_nothing_beside(error, tmp_path):
    finished(tmp_path, "small")

    def main(config):
        (run.start(config, "small").folder / "model.safetensors").write_text("half")
        raise error

    with pytest.raises((SystemExit, ValueError)):
        run.command_line(main, SmallConfig, ["--output-dir", str(tmp_path), "--device", "cpu"])
    assert [path.name for path in tmp_path.iterdir()] == ["small"] and results.read_config(tmp_path / "small")


def test_a_script_as_a_process_works_from_any_folder_without_screen_and_locale(tmp_path):
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    environment |= {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "MPLCONFIGDIR": str(tmp_path / "made")}
    command = [sys.executable, ROOT / "q1_autoencoder.py", "--epochs", "0"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --epochs: got 0, expected 1 to 1000000000\n"
    assert not list(tmp_path.glob("outputs*"))


def test_an_ascii_terminal_gets_no_traceback(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    run.command_line(lambda config: print("95.9 ± 0.5"), SmallConfig, [])
    terminal.flush()
    assert terminal.buffer.getvalue().splitlines() == [b"95.9 ? 0.5"]


def test_no_file_is_opened_in_the_locale_of_the_machine():
    for path in [*ROOT.glob("*.py"), *ROOT.glob("common/*.py")]:
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(call, ast.Call) and getattr(call.func, "attr", "") in ("read_text", "write_text"):
                assert call.args or call.keywords, f"{path.name}:{call.lineno}"


def test_default_folders_do_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for options in (run.Options(), runpy.run_path(run.__file__)["Options"]()):
        assert (options.data_dir, options.output_dir) == (ROOT / "data", ROOT / "outputs")


def test_generator_keeps_its_stored_values():
    # The first 8 bytes of `printf encoder/0 | sha256sum` are bfb7cbb82a126463, of batches/3/7 5880e448c077a1ba;
    # halved, so that they fit a signed number.
    assert run.generator(0, "encoder").initial_seed() == 0xBFB7CBB82A126463 // 2
    assert run.generator(7, "batches/3").initial_seed() == 0x5880E448C077A1BA // 2
    assert torch.randint(1_000, (4,), generator=run.generator(0, "encoder")).tolist() == [208, 559, 875, 83]


def test_generators_differ_by_seed_and_purpose_and_neither_use_nor_move_the_global_one():
    before = torch.get_rng_state()
    keys = [(s, p) for s in (0, 1, 11, 2**32 - 1) for p in ("encoder", "batches/1", "batches/11", "batches/1/1")]
    numbers = {tuple(torch.rand(2, generator=run.generator(*key)).tolist()) for key in keys}
    assert len(numbers) == 16 and torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        assert {tuple(torch.rand(2, generator=run.generator(*key)).tolist()) for key in keys} == numbers


@pytest.mark.parametrize(
    ("kinds", "name", "expected"),
    [
        ("", "auto", "cpu"),
        ("mps", "auto", "mps"),
        ("cuda mps", "auto", "cuda"),
        ("cuda mps", "cpu", "cpu"),
        ("cuda mps", "mps", "mps"),
        ("", "cuda", "expected auto or cpu"),
        ("mps", "cuda", "expected auto or mps, cpu"),
    ],
)
def test_device_is_the_one_of_the_option_or_the_best_there_is(monkeypatch, kinds, name, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in kinds)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in kinds)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    if "expected" in expected:
        with pytest.raises(run.InputError, match=f"^--device: got {name}.*{expected}$"):
            run.device(name)
    else:
        assert run.device(name) == torch.device(expected) and torch.backends.cudnn.deterministic


def test_numbers_say_whose_they_are_unit_split_and_spread():
    metrics = {"l1": 0.25, "averaged_accuracy": [0.5, 0.7, 0.9], "slant_r2": 0.1, "kept": 2.0}
    l1, accuracy, r2, kept = run.numbers("PCA-12", metrics, "test", ("l1",))
    of = {"model": "PCA-12", "split": "test"}
    spread = {"mean": 0.25, "std": None, "n": 1, "values": [0.25], "headline": True}
    assert l1 == of | {"measure": "l1", "unit": "L1 per pixel, pixels in [0, 1]"} | spread
    assert (accuracy["n"], accuracy["values"], accuracy["headline"]) == (3, [0.5, 0.7, 0.9], False)
    assert (accuracy["mean"], accuracy["std"]) == (pytest.approx(0.7), pytest.approx(numpy.std([5, 7, 9], ddof=1) / 10))
    assert [entry["unit"] for entry in (accuracy, r2, kept)] == ["accuracy (fraction)", "R^2", "ratio"]


def test_finish_leaves_what_a_result_came_from_and_one_whole_folder(tmp_path):
    history, numbers = [{"epoch": 1, "test": {"l1": 0.5}}, {"epoch": 2}], run.numbers("Q", {"l1": 1 / 3}, "test")
    written = finished(tmp_path / "new", "small", (), history, numbers, seed=5, mode="slow", warm=False)
    folder, names = tmp_path / "new" / "small", ["metrics.jsonl", "model.safetensors", "summary.json"]
    assert [path.name for path in folder.parent.iterdir()] == ["small"]
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", *names]
    assert [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] == history
    summary = json.loads((folder / "summary.json").read_text())
    expected = {"question": inspect.getdoc(sys.modules[__name__]), "answer": ["answer"], "numbers": numbers}
    expected |= {"paired": [{"mean": 1.0}], "figures": {"loss.png": "title"}, "seconds": summary["seconds"]}
    assert summary == expected and 0 < summary["seconds"] < 600
    assert written == {
        "command": "python test_run.py --seed 5 --mode slow --no-warm",
        "options": {"dataset": "mnist", "data_dir": "data", "output_dir": str(tmp_path / "new"), "device": "cpu"}
        | {"seed": 5, "epochs": 3, "learning_rate": 0.5, "weight_decay": 0.0, "mode": "slow", "warm": False},
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "versions": results.versions(),
        "data_sha256": "data",
        "upstream_sha256": {},
        "code_sha256": results.code_sha256(Path(__file__)),
        "git_commit": results.git_commit(),
        "files_sha256": {name: results.sha256(folder / name) for name in names},
    }


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_number_that_is_no_json_is_refused_before_anything_is_swapped_in(number, tmp_path):
    before = finished(tmp_path, "small")
    with pytest.raises(ValueError, match="JSON"):
        finished(tmp_path, "small", history=[{"l1": number}])
    with pytest.raises(ValueError, match="JSON"):
        finished(tmp_path, "small", numbers=run.numbers("Q", {"l1": number}, "test"))
    assert results.read_config(tmp_path / "small") == before


def test_start_needs_whole_results_of_the_same_dataset_and_writes_down_which(tmp_path):
    outputs, first = tmp_path / "my outputs", tmp_path / "my outputs" / "q1_undo"
    remedy = f"make it with `python q1_autoencoder.py --undo --output-dir '{outputs}' --dataset mnist`"

    def refusal() -> str:
        with pytest.raises(run.InputError) as error:
            finished(outputs, "second", ("q1_undo",))
        return str(error.value)

    assert refusal() == f"no finished results in {first}: {remedy}"
    written = finished(outputs, "q1_undo")
    upstream = {"q1_undo": results.result_sha256(written)}
    assert finished(outputs, "second", ("q1_undo",))["upstream_sha256"] == upstream
    (first / "model.safetensors").write_text("other weights")
    assert refusal() == f"no finished results in {first}: {remedy}"
    finished(outputs, "q1_undo", dataset="kmnist")
    assert refusal() == f"the results in {first} are of kmnist, expected mnist: {remedy}"
    assert sorted(path.name for path in outputs.iterdir()) == ["q1_undo", "second"]


def test_start_refuses_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "small").write_text("a file")
    for output_dir in (tmp_path, tmp_path / "small", Path("/proc/outputs")):
        with pytest.raises(run.InputError, match=r"^cannot write to .*small .*: give another --output-dir$"):
            run.start(SmallConfig(output_dir=output_dir, device="cpu"), "small")
    assert (tmp_path / "small").read_text() == "a file" and len(list(tmp_path.iterdir())) == 1

"""Tests of common/run.py; this sentence is the question of the small script below."""

import ast
import dataclasses
import errno
import functools
import importlib
import inspect
import itertools
import json
import math
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy
import pytest
import scipy
import sklearn
import torch
import torchvision

from common import results, run
from tests import synthetic

ROOT = Path(__file__).resolve().parents[1]
MODULES = [importlib.import_module(name) for name in (*synthetic.SCRIPTS, "reproduce")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallConfig(run.Options):
    epochs: int = 3
    learning_rate: float = 0.5
    weight_decay: float = 0.0
    mode: Literal["fast", "slow"] = "fast"
    warm: bool = True


def ended(capsys, main, *arguments: str, config_class=SmallConfig) -> tuple[int, str, str]:
    """Return exit code, the one line on stderr and stdout of a command line that ends early."""
    with pytest.raises(SystemExit) as stop:
        run.command_line(main, config_class, list(arguments))
    printed = capsys.readouterr()
    assert stop.value.code == 0 or (printed.err.startswith("error: ") and printed.err.count("\n") == 1), arguments
    return stop.value.code, printed.err.strip(), printed.out


def not_reached(config):
    raise AssertionError("main ran")


def finished(output_dir: Path, name: str, needs=(), history=(), numbers=(), **options) -> dict:
    """Run a step that leaves weights and nothing else of weight, and return what config.json then says."""
    step = run.start(SmallConfig(output_dir=output_dir, device="cpu", **options), name, needs)
    (step.folder / "model.safetensors").write_text(f"weights of {options}")
    texts = {"answer": ["answer"], "figures": {"loss.png": "title"}, "paired": [{"mean": 1.0}]}
    summary = step.finish("data", list(history), numbers=list(numbers), **texts)
    assert json.loads((output_dir / name / "summary.json").read_text()) == summary
    return results.read_config(output_dir / name)


def test_main_gets_the_defaults_or_what_the_command_line_says(capsys):
    configs = []
    run.command_line(configs.append, SmallConfig, [])
    line = "--dataset qmnist --data-dir a --output-dir b/c --device cpu --seed 4294967295 --epochs 1 --no-warm"
    line += " --learning-rate 1e-9 --weight-decay 0 --mode=slow"
    run.command_line(configs.append, SmallConfig, line.split())
    values = {"dataset": "qmnist", "data_dir": Path("a"), "output_dir": Path("b/c"), "device": "cpu", "seed": 2**32 - 1}
    values |= {"epochs": 1, "learning_rate": 1e-9, "weight_decay": 0.0, "mode": "slow", "warm": False}
    assert configs == [SmallConfig(), SmallConfig(**values)]
    assert (configs[0].data_dir, configs[0].output_dir) == (ROOT / "data", ROOT / "outputs")  # wherever it is started
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--seed -1", "--seed: got -1, expected 0 to 4294967295"),
        ("--dataset cifar10", "--dataset'. Expected one of ('mnist', 'fashion-mnist', 'kmnist', 'qmnist')"),
        ("--epochs 0", "--epochs: got 0, expected 1 to 1000000000"),
        (f"--epochs {'9' * 400}", "--epochs: got 99"),  # too large for a float
        ("--learning-rate 0", "--learning-rate: got 0.0, expected 1e-09 or more"),
        ("--weight-decay nan", "--weight-decay: got nan, expected 0 or more"),
    ],
)
def test_a_bad_option_is_one_line_that_says_what_is_expected(arguments, message, capsys):
    code, line, out = ended(capsys, not_reached, *arguments.split())
    assert (code, out) == (2, "") and message in line and not set(line) & set("│╭╮╰╯─")


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
        code, line, out = ended(capsys, not_reached, *arguments, config_class=module.Config)
        assert (code, out) == (2, "") and option.removesuffix("s") in line, (arguments, line)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_help_is_the_docstring_and_describes_every_option(module, capsys):
    code, line, out = ended(capsys, module.main, "--help", config_class=module.Config)
    text = "".join(out.replace("│", "").split())
    assert (code, line) == (0, "") and "".join(module.__doc__.splitlines()[0].split()) in text
    hidden = {"seed"} if module.__name__ == "reproduce" else set()  # it has --seeds
    for config_class in module.Config.__mro__[:-1]:
        body = ast.parse(textwrap.dedent(inspect.getsource(config_class))).body[0].body
        for field, description in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and field.target.id not in hidden:
                words = description.value.value.split()
                assert len(words) >= 3 and "".join(words) + "(default:" in text, field.target.id


@pytest.fixture
def begun(tmp_path):
    """Return a function that makes a main that raises an error in the middle of its run; see that nothing is left."""

    def raising(error: BaseException):
        def main(config):
            (run.start(config, "small").folder / "model.safetensors").write_text("half")
            raise error

        return main

    raising.outputs, before = tmp_path, finished(tmp_path, "small")
    yield raising
    assert list(tmp_path.iterdir()) == [tmp_path / "small"] and results.read_config(tmp_path / "small") == before


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (run.InputError("got 3,\n  expected 4:\nuse 4"), 2, "error: got 3, expected 4: use 4"),
        (run.RunError("collapsed:\ntry again"), 1, "error: collapsed: try again"),
        (OSError(errno.ENOSPC, "No space left", "/x"), 2, "error: cannot write /x (No space left)"),
        (OSError(errno.EFBIG, "File too large"), 2, "error: cannot write the results (File too large)"),
        (MemoryError(), 1, "error: out of memory"),
        (torch.OutOfMemoryError("CUDA"), 1, "error: out of memory"),
    ],
)
def test_a_users_mistake_a_failed_run_and_a_full_disk_are_one_line(error, code, line, begun, capsys):
    printed = ended(capsys, begun(error), "--output-dir", str(begun.outputs))
    assert printed[::2] == (code, "") and printed[1].startswith(line)


BUGS = [ValueError("x"), KeyError("x"), RuntimeError("x"), AssertionError("x"), FileNotFoundError(errno.ENOENT, "x")]


@pytest.mark.parametrize("error", BUGS, ids=lambda error: type(error).__name__)
def test_any_other_exception_keeps_its_traceback(error, begun):
    with pytest.raises(type(error)) as raised:
        run.command_line(begun(error), SmallConfig, ["--output-dir", str(begun.outputs)])
    assert raised.value is error


def test_a_script_as_a_process_works_from_any_folder_without_screen_and_locale(tmp_path):
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    environment |= {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    command = [sys.executable, ROOT / "q1_autoencoder.py", "--epochz", "3"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    line = "error: Unrecognized options: --epochz, 3; --help lists the options\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


def test_generator_keeps_its_stored_values():
    # halves of the first 8 bytes of `printf encoder/0 | sha256sum`: a signed number holds no more
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
        assert tuple(torch.rand(2, generator=run.generator(*keys[-1])).tolist()) in numbers


@pytest.mark.parametrize("kinds", [(), ("mps",), ("cuda", "mps")])
def test_device_is_the_one_of_the_option_or_the_best_there_is(monkeypatch, kinds):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in kinds)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in kinds)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    usable = (*kinds, "cpu")
    assert run.device("auto") == torch.device(usable[0]) and torch.backends.cudnn.deterministic
    for name in ("cuda", "mps", "cpu"):
        if name in usable:
            assert run.device(name) == torch.device(name)
        else:
            with pytest.raises(run.InputError, match=f"^--device: got {name}.*; expected auto or {', '.join(usable)}$"):
                run.device(name)


def test_a_number_too_small_for_a_fast_product_is_zero_in_every_thread():
    supported = torch.set_flush_denormal(False)
    try:
        smallest = torch.full((1_000,), 2e-38)
        assert (smallest / 4).any()
        run.device("cpu")
        with ThreadPoolExecutor(1) as pool:
            quarters = [smallest / 4, pool.submit(lambda: smallest / 4).result()]
        assert not supported or not torch.stack(quarters).any()
    finally:
        torch.set_flush_denormal(False)


def test_numbers_say_whose_they_are_unit_split_and_spread():
    metrics = {"l1": 0.25, "averaged_accuracy": [0.5, 0.7, 0.9], "slant_r2": 0.1, "kept": 2.0}
    l1, accuracy, r2, kept = run.numbers("PCA-12", metrics, "test", ("l1",))
    expected = {"model": "PCA-12", "measure": "l1", "split": "test", "unit": "L1 per pixel, pixels in [0, 1]"}
    assert l1 == expected | {"mean": 0.25, "std": None, "n": 1, "values": [0.25], "headline": True}
    assert (accuracy["n"], accuracy["values"], accuracy["headline"]) == (3, [0.5, 0.7, 0.9], False)
    assert (accuracy["mean"], accuracy["std"]) == (pytest.approx(0.7), pytest.approx(numpy.std([5, 7, 9], ddof=1) / 10))
    assert [entry["unit"] for entry in (accuracy, r2, kept)] == ["accuracy (fraction)", "R²", "ratio"]


def test_finish_leaves_what_a_result_came_from_and_one_whole_folder_and_says_where(tmp_path, capsys):
    history, numbers = [{"epoch": 1, "test": {"l1": 0.5}}, {"epoch": 2}], run.numbers("Q", {"l1": 1 / 3}, "test")
    written = finished(tmp_path / "new", "small", (), history, numbers, seed=5, mode="slow", warm=False)
    folder, names = tmp_path / "new" / "small", ["metrics.jsonl", "model.safetensors", "summary.json"]
    assert list(folder.parent.iterdir()) == [folder]
    assert capsys.readouterr().out == f"answer\nfigures and numbers: {folder}\n"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", *names]
    assert list(map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())) == history
    summary = json.loads((folder / "summary.json").read_text())
    expected = {"question": inspect.getdoc(sys.modules[__name__]), "answer": ["answer"], "numbers": numbers}
    expected |= {"paired": [{"mean": 1.0}], "figures": {"loss.png": "title"}, "seconds": summary["seconds"]}
    assert summary == expected and 0 < summary["seconds"] < 600
    options = {"dataset": "mnist", "device": "cpu", "seed": 5}
    options |= {"epochs": 3, "learning_rate": 0.5, "weight_decay": 0.0, "mode": "slow", "warm": False}
    expected = {"command": "python test_run.py --seed 5 --mode slow --no-warm", "options": options, "device": "cpu"}
    expected |= {"threads": torch.get_num_threads(), "data_sha256": "data", "upstream_sha256": {}}
    expected |= {"code_sha256": results.code_sha256(Path(__file__)), "git_commit": results.git_commit()}
    expected["numbers_sha256"] = results.numbers_sha256()
    expected |= {"files_sha256": {name: results.sha256(folder / name) for name in names}}
    versions = {name: version.split("+")[0] for name, version in written.pop("versions").items()}
    assert written == expected
    modules = {"torch": torch, "torchvision": torchvision, "numpy": numpy, "scikit-learn": sklearn, "scipy": scipy}
    expected = {name: module.__version__.split("+")[0] for name, module in modules.items()}
    assert versions == expected | {"python": sys.version.split()[0]}


def test_a_number_that_is_no_json_is_refused_before_anything_is_swapped_in(tmp_path):
    before = finished(tmp_path, "small")
    for content in ({"history": [{"l1": math.nan}]}, {"numbers": run.numbers("Q", {"l1": math.inf}, "test")}):
        with pytest.raises(ValueError, match="JSON"):
            finished(tmp_path, "small", **content)
    assert results.read_config(tmp_path / "small") == before


def test_start_needs_whole_results_of_the_same_dataset_and_writes_down_which(tmp_path):
    outputs, first = tmp_path / "my outputs", tmp_path / "my outputs" / "q1_undo"
    remedy = f"make it with `python q1_autoencoder.py --undo --dataset mnist --output-dir '{outputs}'`"
    step = functools.partial(finished, outputs, "second", ("q1_undo",))
    for expected in (f"{first}: got no finished results, expected mnist: ", f"{first}: got kmnist, expected mnist: "):
        with pytest.raises(run.InputError) as error:
            step()
        assert str(error.value) == expected + remedy
        finished(outputs, "q1_undo", dataset="kmnist")
    written = finished(outputs, "q1_undo")
    assert step()["upstream_sha256"] == {"q1_undo": results.result_sha256(written)}
    (first / "model.safetensors").write_text("other weights")
    with pytest.raises(run.InputError, match="got no finished results"):
        step()
    assert sorted(path.name for path in outputs.iterdir()) == ["q1_undo", "second"]


def test_start_refuses_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "small").write_text("a file")
    for output_dir in (tmp_path, tmp_path / "small", Path("/proc/outputs")):
        with pytest.raises(run.InputError, match=r"^cannot write to .*small .*: give another --output-dir$"):
            run.start(SmallConfig(output_dir=output_dir, device="cpu"), "small")
    assert (tmp_path / "small").read_text() == "a file" and len(list(tmp_path.iterdir())) == 1

"""Tests of common/run.py; this sentence is the help text of the small scripts below."""

import dataclasses
import hashlib
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy
import pytest
import scipy
import sklearn
import torch
import torchvision

import q1_autoencoder
from common import run

ROOT = Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallConfig(run.Options):
    step_count: int = 3
    """How many steps, at least two."""
    peak_rate: float = 0.5
    """Rate above zero."""
    decay: float = 0.0
    """Rate of zero or more."""
    mode: Literal["fast", "slow"] = "fast"
    """Which of two modes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        run.require(self, "step_count", least=2, most=9)
        run.require(self, "decay", least=0)
        run.require(self, "peak_rate", least=1e-30)


def parsed(*arguments: str, config_class=SmallConfig):
    module = __name__ if config_class is SmallConfig else config_class.__module__
    return run.parse(config_class, module, list(arguments))


def refusal(*arguments: str, config_class=SmallConfig) -> str:
    with pytest.raises(ValueError) as error:
        parsed(*arguments, config_class=config_class)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert not set(message) & set("│╭╮╰╯─")
    return message


def help_text(capsys, config_class=SmallConfig) -> str:
    with pytest.raises(SystemExit) as stop:
        parsed("--help", config_class=config_class)
    assert stop.value.code == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return " ".join(printed.out.replace("│", " ").split())


def test_parse_without_arguments_gives_the_defaults():
    assert parsed() == SmallConfig()
    config = parsed(config_class=q1_autoencoder.Config)
    assert type(config) is q1_autoencoder.Config
    assert (config.dataset, config.device, config.seed, config.latent_dim) == ("mnist", "auto", 0, 12)


def test_every_option_takes_its_value_from_the_command_line():
    arguments = (
        "--dataset qmnist --data-dir a --output-dir b/c --device cpu --resume --seed 9 --step-count 4 --peak-rate 1e-3"
    )
    assert parsed(*arguments.split(), "--decay", "0.25", "--mode=slow") == SmallConfig(
        dataset="qmnist",
        data_dir=Path("a"),
        output_dir=Path("b/c"),
        device="cpu",
        seed=9,
        resume=True,
        step_count=4,
        peak_rate=0.001,
        decay=0.25,
        mode="slow",
    )


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("--nonsense 3", ["--nonsense"]),
        ("--step-counts 3", ["--step-counts"]),
        ("--seed one", ["--seed", "'one'"]),
        ("--seed 1.5", ["--seed", "'1.5'"]),
        ("--seed -1", ["--seed", "got -1"]),
        ("--seed 4294967296", ["--seed", "got 4294967296"]),  # scikit-learn takes 32 bits
        (f"--seed {'9' * 400}", ["--seed"]),  # too large for a float
        ("--dataset cifar10", ["--dataset", "'cifar10'", "mnist", "fashion-mnist", "kmnist", "qmnist"]),
        ("--device tpu", ["--device", "'tpu'", "cpu", "cuda"]),
        ("--mode medium", ["--mode", "'medium'", "fast", "slow"]),
        ("--step-count 1", ["--step-count", "got 1", "expected 2 to 9"]),
        ("--step-count", ["--step-count"]),
        ("--step-count 10", ["--step-count", "got 10", "expected 2 to 9"]),
        ("--peak-rate 0", ["--peak-rate", "got 0", "expected 1e-30 or more"]),
        ("--peak-rate -0.5", ["--peak-rate", "got -0.5", "expected 1e-30 or more"]),
        ("--peak-rate nan", ["--peak-rate", "got nan"]),
        ("--peak-rate inf", ["--peak-rate", "got inf"]),
        ("--decay -1e-9", ["--decay", "got -1e-09", "expected 0 or more"]),
        ("--decay nan", ["--decay", "got nan"]),
        ("--decay inf", ["--decay", "got inf"]),
    ],
)
def test_a_bad_option_is_one_line_that_names_it(arguments, parts):
    message = refusal(*arguments.split())
    for part in parts:
        assert part in message


def test_the_least_and_the_largest_allowed_values_are_allowed():
    least = parsed("--decay=0", "--seed=0", "--step-count=2", "--peak-rate=1e-30")
    assert (least.decay, least.seed, least.step_count, least.peak_rate) == (0, 0, 2, 1e-30)
    assert parsed("--seed", "4294967295").seed == 2**32 - 1


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ("--epochs 0", "--epochs"),
        ("--epochs -3", "--epochs"),
        ("--batch-size 0", "--batch-size"),
        ("--latent-dim 0", "--latent-dim"),
        ("--learning-rate -0.1", "--learning-rate"),
        ("--learning-rate 0", "--learning-rate"),
        ("--learning-rate nan", "--learning-rate"),
        ("--weight-decay -1", "--weight-decay"),
        ("--loss l2", "--loss"),
        ("--seed -1", "--seed"),
        ("--latents 12", "--latents"),
    ],
)
def test_q1_refuses_impossible_options_by_name(arguments, option):
    assert option in refusal(*arguments.split(), config_class=q1_autoencoder.Config)


def test_help_shows_the_docstring_and_describes_every_option(capsys):
    text = help_text(capsys)
    assert "this sentence is the help text of the small scripts below" in text
    described = {
        "--dataset": "Which images",
        "--data-dir": "Folder of the raw data files",
        "--output-dir": "Folder of the results",
        "--device": "Where to compute",
        "--seed": "Seed of every random choice",
        "--step-count": "How many steps, at least two. (default: 3)",
        "--peak-rate": "Rate above zero. (default: 0.5)",
        "--decay": "Rate of zero or more. (default: 0.0)",
        "--mode": "Which of two modes. (default: fast)",
    }
    for option, description in described.items():
        assert re.search(rf"{option} [^ ]+ {re.escape(description)}", text), option


def test_help_of_q1_describes_every_option(capsys):
    text = help_text(capsys, q1_autoencoder.Config)
    assert text.count("Q1: what does an encoder keep") == 1
    text = text.split("-h, --help")[1]
    for field in dataclasses.fields(q1_autoencoder.Config):
        option = f"--{field.name.replace('_', '-')}"
        description = re.search(rf"{option}(?:, --no-[^ ]+|) [^ ]+ (.*?) \(default: ", text)
        assert description, option
        assert len(description[1].split()) >= 4, option
        assert "--" not in description[1], option  # or it is the next option's


def ended(capsys, main, *arguments: str, config_class=SmallConfig) -> tuple[int, list[str], str]:
    """Return exit code, lines on stderr and stdout of a command line that ends early."""
    with pytest.raises(SystemExit) as stop:
        run.command_line(main, config_class, list(arguments))
    printed = capsys.readouterr()
    return stop.value.code, printed.err.splitlines(), printed.out


def raising(error: BaseException):
    def main(config):
        raise error

    return main


def test_command_line_hands_the_parsed_options_to_main(capsys):
    calls = []

    def main(config):
        calls.append(config)
        return {"a": "summary"}

    assert run.command_line(main, SmallConfig, ["--seed", "4"]) is None
    assert calls == [SmallConfig(seed=4)]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("got 3,\n  expected 4:\nuse 4"), 2, "error: got 3, expected 4: use 4"),
        (FileNotFoundError("no checkpoint at x"), 2, "error: no checkpoint at x"),
        (OSError(28, "No space left on device", "/x"), 2, "error: [Errno 28] No space left on device: '/x'"),
        (run.RunError("collapsed:\ntry again"), 1, "error: collapsed: try again"),
    ],
)
def test_command_line_ends_with_one_line_and_the_code(capsys, error, code, line):
    assert ended(capsys, raising(error)) == (code, [line], "")


def test_command_line_refuses_bad_options_before_main_starts(capsys):
    code, lines, out = ended(capsys, raising(AssertionError("main ran")), "--step-count", "1")
    assert (code, out) == (2, "")
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert "--step-count" in lines[0]
    code, lines, out = ended(capsys, raising(AssertionError("main ran")), "--nonsense")
    assert (code, out) == (2, "")
    assert len(lines) == 1
    assert "--nonsense" in lines[0]


def test_command_line_help_ends_with_zero(capsys):
    code, lines, out = ended(capsys, raising(AssertionError("main ran")), "--help")
    assert (code, lines) == (0, [])
    assert "--peak-rate" in out


def test_command_line_ends_an_interrupted_run_without_traceback(capsys):
    code, lines, _ = ended(capsys, raising(KeyboardInterrupt()))
    assert code == 130
    assert len(lines) == 1


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("x"), AssertionError("x")])
def test_command_line_does_not_hide_mistakes_of_the_code(error):
    with pytest.raises(type(error)):
        run.command_line(raising(error), SmallConfig, [])


def test_a_script_as_a_process_ends_with_code_two_and_one_line_from_any_folder(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "q1_autoencoder.py", "--epochs", "0"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "--epochs" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_default_folders_do_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for options in (run.Options(), parsed(config_class=q1_autoencoder.Config)):
        assert options.data_dir.is_absolute()
        assert options.data_dir == ROOT / "data"
        assert options.output_dir.is_absolute()
        assert options.output_dir == ROOT / "outputs"
    imported_here = runpy.run_path(run.__file__)["Options"]()
    assert imported_here.data_dir == ROOT / "data"
    assert imported_here.output_dir == ROOT / "outputs"


def test_generator_keeps_its_stored_values():
    # The first 8 bytes of `printf encoder/0 | sha256sum` are bfb7cbb82a126463, of batches/3/7 5880e448c077a1ba;
    # halved, so that they fit a signed number.
    assert run.generator(0, "encoder").initial_seed() == 0xBFB7CBB82A126463 // 2
    assert run.generator(7, "batches/3").initial_seed() == 0x5880E448C077A1BA // 2
    assert torch.randint(1_000, (4,), generator=run.generator(0, "encoder")).tolist() == [208, 559, 875, 83]


def test_generators_differ_by_seed_and_by_purpose():
    drawn = {
        tuple(torch.rand(2, generator=run.generator(seed, purpose)).tolist())
        for seed in (0, 1, 2, 11, 2**32 - 1)
        for purpose in ("encoder", "decoder", "batches/1", "batches/11", "batches/1/1")
    }
    assert len(drawn) == 25


def test_generator_neither_uses_nor_moves_the_global_one():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = torch.rand(3, generator=run.generator(3, "encoder"))
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert torch.equal(torch.rand(3, generator=run.generator(3, "encoder")), first)


def machine_with(monkeypatch, *kinds: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in kinds)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in kinds)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)


@pytest.mark.parametrize(
    ("kinds", "asked", "expected"),
    [
        ((), "auto", "cpu"),
        (("cuda",), "auto", "cuda"),
        (("mps",), "auto", "mps"),
        (("cuda", "mps"), "auto", "cuda"),
        (("cuda", "mps"), "cpu", "cpu"),
        (("cuda", "mps"), "mps", "mps"),
    ],
)
def test_device_takes_what_is_asked_and_what_is_there(monkeypatch, kinds, asked, expected):
    machine_with(monkeypatch, *kinds)
    assert run.device(run.Options(device=asked)) == torch.device(expected)
    assert torch.backends.cudnn.deterministic


@pytest.mark.parametrize(
    ("kinds", "asked", "usable"), [((), "cuda", "cpu"), ((), "mps", "cpu"), (("mps",), "cuda", "mps, cpu")]
)
def test_a_device_that_is_not_there_is_one_line_with_what_is(monkeypatch, kinds, asked, usable):
    machine_with(monkeypatch, *kinds)
    with pytest.raises(ValueError) as error:
        run.device(run.Options(device=asked))
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"--device: got {asked}")
    assert message.endswith(f"expected auto or {usable}")


def started(output_dir: Path, script: str = "q1_autoencoder.py", **changes) -> Path:
    options = run.Options(output_dir=output_dir, device="cpu", **changes)
    return run.start(options, script, run.provenance(options, script, torch.device("cpu"), "fingerprint", {}))


def test_start_makes_a_folder_with_the_name_of_the_script_and_keeps_what_is_complete(tmp_path):
    expected = tmp_path / "new" / "outputs" / "q1_autoencoder"
    assert started(tmp_path / "new" / "outputs", "/somewhere/q1_autoencoder.py") == expected
    for name in ("kept.txt", "a_snapshot.pt", ".tmp-3-model.pt"):
        (expected / name).write_text("text")
    assert started(tmp_path / "new" / "outputs") == expected
    assert {path.name for path in expected.iterdir()} == {".lock", "kept.txt", run.UNFINISHED}


def test_start_keeps_snapshots_only_for_a_run_that_resumes_with_the_same_settings(tmp_path):
    folder = started(tmp_path)
    (folder / "a_snapshot.pt").write_text("state")
    with pytest.raises(ValueError, match="seed 0 then, 4 now"):
        started(tmp_path, seed=4, resume=True)
    started(tmp_path, resume=True, data_dir=Path("elsewhere"))
    assert (folder / "a_snapshot.pt").exists()
    started(tmp_path)
    assert not (folder / "a_snapshot.pt").exists()
    (folder / run.UNFINISHED).write_text("{}")
    with pytest.raises(ValueError, match="damaged: leave out --resume"):
        started(tmp_path, resume=True)


def test_start_refuses_a_file_in_the_way(tmp_path):
    (tmp_path / "q1_autoencoder").write_text("a file")
    with pytest.raises(OSError, match=r"q1_autoencoder.*--output-dir"):
        started(tmp_path)
    with pytest.raises(OSError, match=r"q1_autoencoder.*--output-dir"):
        started(tmp_path / "q1_autoencoder", "q2_classifier.py")


def test_write_replaces_the_file_only_when_the_new_one_is_complete(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    path.write_text("old")
    replace = os.replace

    def seen(beside, target):
        assert Path(beside).parent == tmp_path  # so that renaming never copies
        assert Path(beside).read_text() == "new" and path.read_text() == "old"
        replace(beside, target)

    monkeypatch.setattr(os, "replace", seen)
    run.write(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "disk full"), KeyboardInterrupt()])
def test_write_leaves_the_old_file_and_nothing_beside_on_an_error(tmp_path, error, monkeypatch):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def failing(*_):
        raise error

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(type(error)) as raised:
        run.write(path, b"new")
    assert isinstance(error, KeyboardInterrupt) or "file.txt (disk full)" in str(raised.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_encodes_text_as_utf_8(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("something longer than what follows")
    run.write(path, "0.91 ± 0.02\n")
    assert path.read_bytes() == b"0.91 \xc2\xb1 0.02\n"
    assert list(tmp_path.iterdir()) == [path]


def test_quoted_gives_each_number_its_unit_split_and_count():
    assert run.quoted({"l1": 0.25, "accuracy": 0.5}, "test", "pca_12") == {
        "pca_12/test/l1": {
            "mean": 0.25,
            "std": None,
            "n": 1,
            "unit": "L1 per pixel, pixels in [0, 1]",
            "split": "test",
        },
        "pca_12/test/accuracy": {"mean": 0.5, "std": None, "n": 1, "unit": "accuracy (fraction)", "split": "test"},
    }
    assert list(run.quoted({"mse": 0.1}, "validation")) == ["validation/mse"]


def test_provenance_holds_what_a_result_depends_on():
    options = SmallConfig(seed=5, data_dir=Path("/data"), output_dir=Path("/out"), device="cpu")
    upstream = {Path("/out/q1/model.pt"): "abc"}
    written = run.provenance(options, "q2_classifier.py", torch.device("cpu"), "fingerprint", upstream)
    assert json.loads(json.dumps(written)) == {
        "options": {
            "dataset": "mnist",
            "data_dir": "/data",
            "output_dir": "/out",
            "device": "cpu",
            "seed": 5,
            "resume": False,
            "step_count": 3,
            "peak_rate": 0.5,
            "decay": 0.0,
            "mode": "fast",
        },
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "versions": {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "numpy": numpy.__version__,
            "scikit-learn": sklearn.__version__,
            "scipy": scipy.__version__,
        },
        "data_sha256": "fingerprint",
        "upstream_sha256": {"q1": "abc"},
        "source_sha256": run.source_sha256("q2_classifier.py"),
        "git_commit": run.git_commit(),
    }


def test_provenance_names_no_path_of_the_machine_inside_the_repository():
    options = run.Options(output_dir=Path("/elsewhere"))
    written = run.provenance(options, "q1_autoencoder.py", torch.device("cpu"), "fingerprint", {})["options"]
    assert (written["data_dir"], written["output_dir"]) == ("data", "/elsewhere")


@pytest.fixture
def git(tmp_path, monkeypatch):
    """Make run.REPOSITORY a folder of its own, and return a function that runs git there."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where a git hook runs the tests
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setattr(run, "REPOSITORY", tmp_path)

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    return git


def test_git_commit_is_the_full_hash_and_says_when_files_differ(git, tmp_path):
    git("init", "--quiet")
    (tmp_path / "file.txt").write_text("one")
    git("add", "file.txt")
    git("commit", "--quiet", "-m", "first")
    git("tag", "-a", "v1", "-m", "a tag must not replace the hash")
    commit = git("rev-parse", "HEAD")
    assert re.fullmatch("[0-9a-f]{40}", commit)
    assert run.git_commit() == commit
    (tmp_path / "file.txt").write_text("two")
    assert run.git_commit() == f"{commit}-dirty"


def test_git_commit_is_none_outside_git_and_without_git(git, monkeypatch):
    assert run.git_commit() is None
    monkeypatch.setenv("PATH", "/nowhere")
    assert run.git_commit() is None


def strict_json(text: str):
    """Parse JSON as other languages do: NaN and Infinity are no JSON."""

    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_finish_writes_json_and_drops_what_is_unfinished(tmp_path):
    provenance = run.provenance(run.Options(seed=1), "q1_autoencoder.py", torch.device("cpu"), "fingerprint", {})
    history = [{"epoch": 1, "test": {"l1": 0.5}}, {"epoch": 2, "test": {"l1": 0.25}}]
    summary = {"metrics": {"test/l1": {"mean": 1 / 3, "std": None}}, "text": "line\nbreak"}
    for name in ("model.pt", "snapshot.pt", run.UNFINISHED):
        (tmp_path / name).write_text("state")
    run.finish(tmp_path, provenance, history, summary)
    config = strict_json((tmp_path / "config.json").read_text())
    assert set(config.pop("files_sha256")) == {"metrics.jsonl", "model.pt", "summary.json"}
    assert config == provenance == run.complete(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [strict_json(line) for line in lines] == history
    assert strict_json((tmp_path / "summary.json").read_text()) == summary
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "summary.json",
        "model.pt",
    }
    (tmp_path / "model.pt").write_text("other weights")
    assert run.complete(tmp_path) is None
    for name in ("config.json", "metrics.jsonl", "summary.json"):
        assert (tmp_path / name).read_text().endswith("}\n")


@pytest.mark.parametrize(
    ("history", "summary"),
    [([{"l1": 0.5}], {"l1": float("nan")}), ([{"l1": float("inf")}], {"l1": 0.5})],
    ids=["summary", "history"],
)
def test_finish_refuses_numbers_that_are_no_json_before_it_writes_anything(tmp_path, history, summary):
    with pytest.raises(ValueError):
        run.finish(tmp_path, {}, history, summary)
    assert list(tmp_path.iterdir()) == []


def test_the_source_digest_covers_the_script_and_common_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "REPOSITORY", tmp_path)
    (tmp_path / "common").mkdir()
    for name in ("q1.py", "q2.py", "common/a.py", "notes.txt"):
        (tmp_path / name).write_text("x = 1")
    found = run.source_sha256("q1.py")
    assert set(found) == {"q1.py", "common/a.py"}
    (tmp_path / "common/a.py").write_text("x = 2")
    assert run.source_sha256("q1.py") == found | {"common/a.py": hashlib.sha256(b"x = 2").hexdigest()}

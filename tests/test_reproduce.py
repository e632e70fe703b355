"""Tests of reproduce.py: what runs, what is skipped, where it stops, with scripts that stop once they have begun."""

import functools
import importlib
import json
import types
from pathlib import Path

import pytest

import reproduce
from common import data, report, results, run

ALL = [step.folder for step in reproduce.STEPS]


class Pretended:
    """Scripts whose main leaves finished results where it would begin, with their real options, needs and code."""

    def __init__(self, tmp_path, monkeypatch):
        self.outputs, self.patch = tmp_path / "outputs", monkeypatch
        self.ran, self.failing, self.bits, self.fingerprint, self.start = [], {}, "", "data", run.start
        monkeypatch.setattr(run, "start", self.finish)
        monkeypatch.setattr(reproduce.subprocess, "Popen", self.run)
        monkeypatch.setattr(results, "git_commit", lambda: None)
        monkeypatch.setattr(results, "code_sha256", functools.cache(results.code_sha256))
        monkeypatch.setattr(data, "load", lambda dataset, _: types.SimpleNamespace(fingerprint=self.fingerprint))
        monkeypatch.setattr(report, "write", lambda folder: folder / "report.html")

    def finish(self, config, name, needs=()):
        assert needs == next((step.needs for step in reproduce.STEPS if step.folder == name), ())
        step = self.start(config, name, needs)
        (step.folder / "model.safetensors").write_text(f"{self.bits} of {config.seed}")
        step.finish(self.fingerprint, [], answer=["answer"], numbers=[], figures={})
        raise EOFError(name)  # enough of the script

    def run(self, line, **_):
        name = Path(line[1]).stem
        module = importlib.import_module(name)
        config = run.parse(module.Config, "", line[2:])
        if not (code := self.failing.get(name, 0)):
            with pytest.raises(EOFError) as stop:
                module.main(config)
            name = str(stop.value)
        self.ran.append(name if config.seed == 0 else (name, config.seed))
        return types.SimpleNamespace(returncode=code, communicate=lambda: ("answer\nfigures\n", None))

    def __call__(self, **changes):
        self.ran.clear()
        reproduce.main(reproduce.Config(output_dir=self.outputs, device="cpu", **changes))
        return self.ran


@pytest.fixture
def go(tmp_path, monkeypatch):
    return Pretended(tmp_path, monkeypatch)


def test_runs_everything_in_order_then_nothing_then_everything_if_forced(go, capsys):
    assert go() == ALL == list(report.STEPS)
    assert "[7/7] q5_transfer, seed 0: running" in capsys.readouterr().out
    assert go() == [] and capsys.readouterr().out.count("finished and unchanged") == 7
    assert go(force=True) == ALL
    assert go(seeds=(0, 2)) == [(name, 2) for name in ALL]
    assert sorted(path.name for path in (go.outputs / "seed2").iterdir()) == ALL


@pytest.mark.parametrize("bits", ["", "other"])
def test_what_changed_runs_again_and_what_is_built_on_it_if_its_bits_are_others(go, bits):
    go()
    go.bits = bits
    (go.outputs / "q2_classifier" / "model.safetensors").write_text("damaged")
    assert go() == (["q2_classifier", "q3_frozen_decoder"] if bits else ["q2_classifier"])
    code = results.code_sha256
    go.patch.setattr(results, "code_sha256", lambda path: code(path) + ("edited" if "q4" in path.name else ""))
    assert go() == (["q4_few_shot", "q5_transfer"] if bits else ["q4_few_shot"])
    options = ["--output-dir", str(go.outputs), "--device", "cpu", "--epochs", "9"]
    go.run(["python", str(results.REPOSITORY / "q3_frozen_decoder.py"), *options])  # by hand
    assert go() == ["q3_frozen_decoder"]
    path = go.outputs / "q1_undo" / "config.json"  # of an earlier version of this repository
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "command"}))
    assert go() == (["q1_undo", "q5_transfer"] if bits else ["q1_undo"])


def test_other_versions_and_other_data_run_everything_again(go):
    go()
    go.patch.setattr(results, "versions", lambda: {"torch": "0.1"})
    assert go() == ALL
    go.fingerprint = "other"
    assert go() == ALL
    assert go(dataset="kmnist") == ALL and go(dataset="kmnist") == []


def test_stops_at_the_first_failure_with_its_code_and_goes_on_there(go):
    go.failing = {"q3_frozen_decoder": 2}
    with pytest.raises(SystemExit, match=r"^2$"):
        go()
    assert go.ran == ALL[:5]
    go.failing = {"q3_frozen_decoder": -9}
    with pytest.raises(run.RunError, match="q3_frozen_decoder was killed by signal 9; the same command runs it again"):
        go()
    go.failing = {}
    assert go() == ALL[4:]


def test_check_compares_with_the_published_run_and_fails_if_it_differs(go, capsys):
    go.patch.setattr(reproduce.check, "compare", lambda outputs, reference: ("a table", True))
    go(check=True)
    assert capsys.readouterr().out.endswith("a table\n")
    go.patch.setattr(reproduce.check, "compare", lambda outputs, reference: ("a table", False))
    with pytest.raises(run.RunError, match="not every number was reproduced"):
        go(check=True)


def test_impossible_seeds_and_a_comparison_of_other_data_are_refused():
    refused = [({"seeds": seeds}, "expected different ones with 0") for seeds in ((), (0, 0), (1, 2))]
    refused += [({"seeds": (0, -1)}, "--seed: got -1"), ({"check": True, "dataset": "kmnist"}, "got --dataset kmnist")]
    for options, part in refused:
        with pytest.raises(run.InputError, match=part):
            reproduce.Config(**options)

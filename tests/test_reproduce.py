"""Tests of reproduce.py: what runs when, what is skipped, what a failure leaves, with scripts that only begin."""

import functools
import importlib
import json
import re
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import pytest

import reproduce
from common import report, results, run
from common.engines import Ended

ALL = [step.folder for step in reproduce.STEPS]
# By how much is to wait for a step, and when what it needs is there.
IN_ORDER = ["q1_autoencoder", "q4_few_shot", "q1_undo", "q5_transfer", "q2_classifier", "q2_plain", "q3_frozen_decoder"]


class Pretended:
    """An engine of scripts whose main leaves finished results where it would begin, with real options, needs, code."""

    def __init__(self, tmp_path, monkeypatch):
        self.outputs, self.patch = tmp_path / "outputs", monkeypatch
        self.ran, self.failing, self.bits, self.fingerprint, self.start = [], {}, "", "data", run.start
        self.slots, self.most, self.stopped = 1, 0, False
        monkeypatch.setattr(run, "start", self.finish)
        monkeypatch.setattr(reproduce, "start_engine", lambda _: self)
        monkeypatch.setattr(reproduce, "prepare", lambda _: self.fingerprint)
        monkeypatch.setattr(reproduce.signal, "signal", lambda *_: None)
        monkeypatch.setattr(results, "git_commit", lambda: None)
        monkeypatch.setattr(results, "code_sha256", functools.cache(results.code_sha256))
        monkeypatch.setattr(report, "write", lambda folder: folder / "report.html")
        monkeypatch.setattr(reproduce, "beside", lambda module, *options: f"{module} {' '.join(options)}")
        monkeypatch.setattr(reproduce, "wait", self.wait)

    def finish(self, config, name, needs=()):
        assert needs == next((step.needs for step in reproduce.STEPS if step.folder == name), ())
        step = self.start(config, name, needs)
        (step.folder / "model.safetensors").write_text(f"{self.bits} of {config.seed}")
        step.finish(self.fingerprint, [], answer=["answer"], numbers=[], figures={})
        raise EOFError(name)  # enough of the script

    def workers(self):
        return self.slots

    def submit(self, task):
        return Future()

    def wait(self, running, *_):
        self.most = max(self.most, len(running))
        return type("", (), {"done": list(running)[:1]})

    def ended(self, task, _):
        config = ["--data-dir", str(task.data_dir), "--output-dir", str(task.output_dir)]
        return self.run(task.script, [*task.options, *config])

    def run(self, script, options):
        name = Path(script).stem
        module = importlib.import_module(name)
        config = run.parse(module.Config, "", options)
        if not (code := self.failing.get(name, 0)):
            with pytest.raises(EOFError) as stop:
                module.main(config)
            name = str(stop.value)
        self.ran.append(name if config.seed == 0 else (name, config.seed))
        return Ended(code, "answer\nfigures\n", f"error: {name}" if code else "")

    def stop(self):
        self.stopped = True

    def __call__(self, **changes):
        self.ran.clear()
        reproduce.main(reproduce.Config(output_dir=self.outputs, device="cpu", **changes))
        return self.ran


@pytest.fixture
def go(tmp_path, monkeypatch):
    return Pretended(tmp_path, monkeypatch)


def test_runs_everything_once_then_nothing_then_everything_if_forced(go, capsys):
    assert go() == IN_ORDER and sorted(IN_ORDER) == sorted(ALL) == sorted(report.STEPS)
    printed = capsys.readouterr().out
    assert re.search(r"\[7/7\] q3_frozen_decoder, seed 0: \d+ s; answer\n", printed) and go.stopped
    folders = f"--output-dir {go.outputs} --data-dir {run.DATA_DIR}"
    assert printed.endswith(f"report: {go.outputs / 'report.html'}\ncommon.draw_page {folders}\n")
    assert go() == [] and capsys.readouterr().out.count("finished and unchanged") == 7
    assert go(force=True) == IN_ORDER
    assert go(seeds=(0, 2)) == [(name, 2) for name in IN_ORDER]
    assert sorted(path.name for path in (go.outputs / "seed2").iterdir()) == sorted(ALL)


def test_as_many_at_a_time_as_there_are_workers_and_never_before_what_is_needed(go):
    for slots, most in ((2, 2), (5, 5), (100, 5)):
        go.slots, go.most = slots, 0
        ran = go(force=True)
        assert go.most == most and sorted(ran) == sorted(ALL)
        assert all(ran.index(need) < ran.index(step.folder) for step in reproduce.STEPS for need in step.needs)
    go.slots = 2
    first = go(seeds=(0, 1), force=True)[: len(ALL) + 1]
    assert sum(isinstance(name, str) for name in first) == len(ALL), "seed 0 before the others"


def test_waits_for_a_first_worker(go):
    slots = iter([0, 0])
    go.workers = lambda: next(slots, 1)
    go.patch.setattr(reproduce.time, "sleep", lambda _: go.ran.append("slept"))
    assert go() == ["slept", "slept", *IN_ORDER]


def test_the_process_that_waits_holds_no_torch():
    line = "import sys, reproduce; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", line], cwd=results.REPOSITORY).returncode == 0


@pytest.mark.parametrize("bits", ["", "other"])
def test_what_changed_runs_again_and_what_is_built_on_it_if_its_bits_are_others(go, bits):
    go()
    go.bits = bits
    (go.outputs / "q2_classifier" / "model.safetensors").write_text("damaged")
    assert go() == (["q2_classifier", "q3_frozen_decoder"] if bits else ["q2_classifier"])
    code = results.code_sha256

    def edited(*scripts, **options):
        return code(*scripts, **options) + ("edited" if [path.name for path in scripts] == ["q4_few_shot.py"] else "")

    go.patch.setattr(results, "code_sha256", edited)
    assert go() == (["q4_few_shot", "q5_transfer"] if bits else ["q4_few_shot"])
    options = ["--output-dir", str(go.outputs), "--device", "cpu", "--epochs", "9"]
    go.run("q3_frozen_decoder.py", options)  # by hand
    assert go() == ["q3_frozen_decoder"]
    path = go.outputs / "q1_undo" / "config.json"  # of an earlier version of this repository
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "command"}))
    assert go() == (["q1_undo", "q5_transfer"] if bits else ["q1_undo"])


def test_other_versions_and_other_data_run_everything_again(go):
    go()
    go.patch.setattr(results, "versions", lambda: {"torch": "0.1"})
    assert go() == IN_ORDER
    go.fingerprint = "other"
    assert go() == IN_ORDER
    assert go(dataset="kmnist") == IN_ORDER and go(dataset="kmnist") == []


def test_a_failure_stops_what_builds_on_it_alone_and_has_the_last_word_and_its_code(go, capsys):
    go.failing = {"q4_few_shot": 2}
    with pytest.raises(SystemExit, match=r"^2$"):
        go()
    assert go.ran == [name for name in IN_ORDER if name != "q5_transfer"] and go.stopped
    printed = capsys.readouterr()
    assert printed.err.endswith("error: q4_few_shot\n") and "report" not in printed.out
    go.failing = {"q4_few_shot": -9}
    with pytest.raises(SystemExit, match=r"^1$"):
        go()
    assert go.ran == ["q4_few_shot"]
    said = capsys.readouterr().err
    assert said == "error: q4_few_shot, seed 0 was killed by signal 9; the same command runs it again\n"
    go.failing = {}
    assert go() == ["q4_few_shot", "q5_transfer"]


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

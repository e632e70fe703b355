"""Tests of reproduce.py: what runs, what is skipped, where it stops, all with scripts that only pretend."""

import json
import sys
import types
from pathlib import Path

import pytest
import torch

import reproduce
from common import data, report, run


@pytest.fixture
def pretended(data_dir, tmp_path, monkeypatch):
    """Run reproduce.main with scripts that leave complete results at once; return it and the steps that ran."""
    ran, failing = [], {}

    def result(code, text=""):
        return types.SimpleNamespace(returncode=code, communicate=lambda: (text, None))

    def pretend(line, **_):
        script = Path(line[1]).stem
        given = dict(zip(line[2::2], line[3::2], strict=False))
        variant = "-undo" if "--undo" in line else ""
        step, seed = script + variant, int(given["--seed"])
        ran.append((step, seed, "--resume" in line))
        if step in failing:
            return result(failing[step])
        wanted = reproduce.expected(config, seed, step, data.load("mnist", data_dir).fingerprint)
        folder = Path(given["--output-dir"]) / step
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.pt").write_text(f"{step} of {seed}")
        run.finish(folder, wanted, [], {"metrics": {}, "baselines": {}, "seconds": 1.0})
        return result(0, "numbers\nfigures\n")

    config = reproduce.Config(data_dir=data_dir, output_dir=tmp_path / "outputs", device="cpu")

    def go(**changes):
        nonlocal config
        config = reproduce.Config(data_dir=data_dir, output_dir=tmp_path / "outputs", device="cpu", **changes)
        ran.clear()
        reproduce.main(config)
        return [(step, seed) for step, seed, _ in ran]

    monkeypatch.setattr(reproduce.subprocess, "Popen", pretend)
    monkeypatch.setattr(run, "git_commit", lambda: None)
    return go, ran, failing, tmp_path / "outputs"


ALL = list(reproduce.STEPS)


def test_runs_everything_in_order_then_nothing_then_everything_if_forced(pretended, capsys):
    go, _, _, outputs = pretended
    assert go() == [(step, 0) for step in ALL]
    assert (outputs / "report.html").exists() and "report.html" in capsys.readouterr().out.splitlines()[-1]
    assert go() == []
    assert capsys.readouterr().out.count("complete and unchanged") == len(ALL)
    assert go(force=True) == [(step, 0) for step in ALL]


def test_another_seed_has_a_folder_of_its_own(pretended):
    go, _, _, outputs = pretended
    go()
    assert go(seeds=(0, 2)) == [(step, 2) for step in ALL]
    assert {path.name for path in (outputs / "seed2").iterdir()} == set(ALL)
    assert report.seed_folders(outputs) == [outputs, outputs / "seed2"]


def test_what_changed_and_what_depends_on_it_runs_again(pretended, monkeypatch):
    go, _, _, outputs = pretended
    go()
    (outputs / "q2_classifier" / "model.pt").write_text("other bits")  # no longer what its run left
    assert go() == [("q2_classifier", 0)]  # to the bits that Q3 has seen
    (outputs / "q3_frozen_decoder" / "summary.json").unlink()
    assert go() == [("q3_frozen_decoder", 0)]
    source = run.source_sha256
    changed = {"q1_autoencoder.py": "edited"}
    monkeypatch.setattr(run, "source_sha256", lambda script: source(script) | (changed if "q1" in script else {}))
    assert go() == [("q1_autoencoder", 0), ("q1_autoencoder-undo", 0)]
    monkeypatch.setattr(run, "source_sha256", lambda script: source(script) | {"common/train.py": "edited"})
    assert go() == [(step, 0) for step in ALL]


def test_a_changed_checkpoint_upstream_runs_what_reads_it(pretended):
    go, _, _, outputs = pretended
    go()
    path = outputs / "q4_few_shot" / "config.json"
    path.write_text(path.read_text().replace(run.sha256(outputs / "q1_autoencoder" / "model.pt"), "0" * 64))
    assert go() == [("q4_few_shot", 0)]


def test_stops_at_the_first_failure_with_its_code_and_continues_there(pretended):
    go, ran, failing, outputs = pretended
    failing["q3_frozen_decoder"] = 2
    with pytest.raises(SystemExit) as stop:
        go()
    assert stop.value.code == 2 and ran[-1][0] == "q3_frozen_decoder"
    failing["q3_frozen_decoder"] = -9
    with pytest.raises(run.RunError, match="q3_frozen_decoder was killed by signal 9"):
        go()
    failing.clear()
    config = reproduce.Config(data_dir=outputs.parent / "data", output_dir=outputs, device="cpu")
    fingerprint = data.load("mnist", config.data_dir).fingerprint
    wanted = reproduce.expected(config, 0, "q3_frozen_decoder", fingerprint)
    (outputs / "q3_frozen_decoder").mkdir()
    run.write(outputs / "q3_frozen_decoder" / run.UNFINISHED, json.dumps(wanted))
    assert go() == [(step, 0) for step in ALL[3:]]
    assert [resumed for _, _, resumed in ran] == [True, False, False]


def test_estimate_knows_every_step():
    assert set(reproduce.SECONDS) == set(reproduce.STEPS)


@pytest.mark.parametrize(
    ("seeds", "part"),
    [((), "one or more"), ((0, 0), "different"), ((0, -1), "--seed: got -1"), ((1, 2), "expected 0 among")],
)
def test_impossible_seeds_are_refused(seeds, part):
    with pytest.raises(ValueError, match=part):
        reproduce.Config(seeds=seeds)


def test_the_scripts_take_the_command_lines(tmp_path):
    config = reproduce.Config(output_dir=tmp_path, device="cpu")
    for step in reproduce.STEPS:
        line = reproduce.command(config, 3, step, resume=True)
        script, _, variant = step.partition("-")
        module = sys.modules.get(script) or __import__(script)
        found = run.parse(module.Config, script, line[2:])
        assert found.seed == 3 and found.resume and found.output_dir == tmp_path / "seed3"
        assert torch.device(found.device) == torch.device("cpu") and getattr(found, variant, True)

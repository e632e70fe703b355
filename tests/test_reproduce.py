"""Tests of reproduce.py: what runs when, what is skipped, and what a failure leaves."""

import dataclasses
import importlib
import os
import signal
from pathlib import Path

import pytest

import reproduce
from common import results, run
from tests import helpers
from tests.toy_repository import ToyRepository, numbers_of

QUESTIONS = [step.name for step in reproduce.QUESTIONS]
STEPS = [*reproduce.QUESTIONS, *reproduce.STUDIES]
posix = pytest.mark.skipif(os.name == "nt", reason="signals as these are POSIX's")


@pytest.fixture
def repository(tmp_path: Path) -> ToyRepository:
    """A repository whose steps take no time."""
    return ToyRepository(tmp_path)


def test_runs_what_is_not_there_after_what_it_needs_and_then_nothing(repository):
    done = repository.run("--workers", "3")
    assert done.returncode == 0, done.stderr
    ran = repository.ran()
    assert sorted(ran) == [f"{name} 0" for name in QUESTIONS]
    for step in reproduce.QUESTIONS:
        for needed in step.needs:
            assert ran.index(f"{needed} 0") < ran.index(f"{step.name} 0")
    for printed in ("the answer", str(repository.outputs / "report.html"), "the page"):
        assert printed in done.stdout

    # Other code but the same numbers: what is built on them stays. A comment is no code.
    script = repository.root / "q4_few_shot.py"
    script.write_text(script.read_text() + "# a comment\n")
    assert repository.run().returncode == 0 and repository.ran() == []
    script.write_text(script.read_text() + "OTHER = 1\n")
    again = repository.run()
    assert again.returncode == 0 and repository.ran() == ["q4_few_shot 0"]
    assert repository.run().returncode == 0 and repository.ran() == []
    assert repository.run("--force").returncode == 0
    assert len(repository.ran()) == len(QUESTIONS)

    # Other numbers, and another seed.
    repository.write("q4_few_shot", "NAME = 'q4_few_shot'; NEEDS = ('q1_autoencoder',)")
    assert repository.run("--seeds", "0", "2", "--workers", "1").returncode == 0
    ran = repository.ran()
    assert ran[:2] == ["q4_few_shot 0", "q5_transfer 0"]
    assert sorted(ran[2:]) == [f"{name} 2" for name in QUESTIONS]
    made = sorted(path.name for path in (repository.outputs / "seed2").iterdir())
    assert made == QUESTIONS


def test_a_failure_leaves_out_what_builds_on_it_and_decides_the_exit_code(repository):
    repository.write("q4_few_shot", "sys.exit('error: as asked')")
    done = repository.run()
    assert done.returncode == 1 and done.stderr.endswith("error: as asked\n")
    expected = ["q1_autoencoder 0", "q2_classifier 0", "q3_frozen_decoder 0"]
    assert sorted(repository.ran()) == expected
    assert not (repository.outputs / "report.html").exists()

    repository.write("q4_few_shot", "os.kill(os.getpid(), 9)")
    done = repository.run()
    assert done.returncode == 1 and "memory" in done.stderr and "--workers 1" in done.stderr
    assert repository.ran() == []

    repository.write("q4_few_shot")
    assert repository.run().returncode == 0
    assert repository.ran() == ["q4_few_shot 0", "q5_transfer 0"]
    assert sorted(path.name for path in repository.outputs.iterdir()) == QUESTIONS


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL", "SIGHUP"])
def test_no_step_outlives_it_and_nothing_is_left_behind(repository, name):
    told = [repository.write_hanging(name) for name in ("q1_autoencoder", "q2_classifier")]
    process = repository.start("--workers", "2")
    steps = [numbers_of(path)[0] for path in told]
    assert not any(helpers.is_gone(step) for step in steps)
    number = getattr(signal, name)
    process.send_signal(number)
    done = helpers.finish(process)
    for step in steps:
        helpers.wait_for(lambda step=step: helpers.is_gone(step))
    assert done.returncode == (-number if name in ("SIGKILL", "SIGHUP") else 130)
    assert list(repository.outputs.iterdir()) == []


# What is current.


@pytest.fixture
def job(tmp_path: Path, data_dir: Path) -> reproduce.Job:
    """The job of Q3 with finished results, of Q1 and Q2 too, in their places."""
    config = reproduce.Config(dataset="own", data_dir=data_dir, output_dir=tmp_path, seeds=(0, 3))
    jobs = [job for job in reproduce.plan(config) if job.options.seed == 3]
    jobs = {job.step.name: job for job in jobs}
    for name in ("q1_autoencoder", "q2_classifier", "q3_frozen_decoder"):
        write_result(jobs[name])
    return jobs["q3_frozen_decoder"]


def write_result(job: reproduce.Job, **changes) -> None:
    """Write a config.json, with changes, as a step's run of today would."""
    job.folder().mkdir(parents=True, exist_ok=True)
    (job.folder() / "numbers.csv").write_text(changes.pop("numbers", job.step.name))
    code_files = [f"{job.step.name}.py", "common/run.py"]
    needed = {name: results.read_config(job.options.output_dir / name) for name in job.step.needs}
    config = {
        "command": f"python {job.step.name}.py --dataset own --seed 3",
        "versions": results.versions(),
        "data_sha256": "data",
        "built_on": {name: results.result_sha256(config) for name, config in needed.items()},
        "code_files": code_files,
        "code_sha256": results.code_sha256(code_files),
        "files_sha256": {"numbers.csv": results.sha256(job.folder() / "numbers.csv")},
    }
    results.write_json(job.folder() / "config.json", config | changes)


def test_results_are_current_until_anything_that_they_depend_on_changes(job):
    assert reproduce.is_current(job, "data")
    assert not reproduce.is_current(job, "other data")
    changes = {
        "command": "python q3_frozen_decoder.py --dataset own --seed 3 --epochs 1",
        "versions": results.versions() | {"torch": "0.1"},
        "built_on": {},
        "code_files": ["q3_frozen_decoder.py"],
        "code_sha256": "other code",
    }
    for name, value in changes.items():
        write_result(job, **{name: value})
        assert not reproduce.is_current(job, "data"), name
    write_result(job)
    assert reproduce.is_current(job, "data")

    (job.folder() / "numbers.csv").write_text("damaged")
    assert not reproduce.is_current(job, "data")


def test_results_are_current_while_what_they_were_built_on_has_the_same_numbers(job):
    needed = dataclasses.replace(job, step=reproduce.QUESTIONS[0])
    write_result(needed, versions={})
    assert reproduce.is_current(job, "data")
    write_result(needed, numbers="other numbers")
    assert not reproduce.is_current(job, "data")
    (needed.folder() / "config.json").unlink()
    assert not reproduce.is_current(job, "data")


def test_what_the_real_scripts_write_down_is_current(tmp_path, data_dir):
    config = reproduce.Config(dataset="own", data_dir=data_dir, output_dir=tmp_path)
    jobs = {job.step.name: job for job in reproduce.plan(config)}
    for step in reproduce.QUESTIONS:
        script = importlib.import_module(step.name)
        options = script.Config(dataset="own", data_dir=data_dir, output_dir=tmp_path, device="cpu")
        under_way = run.start(step.name, options, step.needs)
        assert not reproduce.is_current(jobs[step.name], "data")
        under_way.log({"accuracy": 0.5}, model="Q", split="test")
        under_way.finish("data")
        assert reproduce.is_current(jobs[step.name], "data")


# The table.


@pytest.mark.parametrize("step", [step for step in STEPS if step.needs], ids=lambda step: step.name)
def test_the_table_says_what_each_script_needs(step, tmp_path, data_dir):
    script = importlib.import_module(step.name.replace("/", "."))
    with pytest.raises(run.InputError) as error:
        script.main(script.Config(dataset="own", data_dir=data_dir, output_dir=tmp_path))
    named = {other.name for other in STEPS if other.name in str(error.value)}
    assert named - {step.name} == set(step.needs)


def test_every_step_is_planned_for_its_seeds_after_those_of_earlier_ones():
    for studies, steps in ((False, reproduce.QUESTIONS), (True, STEPS)):
        jobs = reproduce.plan(reproduce.Config(seeds=(2, 0, 1), studies=studies))
        seeds = [job.options.seed for job in jobs]
        assert seeds == sorted(seeds, key=[2, 0, 1].index)
        for count, seed in enumerate((2, 0, 1)):
            planned = {job.step for job in jobs if job.options.seed == seed}
            assert planned == {step for step in steps if step.seeds is None or count < step.seeds}
            names = {step.name for step in planned}
            assert all(names.issuperset(step.needs) for step in planned)
    folders = {job.options.seed: job.options.output_dir for job in jobs}
    assert folders == {
        0: run.Options.output_dir,
        1: run.Options.output_dir / "seed1",
        2: run.Options.output_dir / "seed2",
    }


# The command line.


@pytest.mark.parametrize(
    "options",
    [
        {"seeds": ()},
        {"seeds": (0, 0)},
        {"seeds": (1, 2)},
        {"seeds": (0, -1)},
        {"workers": 0},
        {"check": True, "dataset": "kmnist"},
        {"scheduler": "host"},
        {"scheduler": "tcp://host:1", "workers": 2},
    ],
)
def test_what_cannot_be_is_refused(options):
    with pytest.raises(run.InputError):
        reproduce.Config(**options)


def test_the_process_that_waits_holds_no_torch():
    done = helpers.finish(
        helpers.start("-c", "import sys, reproduce; sys.exit('torch' in sys.modules)")
    )
    assert done.returncode == 0, done.stderr


def test_without_the_requirements_it_says_so_in_one_line():
    done = helpers.finish(helpers.start("-S", "-E", helpers.ROOT / "reproduce.py"))
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "requirements.txt" in done.stderr

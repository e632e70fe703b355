"""Run every question and write the report: from nothing to every figure and outputs/report.html.

    python reproduce.py                  # 9 to 10 minutes on 2 CPU cores
    python reproduce.py --seeds 0 1 2    # everything for three seeds; the report then says mean and standard deviation
    python reproduce.py --check          # afterwards compare with the published run in outputs/reference/

Each script runs in a process of its own. What is finished and would come out the same (options, code, data, versions,
what it builds on) is skipped, so that after an interruption the same command goes on with the next unfinished step.
Seed 0 writes to <output-dir>, seed 1 to <output-dir>/seed1.
"""

import dataclasses
import shlex
import subprocess
import sys
import time
from typing import NamedTuple

import tyro

from common import check, data, report, results, run


class Step(NamedTuple):
    """A folder of results, the script and options that fill it, what it builds on, and its seconds on 2 CPU cores."""

    folder: str
    script: str
    options: tuple[str, ...]
    needs: tuple[str, ...]
    seconds: float


STEPS = (
    Step("q1_autoencoder", "q1_autoencoder.py", (), (), 65),
    Step("q1_undo", "q1_autoencoder.py", ("--undo",), (), 50),
    Step("q2_classifier", "q2_classifier.py", (), (), 50),
    Step("q2_plain", "q2_classifier.py", ("--plain",), (), 35),
    Step("q3_frozen_decoder", "q3_frozen_decoder.py", (), ("q1_autoencoder", "q2_classifier", "q2_plain"), 120),
    Step("q4_few_shot", "q4_few_shot.py", (), (), 45),
    Step("q5_transfer", "q5_transfer.py", (), ("q1_autoencoder", "q1_undo", "q4_few_shot"), 150),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(run.Options):
    seed: tyro.conf.Suppress[tyro.conf.Fixed[int]] = 0  # is one of the seeds
    seeds: tuple[int, ...] = (0,)
    """Seeds of every random choice; everything is run once for each."""
    force: bool = False
    """Run again what is finished and unchanged."""
    check: bool = False
    """Afterwards compare every number with the published run, and end with 1 if one lies outside its tolerance."""

    def __post_init__(self) -> None:
        for seed in self.seeds:
            run.Options(seed=seed)
        if 0 not in self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise run.InputError(f"--seeds: got {self.seeds}, expected different ones with 0, that of the figures")
        if self.check and self.dataset != "mnist":
            raise run.InputError(
                f"--check: got --dataset {self.dataset}, expected mnist, of which the published run is"
            )


def command(step: Step, config: Config, seed: int) -> list[str]:
    """Return a step's command as ``run.command`` writes it down: without folders and device."""
    chosen = ["--dataset", config.dataset] if config.dataset != "mnist" else []
    return ["python", step.script, *chosen, *(["--seed", str(seed)] if seed else []), *step.options]


def is_current(step: Step, config: Config, seed: int, fingerprint: str) -> bool:
    """Return whether the step's results are there and would come out the same again."""
    folder = report.seed_folder(config.output_dir, seed)
    written, *upstream = (results.read_config(folder / name) for name in (step.folder, *step.needs))
    if written is None or None in upstream:
        return False
    expected = {
        "command": shlex.join(command(step, config, seed)),
        "versions": results.versions(),
        "data_sha256": fingerprint,
        "upstream_sha256": dict(zip(step.needs, map(results.result_sha256, upstream), strict=True)),
        "code_sha256": results.code_sha256(results.REPOSITORY / step.script),
    }
    return expected == {name: written.get(name) for name in expected}


def run_step(step: Step, config: Config, seed: int) -> str:
    """Run a step as a process and return the first line of its answer; if it fails, end with its exit code."""
    folder = report.seed_folder(config.output_dir, seed)
    _, script, *options = command(step, config, seed)
    line = [sys.executable, str(results.REPOSITORY / script), *options, "--device", config.device]
    line += ["--data-dir", str(config.data_dir), "--output-dir", str(folder)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, encoding="utf-8")
    try:
        printed, _ = process.communicate()
    except KeyboardInterrupt:
        process.communicate()  # it is interrupted too, and ends on its own
        raise
    if process.returncode < 0:
        raise run.RunError(f"{step.folder} was killed by signal {-process.returncode}; the same command runs it again")
    if process.returncode:
        sys.exit(process.returncode)
    return printed.splitlines()[0]


def main(config: Config) -> None:
    """Run every step of every seed that is not current, write the report, compare."""
    started = time.perf_counter()
    fingerprint = data.load(config.dataset, config.data_dir).fingerprint
    jobs = [(seed, step) for seed in config.seeds for step in STEPS]
    for number, (seed, step) in enumerate(jobs):
        title = f"[{number + 1}/{len(jobs)}] {step.folder}, seed {seed}"
        if not config.force and is_current(step, config, seed, fingerprint):
            print(f"{title}: finished and unchanged")
            continue
        left = sum(later.seconds for _, later in jobs[number:]) / 60
        print(f"{title}: running, about {left:.0f} minutes left", flush=True)
        step_started = time.perf_counter()
        answer = run_step(step, config, seed)
        print(f"    {time.perf_counter() - step_started:.0f} s; {answer}", flush=True)
    path = report.write(config.output_dir)
    print(f"{(time.perf_counter() - started) / 60:.1f} minutes; report: {path}")
    if config.check:
        check.main(check.Config(output_dir=config.output_dir))


if __name__ == "__main__":
    run.command_line(main, Config)

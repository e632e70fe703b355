"""Run every question in order and write the report: from nothing to every figure and outputs/report.html.

    python reproduce.py                  # 8 to 9 minutes on 2 CPU cores
    python reproduce.py --seeds 0 1 2    # everything for three seeds; the report then says mean and standard deviation
    python reproduce.py --check          # afterwards compare with the published run in outputs/reference/

Each script runs in a process of its own. What is complete and would come out the same (options, code, data, upstream
checkpoints) is skipped, and a killed run goes on where it stopped. Seed 0 writes to <output-dir>, seed 1 to
<output-dir>/seed1.
"""

import dataclasses
import importlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

from common import data, report, run
from common.download import DatasetName

# Folder of the results -> the folders whose checkpoints it reads. What follows a hyphen is an option of the script.
STEPS = {
    "q1_autoencoder": (),
    "q1_autoencoder-undo": (),
    "q2_classifier": (),
    "q3_frozen_decoder": ("q1_autoencoder", "q2_classifier"),
    "q4_few_shot": ("q1_autoencoder",),
    "q5_transfer": ("q1_autoencoder", "q1_autoencoder-undo"),
}
# Seconds of each on 2 CPU cores, start included, for the first estimate of what is left.
SECONDS = dict(zip(STEPS, (90, 70, 65, 60, 75, 130), strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    dataset: DatasetName = "mnist"
    """Which images; all four have the same shape and split sizes."""
    data_dir: Path = run.REPOSITORY / "data"
    """Folder of the raw data files; what is missing is fetched into it."""
    output_dir: Path = run.REPOSITORY / "outputs"
    """Folder of the results."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU when there is one."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of every random choice; everything is run once for each."""
    force: bool = False
    """Run again what is complete and unchanged."""
    check: bool = False
    """Afterwards compare every number with the published run, and end with 1 if one lies outside its tolerance."""

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"--seeds: got {self.seeds}, expected one or more different seeds")
        for seed in self.seeds:
            run.Options(seed=seed)
        if 0 not in self.seeds:
            raise ValueError(f"--seeds: got {self.seeds}, expected 0 among them, whose figures the report shows")
        if self.check and self.dataset != "mnist":
            raise ValueError(f"--check: got --dataset {self.dataset}, expected mnist, of which the published run is")


def folder_of(config: Config, seed: int) -> Path:
    """Return the folder of a seed's results."""
    return config.output_dir / f"seed{seed}" if seed else config.output_dir


def expected(config: Config, seed: int, step: str, fingerprint: str) -> dict | None:
    """Return the provenance that a run of this step would have now, None while a checkpoint it reads is missing."""
    script, _, variant = step.partition("-")
    folder = folder_of(config, seed)
    upstream = {path: run.sha256(path) for name in STEPS[step] if (path := folder / name / "model.pt").exists()}
    if len(upstream) < len(STEPS[step]):
        return None
    options = importlib.import_module(script).Config(
        dataset=config.dataset,
        data_dir=config.data_dir,
        output_dir=folder,
        device=config.device,
        seed=seed,
        **({variant: True} if variant else {}),
    )
    return run.provenance(options, f"{script}.py", run.device(options), fingerprint, upstream)


def command(config: Config, seed: int, step: str, resume: bool) -> list[str]:
    """Return the command line of a step."""
    script, _, variant = step.partition("-")
    line = [sys.executable, str(run.REPOSITORY / f"{script}.py"), "--dataset", config.dataset, "--seed", str(seed)]
    line += ["--data-dir", str(config.data_dir), "--output-dir", str(folder_of(config, seed))]
    line += ["--device", config.device]
    return line + [f"--{option}" for option in (variant, "resume" if resume else "") if option]


def run_all(config: Config) -> None:
    """Run every step of every seed that is not complete and unchanged, with a line for each."""
    fingerprint = data.load(config.dataset, config.data_dir).fingerprint
    jobs = [(seed, step) for seed in config.seeds for step in STEPS]
    seconds = dict(SECONDS)
    for number, (seed, step) in enumerate(jobs):
        folder = folder_of(config, seed) / step
        wanted = expected(config, seed, step, fingerprint)
        done = None if config.force else run.complete(folder)
        title = f"[{number + 1}/{len(jobs)}] {step}, seed {seed}"
        if done and wanted and not run.differences(done, wanted):
            print(f"{title}: complete and unchanged")
            continue
        left = sum(seconds[later] for _, later in jobs[number:]) / 60
        print(f"{title}: running, at most about {left:.0f} minutes left", flush=True)
        started = time.perf_counter()
        resume = bool(wanted) and not config.force and run.resumable(folder, wanted)
        process = subprocess.Popen(command(config, seed, step, resume), stdout=subprocess.PIPE, encoding="utf-8")
        try:
            printed, _ = process.communicate()
        except KeyboardInterrupt:
            process.communicate()  # it is interrupted too, and ends on its own
            raise
        if process.returncode < 0:
            raise run.RunError(f"{step} was killed by signal {-process.returncode}; the same command goes on from here")
        if process.returncode:
            sys.exit(process.returncode)  # the script has said why
        seconds[step] = time.perf_counter() - started
        print(f"    {seconds[step]:.0f} s; {printed.splitlines()[-2]}", flush=True)


def main(config: Config) -> None:
    """Run, write the report, compare."""
    started = time.perf_counter()
    run_all(config)
    path = report.write(config.output_dir)
    print(f"{(time.perf_counter() - started) / 60:.1f} minutes; report: {path}")
    if config.check:
        text, reproduced = report.compare(config.output_dir, run.REPOSITORY / "outputs" / "reference")
        print(text)
        if not reproduced:
            raise run.RunError("not every number was reproduced")


if __name__ == "__main__":
    run.command_line(main, Config)

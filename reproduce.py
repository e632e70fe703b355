"""Run the five questions for every seed, then write the report and a page to draw a digit on.

    python reproduce.py                          # about 6 minutes on 2 CPU cores
    python reproduce.py --quick                  # a look at every figure, in about two
    python reproduce.py --seeds 0 1 2            # for three seeds: means, deviations, verdicts
    python reproduce.py --seeds 0 1 2 --studies  # and the studies
    python reproduce.py --check                  # then compare with the published run
    python reproduce.py --scheduler tcp://host:8786 --seeds 0 1 2    # on a Dask cluster

Steps that do not depend on each other run side by side, each a process with one thread, so the
numbers are the same with any number of cores. What is finished and unchanged (options, code, data,
versions, what it was built on) is skipped, so after an interruption the same command goes on with
what is missing. Seed 0 writes to <output-dir>, seed 1 to <output-dir>/seed1.
"""

import contextlib
import dataclasses
import importlib.util
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Annotated, Protocol, TextIO

try:
    import tyro
    from tqdm import tqdm

    from common import download, results, run
    from common.engines.local import STEP_MEMORY, LocalEngine
except ModuleNotFoundError as error:
    if error.name.startswith("common"):
        raise
    print(
        f"error: {error.name} is not installed: run `python3 -m venv .venv &&"
        " .venv/bin/python -m pip install -r requirements.txt`, then `.venv/bin/python"
        " reproduce.py`",
        file=sys.stderr,
    )
    sys.exit(2)
except KeyboardInterrupt:
    sys.exit(130)

QUICKER = 4  # times as fast as a whole step is a quick one, about
POLL = 0.5  # seconds from one look at the running steps to the next


class Engine(Protocol):
    """Where steps run: this machine, or a cluster."""

    def workers(self) -> int:
        """Return how many steps may run at a time."""

    def run(
        self, step: str, needs: tuple[str, ...], options: run.Options
    ) -> subprocess.CompletedProcess:
        """Run a step to its end; its results are then in their place if it ended well."""

    def close(self) -> None:
        """End the steps that run."""


@dataclasses.dataclass(frozen=True)
class Step:
    """A script that fills a folder of results, both named like the step."""

    name: str
    needs: tuple[str, ...]  # steps whose results it reads
    seconds: float  # on one CPU core
    seeds: int | None = None  # it is run for so many of the seeds, for all unless given


Q1 = "q1_autoencoder"
Q2 = "q2_classifier"
Q3 = "q3_frozen_decoder"
Q4 = "q4_few_shot"
Q5 = "q5_transfer"
AUGMENTATION = "studies/augmentation"
PRETEXTS = "studies/pretexts"

QUESTIONS = [
    Step(Q1, needs=(), seconds=150),
    Step(Q2, needs=(), seconds=55),
    Step(Q3, needs=(Q1, Q2), seconds=150),
    Step(Q4, needs=(), seconds=60),
    Step(Q5, needs=(Q1, Q4), seconds=25),
]
STUDIES = [
    Step("studies/reconstruction_loss", needs=(Q1, Q2, Q3), seconds=660, seeds=3),
    Step("studies/frozen_controls", needs=(Q1, Q2, Q3), seconds=660, seeds=3),
    Step("studies/augmented_classifier", needs=(Q1, Q2, Q3), seconds=600, seeds=3),
    Step("studies/architecture", needs=(), seconds=780, seeds=3),
    Step(AUGMENTATION, needs=(Q1, Q4, Q5), seconds=360, seeds=3),
    Step(PRETEXTS, needs=(Q1, Q4, Q5, AUGMENTATION), seconds=440, seeds=3),
    Step("studies/label_spreading", needs=(Q1, Q4, AUGMENTATION, PRETEXTS), seconds=420, seeds=3),
    Step("studies/label_curve", needs=(Q1, Q4, Q5, AUGMENTATION, PRETEXTS), seconds=120, seeds=3),
]


@dataclasses.dataclass(frozen=True)
class Job:
    """A step of one seed; ``options.output_dir`` is the folder of that seed."""

    step: Step
    options: run.Options
    seconds_to_end: float  # from its start to the end of the last step that waits for it

    def __str__(self) -> str:
        return f"{self.step.name}, seed {self.options.seed}"

    def folder(self) -> Path:
        """Return where its results are."""
        return self.options.output_dir / self.step.name

    def needed_folders(self) -> list[Path]:
        """Return where the results are that it reads."""
        return [self.options.output_dir / name for name in self.step.needs]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(run.Options):
    seed: tyro.conf.Suppress[tyro.conf.Fixed[int]] = 0  # is one of the seeds
    seeds: tuple[int, ...] = (0,)
    """Seeds of every random choice; studies are run for the first three of them."""
    studies: bool = False
    """Run the studies too."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Steps at a time on this machine; as many as cores and memory allow, unless given."""
    scheduler: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Address of a Dask scheduler, to run on its workers; needs requirements-cluster.txt."""
    force: bool = False
    """Run again what is finished and unchanged."""
    check: bool = False
    """Then compare with the published run; exit code 1 if one of README's main numbers is off."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if 0 not in self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise run.InputError(
                f"--seeds: got {self.seeds}, expected different ones with 0, that of the figures"
            )
        if self.check and self.dataset != "mnist":
            raise run.InputError(
                f"--check: got --dataset {self.dataset}, expected mnist, as in the published run"
            )
        if self.check and self.quick:
            raise run.InputError("--check: got --quick, expected a whole run, as the published one")
        if self.scheduler is not None and "://" not in self.scheduler:
            raise run.InputError(
                f"--scheduler: got {self.scheduler}, expected an address such as tcp://host:8786"
            )
        if self.scheduler and self.workers:
            raise run.InputError(
                "--workers: got it with --scheduler, expected one of them: a cluster has its own"
            )


def plan(config: Config) -> list[Job]:
    """Return the jobs in the order in which they start when they can.

    An earlier seed comes first, and of one seed what the others wait for longest.
    """
    jobs = []
    for count, seed in enumerate(config.seeds):
        folder = config.output_dir if seed == 0 else config.output_dir / f"seed{seed}"
        options = run.Options(
            dataset=config.dataset,
            data_dir=config.data_dir.resolve(),
            output_dir=folder.resolve(),
            device=config.device,
            seed=seed,
            quick=config.quick,
        )
        steps = [*QUESTIONS, *STUDIES] if config.studies else QUESTIONS
        steps = [step for step in steps if step.seeds is None or count < step.seeds]
        if config.quick:
            steps = [dataclasses.replace(step, seconds=step.seconds / QUICKER) for step in steps]
        jobs_of_seed = [Job(step, options, seconds_to_end(step, steps)) for step in steps]
        jobs += sorted(jobs_of_seed, key=lambda job: job.seconds_to_end, reverse=True)
    return jobs


def seconds_to_end(step: Step, steps: list[Step]) -> float:
    """Return the seconds from a step's start to the end of the last one that waits for it."""
    afterwards = 0.0
    for later in steps:
        if step.name in later.needs:
            afterwards = max(afterwards, seconds_to_end(later, steps))
    return step.seconds + afterwards


def is_current(job: Job, data_sha256: str) -> bool:
    """Return whether a job's results are there, and would come out the same again."""
    written = results.read_config(job.folder())
    if written is None:
        return False

    built_on = {}
    for name in job.step.needs:
        needed = results.read_config(job.options.output_dir / name)
        built_on[name] = results.result_sha256(needed) if needed else None
    expected = {
        "command": run.command(results.REPOSITORY / f"{job.step.name}.py", job.options),
        "versions": results.versions(),
        "data_sha256": data_sha256,
        "built_on": built_on,
        "code_sha256": results.code_sha256(written.get("code_files", [])),
    }
    return all(written.get(name) == value for name, value in expected.items())


class Progress:
    """A line for each job that starts or ends and, on a terminal, a bar over all."""

    def __init__(self, jobs: list[Job]):
        self._left = list(jobs)
        self._count = len(jobs)
        self._started: dict[Job, float] = {}
        total = sum(job.step.seconds for job in jobs)
        self._bar = tqdm(total=total, bar_format="|{bar:30}| {desc}", leave=False, disable=None)

    def start(self, job: Job, workers: int) -> None:
        """Say that a job has started, and how long all will take."""
        self.say(f"{job}: started, {self._estimate(workers)}")
        self._started[job] = time.monotonic()

    def end(self, job: Job, text: str) -> None:
        """Say what came of a job."""
        self._left.remove(job)
        if job in self._started:
            text = f"{time.monotonic() - self._started.pop(job):.0f} s; {text}"
        self.say(f"[{self._count - len(self._left)}/{self._count}] {job}: {text}")

    def say(self, text: str, file: TextIO | None = None) -> None:
        """Print text above the bar."""
        with tqdm.external_write_mode():
            print(text, file=file, flush=True)

    def draw(self, workers: int) -> None:
        """Draw the bar anew."""
        left = sum(job.step.seconds - self._spent(job) for job in self._left)
        running = "; ".join(str(job) for job in self._started)
        self._bar.n = self._bar.total - left
        self._bar.set_description_str(f"{self._estimate(workers)}: {running}")

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()

    def _spent(self, job: Job) -> float:
        """Return the seconds that a job has run, at most those expected."""
        if job not in self._started:
            return 0.0
        return min(time.monotonic() - self._started[job], job.step.seconds)

    def _estimate(self, workers: int) -> str:
        """Say how long what is left takes: shared by the workers, or one step after another."""
        shared = longest = 0.0
        for job in self._left:
            shared += (job.step.seconds - self._spent(job)) / max(workers, 1)
            longest = max(longest, job.seconds_to_end - self._spent(job))
        return f"about {max(shared, longest) / 60:.0f} minutes left"


def run_all(
    jobs: list[Job], engine: Engine, data_sha256: str, force: bool
) -> dict[Job, subprocess.CompletedProcess]:
    """Run every job that is not current, as soon as what it needs is there and a worker is free.

    Return those that failed. What needs a failed one is left out.
    """
    waiting = list(jobs)
    running: dict[Future, Job] = {}
    finished: set[Path] = set()
    failed = {}
    with (
        ThreadPoolExecutor(len(jobs)) as pool,
        contextlib.closing(Progress(jobs)) as progress,
        contextlib.closing(engine),
    ):
        while running or next_job(waiting, finished):
            workers = engine.workers()
            while len(running) < workers and (job := next_job(waiting, finished)):
                waiting.remove(job)
                if not force and is_current(job, data_sha256):
                    finished.add(job.folder())
                    progress.end(job, "finished and unchanged")
                else:
                    progress.start(job, workers)
                    future = pool.submit(engine.run, job.step.name, job.step.needs, job.options)
                    running[future] = job

            progress.draw(workers)
            if not running:
                time.sleep(POLL)  # until there is a worker
            for future in wait(running, POLL, FIRST_COMPLETED).done:
                job = running.pop(future)
                process = future.result()
                if process.returncode == 0:
                    finished.add(job.folder())
                    progress.end(job, process.stdout.partition("\n")[0])
                    if process.stderr:
                        progress.say(process.stderr.rstrip(), sys.stderr)
                else:
                    failed[job] = process
                    progress.end(job, f"failed with exit code {process.returncode}")
    return failed


def next_job(waiting: list[Job], finished: set[Path]) -> Job | None:
    """Return the first job whose needed results are there."""
    for job in waiting:
        if finished.issuperset(job.needed_folders()):
            return job
    return None


def start_engine(config: Config) -> Engine:
    """Return where steps run; InputError for a cluster that cannot be had."""
    if not config.scheduler:
        return LocalEngine(config.workers)
    if importlib.util.find_spec("distributed") is None:
        raise run.InputError(
            "--scheduler: dask.distributed is not installed:"
            " pip install -r requirements-cluster.txt"
        )
    from common.engines.dask_cluster import DaskEngine

    return DaskEngine(config.scheduler)


def run_module(module: str, *options: str) -> str:
    """Run a module that may load PyTorch as a process; return what it prints.

    SystemExit with its exit code if it fails.
    """
    command = [sys.executable, "-m", module, *options]
    process = subprocess.run(
        command,
        cwd=results.REPOSITORY,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    if process.returncode:
        sys.exit(max(1, process.returncode))
    return process.stdout.strip()


def stop_with(failed: dict[Job, subprocess.CompletedProcess]) -> None:
    """Say why jobs failed, and end with the exit code of the first."""
    for job, process in failed.items():
        if process.returncode >= 0:
            print(process.stderr.strip(), file=sys.stderr)
            continue
        line = f"error: {job} was killed by signal {-process.returncode}; "
        if process.returncode == -signal.SIGKILL:
            line += (
                f"was there less than {STEP_MEMORY / 1e9} GB of memory for it? try --workers 1; "
            )
        print(line + "the same command goes on", file=sys.stderr)
    first = next(iter(failed.values()))
    sys.exit(max(1, first.returncode))


def main(config: Config) -> None:
    """Run every step of every seed that is not current, write the pages, compare."""
    started = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: steps end with this
    data_dir, output_dir = config.data_dir.resolve(), config.output_dir.resolve()

    engine = start_engine(config)
    run_module("common.download", "--dataset", config.dataset, "--data-dir", str(data_dir))
    data_sha256 = download.fingerprint(download.prepare(config.dataset, data_dir))

    failed = run_all(plan(config), engine, data_sha256, config.force)
    if failed:
        stop_with(failed)

    # The report comes last: it says where the page is.
    folders = ("--output-dir", str(output_dir), "--data-dir", str(data_dir))
    page = run_module("common.report.draw_page", *folders)
    from common.report import check, pages

    report = pages.write(output_dir)
    print(f"{(time.monotonic() - started) / 60:.1f} minutes; report: {report}\n{page}", flush=True)
    if config.check:
        check.main(check.Config(output_dir=output_dir))


if __name__ == "__main__":
    run.command_line(main, Config)

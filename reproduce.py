"""Run every question: from nothing to every figure, outputs/report.html, and outputs/draw.html to draw a digit on.

    python reproduce.py                  # about 8 minutes on 2 CPU cores
    python reproduce.py --seeds 0 1 2    # everything for three seeds; the report then says mean and standard deviation
    python reproduce.py --check          # afterwards compare with the published run in outputs/reference/
    python reproduce.py --scheduler tcp://host:8786 --seeds 0 1 2    # on the machines of a Dask cluster

Steps that do not depend on each other run side by side, each a process with one thread, so numbers are the same with
any number of cores. What is finished and would come out the same (options, code, data, versions, what it builds on) is
skipped, so that after an interruption the same command goes on with what is missing.
Seed 0 writes to <output-dir>, seed 1 to <output-dir>/seed1.
"""

import contextlib
import dataclasses
import importlib.util
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, wait
from typing import Any, NamedTuple

import tyro
from tqdm import tqdm

from common import check, download, report, results, run
from common.engines import Ended, Here, Task


class Step(NamedTuple):
    """A folder of results, the script and options that fill it, what it builds on, and its seconds on one CPU core."""

    folder: str
    script: str
    options: tuple[str, ...]
    needs: tuple[str, ...]
    seconds: float


STEPS = (
    Step("q1_autoencoder", "q1_autoencoder.py", (), (), 105),
    Step("q1_undo", "q1_autoencoder.py", ("--undo",), (), 55),
    Step("q2_classifier", "q2_classifier.py", (), (), 65),
    Step("q2_plain", "q2_classifier.py", ("--plain",), (), 45),
    Step("q3_frozen_decoder", "q3_frozen_decoder.py", (), ("q1_autoencoder", "q2_classifier", "q2_plain"), 200),
    Step("q4_few_shot", "q4_few_shot.py", (), (), 100),
    Step("q5_transfer", "q5_transfer.py", (), ("q1_autoencoder", "q1_undo", "q4_few_shot"), 295),
)
TICK = 0.5  # seconds from one look at the running steps to the next


class Job(NamedTuple):
    """A step of a seed."""

    seed: int
    step: Step

    def __str__(self) -> str:
        return f"{self.step.folder}, seed {self.seed}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(run.Options):
    seed: tyro.conf.Suppress[tyro.conf.Fixed[int]] = 0  # is one of the seeds
    seeds: tuple[int, ...] = (0,)
    """Seeds of every random choice; everything is run once for each."""
    workers: int | None = None
    """Steps at a time on this machine; as many as there are cores, and as fit the free memory, unless given."""
    scheduler: str | None = None
    """Address of a Dask scheduler, on whose workers to run instead; needs requirements-cluster.txt."""
    force: bool = False
    """Run again what is finished and unchanged."""
    check: bool = False
    """Afterwards compare every number with the published run, and end with 1 if one lies outside its tolerance."""

    def __post_init__(self) -> None:
        for seed in self.seeds:
            run.Options(seed=seed)
        run.require_limits(self)
        if 0 not in self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise run.InputError(f"--seeds: got {self.seeds}, expected different ones with 0, that of the figures")
        if self.check and self.dataset != "mnist":
            raise run.InputError(
                f"--check: got --dataset {self.dataset}, expected mnist, of which the published run is"
            )
        if self.scheduler is not None and "://" not in self.scheduler:
            raise run.InputError(f"--scheduler: got {self.scheduler!r}, expected an address such as tcp://host:8786")
        if self.scheduler and self.workers:
            raise run.InputError("--workers: got it with --scheduler, expected one of them: a cluster has its own")


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


def task(job: Job, config: Config) -> Task:
    """Return what an engine needs to know of a job."""
    _, script, *options = command(job.step, config, job.seed)
    folder = report.seed_folder(config.output_dir.resolve(), job.seed)
    options += ["--device", config.device]
    return Task(script, options, job.step.folder, job.step.needs, folder, config.data_dir.resolve())


def path_seconds(step: Step) -> float:
    """Return the seconds from the start of a step to the end of the last that waits for it, directly or not."""
    return step.seconds + max((path_seconds(later) for later in STEPS if step.folder in later.needs), default=0.0)


class Progress:
    """A line for what starts or ends and, on a terminal, a bar for all and one for each running step."""

    def __init__(self, jobs: list[Job]):
        self.left, self.count = list(jobs), len(jobs)
        self.running: dict[Job, tuple[float, tqdm]] = {}
        self.all = tqdm(total=_seconds(jobs), bar_format="{desc} |{bar:40}|", leave=False, disable=None)

    def say(self, text: str, file: Any = None) -> None:
        with tqdm.external_write_mode():
            print(text, file=file, flush=True)

    def start(self, job: Job, workers: int) -> None:
        self.say(f"{job}: started, {self.estimate(workers)}")
        form = "  {desc:30} |{bar:20}| {elapsed}"
        bar = tqdm(total=job.step.seconds, desc=str(job), bar_format=form, leave=False, disable=None)
        self.running[job] = (time.perf_counter(), bar)

    def end(self, job: Job, text: str) -> None:
        self.left.remove(job)
        began, bar = self.running.pop(job, (None, None))
        if bar is not None:
            bar.close()
            text = f"{time.perf_counter() - began:.0f} s; {text}"
        self.say(f"[{self.count - len(self.left)}/{self.count}] {job}: {text}")

    def spent(self) -> dict[Job, float]:
        """Return the seconds of the running steps, at most those expected."""
        now = time.perf_counter()
        return {job: min(now - began, job.step.seconds) for job, (began, _) in self.running.items()}

    def estimate(self, workers: int) -> str:
        """Say how long what is left takes: as the workers share it, or as its longest path."""
        spent = self.spent()
        left = _seconds(self.left) - sum(spent.values())
        longest = max((path_seconds(job.step) - spent.get(job, 0.0) for job in self.left), default=0.0)
        return f"about {max(left / max(workers, 1), longest) / 60:.0f} minutes left"

    def tick(self, workers: int) -> None:
        """Redraw the bars."""
        spent = self.spent()
        for job, (_, bar) in self.running.items():
            bar.n = spent[job]
            bar.refresh()
        self.all.n = self.all.total - _seconds(self.left) + sum(spent.values())
        self.all.set_description_str(f"{self.count - len(self.left)} of {self.count}, {self.estimate(workers)}")

    def close(self) -> None:
        for bar in (*(bar for _, bar in self.running.values()), self.all):
            bar.close()


def _seconds(jobs: list[Job]) -> float:
    return sum(job.step.seconds for job in jobs)


def run_all(jobs: list[Job], config: Config, engine: Any, fingerprint: str) -> dict[Job, Ended]:
    """Run what is not current, as soon as what it needs is there and a worker is free; return what has failed.

    Of what is ready, an earlier seed comes first, then what most is to wait for. What needs a failed step is left out.
    """
    waiting, ready, running, finished, failed = list(jobs), [], {}, set(), {}
    with contextlib.closing(Progress(jobs)) as progress:
        while True:
            for job in list(waiting):
                if all((job.seed, needed) in finished for needed in job.step.needs):
                    waiting.remove(job)
                    if not config.force and is_current(job.step, config, job.seed, fingerprint):
                        finished.add((job.seed, job.step.folder))
                        progress.end(job, "finished and unchanged")
                    else:
                        ready.append(job)
            ready.sort(key=lambda job: (config.seeds.index(job.seed), -path_seconds(job.step)))
            workers = engine.workers()
            while ready and len(running) < workers:
                job = ready.pop(0)
                progress.start(job, workers)
                running[engine.submit(task(job, config))] = job
            if not running and not ready:
                return failed
            progress.tick(workers)
            if not running:
                time.sleep(TICK)  # no worker yet
            for future in wait(running, TICK, FIRST_COMPLETED).done:
                job = running.pop(future)
                ended = engine.ended(task(job, config), future)
                if ended.code:
                    failed[job] = ended
                    progress.end(job, f"failed with exit code {ended.code}")
                else:
                    finished.add((job.seed, job.step.folder))
                    progress.end(job, ended.printed.split("\n", 1)[0])
                    if ended.said:
                        progress.say(ended.said.rstrip(), sys.stderr)


def prepare(config: Config) -> str:
    """Fetch the data if need be; return their fingerprint."""
    beside("common.download", "--dataset", config.dataset, "--data-dir", str(config.data_dir.resolve()))
    return download.fingerprint(download.prepare(config.dataset, config.data_dir)[0])


def draw(config: Config) -> str:
    """Write the page on which one draws a digit; return what is said of it."""
    folders = ("--output-dir", str(config.output_dir.resolve()), "--data-dir", str(config.data_dir.resolve()))
    return beside("common.draw_page", *folders)


def beside(module: str, *options: str) -> str:
    """Run a module in a process of its own, as it may load PyTorch; return what it prints, or end with its code."""
    line = [sys.executable, "-m", module, *options]
    done = subprocess.run(line, cwd=results.REPOSITORY, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(max(1, done.returncode))
    return done.stdout.strip()


def start_engine(config: Config) -> Any:
    """Return where to run; InputError for a cluster that cannot be had."""
    if not config.scheduler:
        return Here(config.workers)
    if importlib.util.find_spec("distributed") is None:
        raise run.InputError("--scheduler: dask.distributed is not installed: pip install -r requirements-cluster.txt")
    from common.cluster import Cluster

    return Cluster(config.scheduler)


def main(config: Config) -> None:
    """Run every step of every seed that is not current, write the pages, compare."""
    started = time.perf_counter()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: no step outlives this process
    fingerprint = prepare(config)
    engine = start_engine(config)
    jobs = [Job(seed, step) for seed in config.seeds for step in STEPS]
    try:
        failed = run_all(jobs, config, engine, fingerprint)
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # a second one would leave steps running
        raise
    finally:
        engine.stop()
    for job, ended in failed.items():
        killed = f"{job} was killed by signal {-ended.code}; the same command runs it again"
        print(f"error: {killed}" if ended.code < 0 else ended.said.strip(), file=sys.stderr)
    if failed:
        sys.exit(max(1, next(iter(failed.values())).code))
    try:
        page = draw(config)  # first, as the report says where it is
    finally:
        path = report.write(config.output_dir)
    print(f"{(time.perf_counter() - started) / 60:.1f} minutes; report: {path}", page, sep="\n", flush=True)
    if config.check:
        check.main(check.Config(output_dir=config.output_dir))


if __name__ == "__main__":
    run.command_line(main, Config)

"""Where steps run: as processes of this machine (``Here``), or on a Dask cluster (cluster.py). Imports no torch."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import psutil

from common import results

# Of a step, whatever the machine: so the published numbers come on any, and steps side by side do not get in the way.
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
STEP_MEMORY = 1.8e9  # bytes that the largest step may take
GRACE = 1.0  # seconds that interrupted processes have to end by themselves


class Task(NamedTuple):
    """A script to run: its options but for folders, its results folder, those it needs, and where these are."""

    script: str
    options: list[str]
    folder: str
    needs: tuple[str, ...]
    output_dir: Path
    data_dir: Path


class Ended(NamedTuple):
    """What a task came to: its exit code, and what it printed to stdout and to stderr."""

    code: int
    printed: str
    said: str


class Here:
    """This machine: as many processes of one thread at a time as it has cores, and as fit its free memory."""

    def __init__(self, workers: int | None):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        fitting = max(1, min(cores, int(psutil.virtual_memory().available / STEP_MEMORY)))
        self.count = workers or fitting
        self._pool, self._lock, self._stopped = ThreadPoolExecutor(self.count), threading.Lock(), False
        self._processes: dict[subprocess.Popen, Path] = {}

    def workers(self) -> int:
        """Return how many tasks may run at a time."""
        return self.count

    def submit(self, task: Task) -> Future:
        """Start a task; its script writes into its folder by itself."""
        return self._pool.submit(self._run, task)

    def ended(self, task: Task, future: Future) -> Ended:
        """Return what a task that is done came to."""
        return future.result()

    def _run(self, task: Task) -> Ended:
        line = [sys.executable, str(results.REPOSITORY / task.script), *task.options]
        line += ["--data-dir", str(task.data_dir), "--output-dir", str(task.output_dir)]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8", "errors": "replace"}
        with self._lock:
            if self._stopped:
                return Ended(130, "", "")
            process = subprocess.Popen(line, env=os.environ | THREADS, **streams)
            self._processes[process] = task.output_dir
        printed, said = process.communicate()
        with self._lock:
            del self._processes[process]
        return Ended(process.returncode, printed, said)

    def stop(self) -> None:
        """End what runs, within two seconds. Ctrl-C in a terminal has reached the processes too: they may end alone."""
        with self._lock:
            self._stopped, running = True, dict(self._processes)
        deadline = time.monotonic() + GRACE
        for process, output_dir in running.items():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            process.kill()
            process.wait()
            results.remove_unfinished(output_dir, process.pid)
        self._pool.shutdown(wait=False)

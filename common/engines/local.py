"""Steps as processes of this machine. Imports no torch."""

import contextlib
import dataclasses
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from common.run import REPOSITORY, Options

# One thread a step, here and on a cluster: the same bits on any machine, and steps side by side do
# not get in each other's way.
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
STEP_MEMORY = 1.8e9  # bytes, of the largest step
POLL = 0.2  # seconds from one look at a process to the next
GRACE = 2.0  # seconds in which a process that is told to end may tidy up

# Runs a module as `python -m` does, and ends it when its stdin is closed: by the process that
# started it or, if that was killed, by the system. Ctrl-C in a terminal reaches this process too,
# but only the one that started it decides.
CHILD = """
import _thread, os, runpy, signal, sys, threading, time

def end_with_parent():
    os.read(0, 1)
    _thread.interrupt_main(signal.SIGTERM)
    time.sleep(1)
    os._exit(1)

signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.default_int_handler)
threading.Thread(target=end_with_parent, daemon=True).start()
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What this process may use."""

    cores: float
    memory: float  # bytes


class LocalEngine:
    """Runs steps on this machine: as many at a time as it has cores, and as fit into its memory."""

    def __init__(self, workers: int | None = None):
        self._workers = workers or count_workers()
        self._stopped = threading.Event()

    def workers(self) -> int:
        """Return how many steps may run at a time."""
        return self._workers

    def run(
        self, step: str, needs: tuple[str, ...], options: Options
    ) -> subprocess.CompletedProcess:
        """Run a step to its end; it reads what it ``needs`` and leaves its results by itself."""
        return run_child(arguments_of(step, options), REPOSITORY, self._stopped.is_set)

    def close(self) -> None:
        """End the steps that run."""
        self._stopped.set()


def arguments_of(step: str, options: Options) -> list[str]:
    """Return the module of a step ("studies/ablation" is studies.ablation) and its options."""
    words = [step.replace("/", ".")]
    for name, value in vars(options).items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [option] * value
        else:
            words += [option, str(value)]
    return words


def run_child(
    arguments: list[str], folder: Path, is_stopped: Callable[[], bool]
) -> subprocess.CompletedProcess:
    """Run a module with its options in ``folder`` until it ends, or until ``is_stopped``.

    The process ends with this one, whatever ends this one. What it prints is returned as text.
    """
    environment = os.environ | THREADS | {"PYTHONIOENCODING": "utf-8"}
    # Dask sets it in its workers, where it costs a step a third of its time.
    environment.pop("MALLOC_TRIM_THRESHOLD_", None)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-c", CHILD, *arguments]
    process = subprocess.Popen(
        command, cwd=folder, env=environment, encoding="utf-8", errors="replace", **pipes
    )
    lifeline, process.stdin = process.stdin, None  # communicate() would close it
    printed = None
    with process:
        try:
            while printed is None and not is_stopped():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    printed = process.communicate(timeout=POLL)
        finally:
            lifeline.close()
        if printed is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            process.kill()
            printed = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, *printed)


def count_workers() -> int:
    """Return how many steps the cores and the free memory of this machine or container allow."""
    limits = read_limits()
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    memory = min(psutil.virtual_memory().available, limits.memory)
    return max(1, int(min(cores, limits.cores, memory / STEP_MEMORY)))


def read_limits(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> Limits:
    """Return the limits of this process's control groups, version 1 or 2; infinite without any.

    ``membership`` has a line "number:controllers:/path" for each group that this process is in.
    """
    cores = memory = math.inf
    for group in control_groups(root, membership):
        quota, period = math.inf, 1.0
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max" for no limit
            quota, period = (float(word) for word in (group / "cpu.max").read_text().split())
        with contextlib.suppress(OSError, ValueError):
            quota = float((group / "cpu.cfs_quota_us").read_text())
            period = float((group / "cpu.cfs_period_us").read_text())
        if quota > 0:  # version 1 writes -1 for no limit
            cores = min(cores, quota / period)
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):
                memory = min(memory, float((group / name).read_text()))
    return Limits(cores, memory)


def control_groups(root: Path, membership: Path) -> Iterator[Path]:
    """Yield the folders of the control groups that this process is in, and of those above them."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        mount = root / controllers  # "" in version 2
        group = mount / path.lstrip("/")
        yield group
        # A container may see the path that its group has outside, but only its own folders.
        for parent in group.parents:
            if parent.is_relative_to(mount):
                yield parent

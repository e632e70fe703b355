"""Steps on the machines of a Dask cluster, for ``reproduce.py --scheduler``. Imports no torch.

A worker needs Python and the requirements, no copy of this repository and no shared file system: it gets the code and
the results that a step builds on as bytes, prepares the data by itself, once, and returns the step's folder as bytes.
"""

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
import threading
import uuid
import warnings
from concurrent.futures import CancelledError, Future
from pathlib import Path

import cloudpickle
import distributed

from common import results
from common.download import FOLDERS
from common.engines import GRACE, THREADS, Ended, Task
from common.run import InputError, RunError

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # functions travel whole, as workers have no such module
TIMEOUT = 10  # seconds in which a scheduler must answer
Files = dict[str, bytes]  # content by path
# Runs a script, and ends it when the worker is no more, whose end of the pipe is closed then.
LIFELINE = """
import os, runpy, sys, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Cluster:
    """An engine, as is ``engines.Here``: as many tasks at a time as the workers have threads, of one thread each."""

    def __init__(self, address: str):
        """Connect; InputError where no scheduler answers, or a worker has other versions than this machine."""
        logging.disable(logging.ERROR)  # what goes wrong is said here, in one line
        warnings.filterwarnings("ignore", category=UserWarning, module="distributed")  # of versions, of large messages
        self.address, self.name = address, uuid.uuid4().hex
        self.expected = results.versions() | {"distributed": distributed.__version__}
        try:
            self.client = distributed.Client(address, timeout=TIMEOUT, set_as_default=False)
        except (OSError, ValueError) as error:
            remedy = "start one with `dask scheduler`"
            raise InputError(f"--scheduler: got {address}, where no scheduler answers ({error}): {remedy}") from error
        versions = self.client.get_versions()
        others = {"the scheduler": versions["scheduler"]} | {f"worker {k}": v for k, v in versions["workers"].items()}
        python = versions["client"]["host"]["python"]
        found = {name: of["host"]["python"] for name, of in others.items()}
        wrong = [f"{name} has python {has}, expected {python}" for name, has in found.items() if has != python]
        if not wrong:  # another Python would not survive a function of this one
            unlike = self.client.run(_unlike, self.expected)
            wrong = [f"worker {worker} has {found}" for worker, found in unlike.items() if found]
        if wrong:
            raise InputError(f"--scheduler: {wrong[0]}: install the same versions everywhere")
        self.executor = self.client.get_executor(pure=False, retries=1)
        self.perform = cloudpickle.loads(cloudpickle.dumps(_perform))  # a copy that no worker could import by its name
        if not self.workers():
            print(f"{address} has no workers yet: steps start as these come", file=sys.stderr)

    def workers(self) -> int:
        """Return how many tasks may run at a time, as workers come and go; RunError without scheduler."""
        try:
            return sum(self.client.nthreads().values())
        except (OSError, AttributeError, RuntimeError):  # as distributed says that there is no connection
            raise self._lost() from None

    def submit(self, task: Task) -> Future:
        """Send a task with its code and all that it needs."""
        files = _read(results.REPOSITORY, "q*.py", "common/*.py")
        for name in task.needs:
            files |= {f"outputs/{path}": content for path, content in _read(task.output_dir, f"{name}/*").items()}
        sent = (task.script, task.options, task.folder, str(task.data_dir), files, self.expected)
        key = f"{task.folder} in {task.output_dir.name}, run {self.name}"  # twice the same is once
        return self.executor.submit(self.perform, self.name, *sent, key=key)

    def ended(self, task: Task, future: Future) -> Ended:
        """Return what a task that is done came to, its results put in their place whole; RunError without scheduler."""
        try:
            code, printed, said, files = future.result()
        except CancelledError:
            raise self._lost() from None
        except Exception as error:
            return Ended(1, "", f"error: {task.folder}: {type(error).__name__}: {error}")
        if code == 0:
            target = task.output_dir / task.folder
            folder = results.begin(target)
            _write(folder, files)
            config = results.read_config(folder) | {"git_commit": results.git_commit()}  # unknown to the worker
            results.write_json(folder / "config.json", config)
            results.swap_in(folder, target)
        return Ended(code, printed, said)

    def _lost(self) -> RunError:
        return RunError(f"the scheduler at {self.address} was lost; finished steps are kept, the same command goes on")

    def stop(self) -> None:
        """End what runs on the workers, within two seconds as far as these answer, and leave the cluster as it is."""

        def stop() -> None:
            with contextlib.suppress(Exception):  # of a scheduler or a worker that is no more
                self.executor.shutdown(wait=False)
                self.client.run(_stop, self.name, on_error="ignore")
                self.client.close()

        stopping = threading.Thread(target=stop, daemon=True)
        stopping.start()
        stopping.join(GRACE)


def _read(folder: Path, *patterns: str) -> Files:
    paths = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _write(folder: Path, files: Files) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


# What follows runs on the workers.


def _unlike(expected: dict[str, str]) -> str:
    """Say in which version this process is not as ``expected``; empty if in none."""
    import importlib.metadata
    import platform

    for name, version in expected.items():
        try:
            found = platform.python_version() if name == "python" else importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = "none"
        if found != version:
            return f"{name} {found}, expected {version}"
    return ""


def _state(worker: distributed.Worker) -> dict:
    """Return what a worker knows of its steps: a lock for the data, run by process, and the runs that were stopped."""
    return vars(worker).setdefault("_reproduce", {"data": threading.Lock(), "running": {}, "stopped": set()})


def _perform(
    run: str, script: str, options: list[str], folder: str, data_dir: str, files: Files, expected: dict[str, str]
) -> tuple[int, str, str, Files]:
    """Run a script on its files in a folder that is removed; return exit code, stdout, stderr and the results."""
    worker = distributed.get_worker()
    environment = os.environ | THREADS
    environment.pop("MALLOC_TRIM_THRESHOLD_", None)  # Dask's, which costs a step a third of its time
    state = _state(worker)

    def execute(*line: str) -> tuple[int, str, str]:
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | {"encoding": "utf-8"}
        settings = {"cwd": temporary, "env": environment, "errors": "replace", **streams}
        # In a session of its own, so that what ends the worker's does not end the step as if it had failed.
        with subprocess.Popen([sys.executable, "-c", LIFELINE, *line], start_new_session=True, **settings) as process:
            state["running"][process] = run
            if run in state["stopped"]:
                process.kill()
            lifeline, process.stdin = process.stdin, None  # communicate() would close it
            printed, said = process.communicate()
            lifeline.close()
            del state["running"][process]
        if process.returncode < 0 and run not in state["stopped"]:  # memory, a machine that shuts down: once more
            raise RuntimeError(f"killed by signal {-process.returncode} on worker {worker.address}")
        return process.returncode, printed, said

    if found := _unlike(expected):
        return 2, "", f"error: worker {worker.address} has {found}: install the same versions everywhere", {}
    with tempfile.TemporaryDirectory(dir=worker.local_directory) as temporary:
        _write(Path(temporary), files)
        dataset = options[options.index("--dataset") + 1] if "--dataset" in options else "mnist"
        if not Path(data_dir, FOLDERS[dataset]).is_dir():  # the sender's, unless it is here too
            data_dir = os.path.join(worker.local_directory, "data")
        with state["data"]:
            prepared = execute("common/download.py", "--dataset", dataset, "--data-dir", data_dir)
        if prepared[0]:
            return *prepared[:2], f"{prepared[2].strip()} (on worker {worker.address})", {}
        output_dir = Path(temporary, "outputs")
        ended = execute(script, *options, "--data-dir", data_dir, "--output-dir", str(output_dir))
        return *ended, _read(output_dir / folder, "*") if ended[0] == 0 else {}


def _stop(run: str, dask_worker: distributed.Worker) -> None:
    """Kill the processes of one run, and let it start no others."""
    state = _state(dask_worker)
    state["stopped"].add(run)
    for process, its_run in list(state["running"].items()):
        if its_run == run:
            process.kill()

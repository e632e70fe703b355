"""Steps on the machines of a Dask cluster, for ``reproduce.py --scheduler``. Imports no torch.

A worker needs Python and the requirements, but no copy of this repository, no shared disk and no
network: it gets the code, the data and the results that a step reads as bytes, and it returns the
step's results as bytes.
"""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import functools
import gzip
import importlib.metadata
import logging
import platform
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path

import cloudpickle
import distributed

from common import download, results
from common.engines import local
from common.engines.local import GRACE, POLL, STEP_MEMORY, arguments_of, run_child
from common.run import InputError, Options, RunError, open_workspace

# Workers have no such modules, so functions of these travel whole, as by_value() makes them.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
cloudpickle.register_pickle_by_value(local)

CODE = ("q*.py", "common/**/*.py", "studies/**/*.py")
ANSWER_TIME = 6  # seconds in which a scheduler must answer
INTERRUPTED = 130
Files = dict[str, bytes]  # content by path, relative to some folder


class DaskEngine:
    """Runs steps on a cluster, as many at a time as its workers have threads."""

    def __init__(self, address: str):
        """Connect. InputError if no scheduler answers, or a machine has other versions."""
        logging.disable(logging.ERROR)  # what goes wrong is said here, in one line
        warnings.filterwarnings("ignore", module="distributed")  # of versions, of large messages
        self._address = address
        self._stopped = threading.Event()
        self._expected = results.versions() | {"distributed": distributed.__version__}
        require_scheduler(address)
        self._client = distributed.Client(address, timeout=ANSWER_TIME, set_as_default=False)
        self._require_same_versions()
        if not self.workers():
            print(f"{address} has no workers yet: steps start when they come", file=sys.stderr)

    def workers(self) -> int:
        """Return how many steps may run at a time, as workers come and go.

        RunError if the scheduler is gone.
        """
        try:
            return sum(self._client.nthreads().values())
        except (OSError, AttributeError, RuntimeError):  # as distributed says that it is gone
            raise self._lost() from None

    def run(
        self, step: str, needs: tuple[str, ...], options: Options
    ) -> subprocess.CompletedProcess:
        """Run a step to its end with the results it ``needs``, and put its own in their place.

        InputError if they cannot be put there, RunError if the scheduler is gone.
        """
        workspace = open_workspace(options.output_dir / step)  # or there is no need to run it
        try:
            process, made = self._run_there(step, needs, options)
            if process.returncode == 0:
                place(workspace, made)
        except OSError as error:
            return subprocess.CompletedProcess(step, 1, "", f"error: {step}: {error}")
        finally:
            workspace.discard()  # if it is not in its place
        return process

    def _run_there(
        self, step: str, needs: tuple[str, ...], options: Options
    ) -> tuple[subprocess.CompletedProcess, Files]:
        """Run a step on a worker, and return the files that it left."""
        files = read_files(results.REPOSITORY, CODE)
        files |= pack_data(options.dataset, options.data_dir)
        for needed in needs:
            for name, content in read_files(options.output_dir / needed, ("*",)).items():
                files[f"outputs/{needed}/{name}"] = content
        there = dataclasses.replace(options, data_dir=Path("data"), output_dir=Path("outputs"))

        future = self._client.submit(
            by_value(run_on_worker),
            arguments_of(step, there),
            files,
            Path("outputs", step),
            self._expected,
            key=f"{step}, seed {options.seed}, {uuid.uuid4().hex}",
            retries=1,
        )
        while not future.done():
            if self._stopped.is_set():
                return subprocess.CompletedProcess(step, INTERRUPTED, "", ""), {}
            time.sleep(POLL)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise self._lost() from None
        except Exception as error:  # of the worker, whatever it is
            line = f"error: {step}: {type(error).__name__}: {error}"
            return subprocess.CompletedProcess(step, 1, "", line), {}

    def close(self) -> None:
        """End the steps that run, and leave the cluster as it is."""
        self._stopped.set()

        def close_client() -> None:
            with contextlib.suppress(Exception):  # the scheduler may be gone
                self._client.close()

        closing = threading.Thread(target=close_client, daemon=True)
        closing.start()
        closing.join(GRACE)

    def _require_same_versions(self) -> None:
        versions = self._client.get_versions()
        expected = versions["client"]["host"]["python"]
        machines = {"the scheduler": versions["scheduler"]}
        for worker, its_versions in versions["workers"].items():
            machines[f"worker {worker}"] = its_versions

        for machine, its_versions in machines.items():
            python = its_versions["host"]["python"]
            if python != expected:  # it could not read a function of this Python
                raise self._unlike(machine, f"python {python}, expected {expected}")
        differences = self._client.run(by_value(version_unlike), self._expected)
        for worker, difference in differences.items():
            if difference:
                raise self._unlike(f"worker {worker}", difference)

    def _unlike(self, machine: str, difference: str) -> InputError:
        return InputError(
            f"--scheduler: {machine} has {difference}: install the same versions everywhere"
        )

    def _lost(self) -> RunError:
        return RunError(
            f"the scheduler at {self._address} was lost; finished steps are kept, and the same"
            " command goes on"
        )


def require_scheduler(address: str) -> None:
    """Raise InputError, before long, unless a scheduler answers at an address, whatever else does.

    A client would try again and again.
    """
    try:
        kind = asyncio.run(asyncio.wait_for(ask_kind(address), ANSWER_TIME))
        reason = f"but a {kind.lower()}"
    except asyncio.TimeoutError:
        kind, reason = "", f"within {ANSWER_TIME} seconds"
    except (OSError, ValueError, TypeError) as error:  # TypeError: no certificates for tls://
        kind, reason = "", f"({error})"
    except Exception:  # of reading what is no message of distributed's; MemoryError too
        kind, reason = "", "but something else"
    if kind != "Scheduler":
        raise InputError(
            f"--scheduler: got {address}, where no scheduler answers {reason}:"
            " start one with `dask scheduler`"
        )


async def ask_kind(address: str) -> str:
    """Return what listens at an address: a "Scheduler" or a "Worker"."""
    security = distributed.Security().get_connection_args("client")
    comm = await distributed.core.connect(address, timeout=ANSWER_TIME, **security)
    try:
        await comm.write({"op": "identity", "reply": True})
        answer = await comm.read()
        return answer["type"]
    finally:
        comm.abort()


def place(workspace: results.Workspace, files: Files) -> None:
    """Put the files that a step left on a worker in their place here."""
    write_files(workspace.folder, files)
    config = results.read_config(workspace.folder)
    config["git_commit"] = results.git_commit()  # which the worker cannot know
    results.write_json(workspace.folder / "config.json", config)
    workspace.swap_in()


def by_value(function: Callable) -> Callable:
    """Return a copy of a function that nobody takes for one to be imported by its name."""
    return cloudpickle.loads(cloudpickle.dumps(function))


@functools.cache
def pack_data(dataset: download.DatasetName, data_dir: Path) -> Files:
    """Return the raw files of a dataset, compressed, by their path in a worker's folder."""
    files = {}
    for file in download.prepare(dataset, data_dir):
        content = file.path.read_bytes()
        name = f"data/{file.path.name}"
        if file.path.suffix == ".gz":
            files[name] = content
        else:
            files[f"{name}.gz"] = gzip.compress(content, compresslevel=1)
    return files


def read_files(folder: Path, patterns: tuple[str, ...]) -> Files:
    """Return the files of ``folder`` that match one of the patterns."""
    files = {}
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            if path.is_file():
                files[path.relative_to(folder).as_posix()] = path.read_bytes()
    return files


def write_files(folder: Path, files: Files) -> None:
    """Write what ``read_files`` returned."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


# What follows runs on the workers.


def version_unlike(expected: dict[str, str]) -> str:
    """Say in which version this process differs from ``expected``; empty if in none."""
    actual = {"python": platform.python_version()}
    for name, version in expected.items():
        if name not in actual:
            try:
                actual[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                actual[name] = "none"
        if actual[name] != version:
            return f"{name} {actual[name]}, expected {version}"
    return ""


def run_on_worker(
    arguments: list[str], files: Files, target: Path, expected: dict[str, str]
) -> tuple[subprocess.CompletedProcess, Files]:
    """Run a module on its files in a temporary folder, and return what it left in ``target``.

    The process ends when the task is cancelled, as when the client closes or is killed.
    """
    worker = distributed.get_worker()
    key = worker.get_current_task()

    def is_cancelled() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state != "executing"

    if difference := version_unlike(expected):
        line = f"worker {worker.address} has {difference}: install the same versions everywhere"
        return subprocess.CompletedProcess(arguments, 2, "", f"error: {line}"), {}
    with tempfile.TemporaryDirectory(dir=worker.local_directory) as temporary:
        folder = Path(temporary)
        write_files(folder, files)
        process = run_child(arguments, folder, is_cancelled)
        if process.returncode < 0 or process.returncode == INTERRUPTED:
            # Dask tries it once more. It may be the machine that shuts down.
            raise RuntimeError(
                f"killed on worker {worker.address} (exit code {process.returncode}); a step needs"
                f" {STEP_MEMORY / 1e9} GB of memory"
            )
        return process, read_files(folder / target, ("*",))

"""Tests of common/engines/dask_cluster.py, with a cluster on this machine's loopback."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from common import results
from tests import helpers
from tests.toy_repository import ToyRepository, numbers_of

distributed = pytest.importorskip("distributed", reason="requirements-cluster.txt is not installed")


@dataclasses.dataclass
class Cluster:
    """A scheduler and its workers as processes in a folder from which nothing of ours is found."""

    folder: Path
    scheduler: subprocess.Popen
    workers: list[subprocess.Popen]

    def add_worker(self, **environment) -> None:
        """Start a worker with two threads."""
        options = ("--nthreads", 2, "--no-nanny", "--no-dashboard", "--local-directory", "workers")
        module = ("-m", "distributed.cli.dask_worker")
        arguments = (*module, "--scheduler-file", "scheduler.json", *options)
        self.workers.append(helpers.start(*arguments, cwd=self.folder, **environment))


@pytest.fixture
def cluster(tmp_path: Path):
    """A cluster of one worker."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    options = ("--host", "127.0.0.1", "--port", 0, "--no-dashboard", "--no-jupyter")
    module = ("-m", "distributed.cli.dask_scheduler")
    scheduler = helpers.start(*module, "--scheduler-file", "scheduler.json", *options, cwd=folder)
    made = Cluster(folder, scheduler, [])
    made.add_worker()
    yield made
    for process in (*made.workers, made.scheduler):
        process.kill()
        process.communicate()


@pytest.fixture
def repository(tmp_path: Path) -> ToyRepository:
    """A repository whose steps take no time."""
    return ToyRepository(tmp_path)


def address_of(cluster: Cluster) -> str:
    """Return the scheduler's address, once it listens."""
    path = cluster.folder / "scheduler.json"
    helpers.wait_for(lambda: path.exists() and path.read_text())
    return json.loads(path.read_text())["address"]


def test_a_cluster_gives_what_this_machine_gives_and_one_line_for_what_fails(cluster, repository):
    repository.run()
    here = {path.name: (path / "numbers.csv").read_text() for path in repository.outputs.iterdir()}
    address = address_of(cluster)
    done = repository.run("--scheduler", address, "--force")
    assert done.returncode == 0, done.stderr
    there = {path.name: (path / "numbers.csv").read_text() for path in repository.outputs.iterdir()}
    assert there == here and len(here) == 5
    for name in here:
        assert results.read_config(repository.outputs / name)

    repository.write("q2_classifier", "sys.exit('error: as asked')")
    done = repository.run("--scheduler", address)
    assert done.returncode == 1 and done.stderr == "error: as asked\n"

    metadata = cluster.folder / "numpy-0.1.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Name: numpy\nVersion: 0.1\n")
    cluster.add_worker(PYTHONPATH=cluster.folder)
    with distributed.Client(address, set_as_default=False) as client:
        client.wait_for_workers(2)
    done = repository.run("--scheduler", address)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "numpy 0.1" in done.stderr


def test_a_step_survives_its_worker_but_not_the_run_nor_the_scheduler(cluster, repository):
    address = address_of(cluster)
    told = repository.write_hanging("q2_classifier")
    process = repository.start("--scheduler", address)
    step, worker = numbers_of(told)
    cluster.add_worker()
    os.kill(worker, signal.SIGKILL)
    helpers.wait_for(lambda: helpers.is_gone(step))
    done = helpers.finish(process)
    assert done.returncode == 0, done.stderr  # it ran again, elsewhere

    told.unlink()
    process = repository.start("--scheduler", address, "--force")
    step, _ = numbers_of(told)
    process.kill()
    helpers.finish(process)
    helpers.wait_for(lambda: helpers.is_gone(step))

    told.unlink()
    process = repository.start("--scheduler", address, "--force")
    numbers_of(told)
    cluster.scheduler.kill()
    done = helpers.finish(process)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    left = {path.name for path in repository.outputs.iterdir()}
    assert len(left) == 5 and not any(name.startswith(".") for name in left)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "tcp://127.0.0.1", "http://127.0.0.1:9"])
def test_no_scheduler_is_one_line(address, repository):
    done = repository.run("--scheduler", address)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr


ANSWERS = {
    "nothing": b"",
    "a web server": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "an SSH server": b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
    "binary": b"\x01" + bytes(7) + b"\xff" * 64,
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_whatever_else_answers_is_one_line(answer, repository):
    with socket.create_server(("127.0.0.1", 0)) as server:
        process = repository.start("--scheduler", f"tcp://127.0.0.1:{server.getsockname()[1]}")
        connection, _ = server.accept()
        with connection:
            connection.sendall(answer)
            done = helpers.finish(process)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "no scheduler" in done.stderr


def test_a_worker_is_no_scheduler(cluster, repository):
    with distributed.Client(address_of(cluster), set_as_default=False) as client:
        client.wait_for_workers(1)
        (worker,) = client.scheduler_info()["workers"]
    done = repository.run("--scheduler", worker)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "a worker" in done.stderr

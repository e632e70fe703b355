"""Tests of both engines with a small script for a step: on this machine, and on a Dask cluster on its loopback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import reproduce
from common import results
from common.engines import Here, Task
from common.run import InputError, RunError

STEP = """
import hashlib, json, os, sys, time
from pathlib import Path

options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
outputs, data = Path(options["--output-dir"]), Path(options["--data-dir"])
if "--tell" in options:  # who runs this; then wait, the first time only
    told = Path(options["--tell"])
    waits = not told.exists()
    told.with_suffix(".part").write_text(f"{os.getpid()} {os.getppid()}")
    os.replace(told.with_suffix(".part"), told)
    folder = outputs / f".{options['--folder']}-{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    while waits:
        time.sleep(0.05)
if "--fail" in options:
    sys.exit("error: it failed, as asked")
folder = outputs / options["--folder"]
folder.mkdir(parents=True, exist_ok=True)
needed = [(outputs / name / "model.safetensors").read_text() for name in options.get("--needs", "").split()]
content = f"{options['--folder']} on {needed}, {(data / 'MNIST' / 'images').read_text()}"
content += f", threads {os.environ['OMP_NUM_THREADS']}, {[name for name in os.environ if 'MALLOC' in name]}"
(folder / "model.safetensors").write_text(content)
digest = hashlib.sha256(content.encode()).hexdigest()
config = {"options": {"dataset": "mnist"}, "git_commit": None, "files_sha256": {"model.safetensors": digest}}
(folder / "config.json").write_text(json.dumps(config))
print("the answer")
"""
DOWNLOAD = """
import os, sys, time
from pathlib import Path

dataset, folder = sys.argv[2], Path(sys.argv[4])
if dataset != "mnist":
    print(f"error: {dataset}: tried the network: get online", file=sys.stderr)
    sys.exit(2)
with open(os.environ.get("PREPARED", os.devnull), "a") as log:
    print(folder, (folder / "MNIST").exists(), file=log)
time.sleep(0.5)  # another one that does not wait comes now
(folder / "MNIST").mkdir(parents=True, exist_ok=True)
(folder / "MNIST" / "images").write_text("images")
"""


@pytest.fixture
def go(tmp_path, monkeypatch):
    """Make a repository of the small script, and return how a task of it is written."""
    for name, text in {"q9_step.py": STEP, "common/download.py": DOWNLOAD, "common/__init__.py": ""}.items():
        path = tmp_path / "repository" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "data" / "MNIST").mkdir(parents=True)
    (tmp_path / "data" / "MNIST" / "images").write_text("images")
    monkeypatch.setattr(results, "REPOSITORY", tmp_path / "repository")
    monkeypatch.setattr(results, "git_commit", lambda: "the commit")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # is not what steps get

    def task(folder, *options, needs=(), outputs="outputs", data="data"):
        options = ["--folder", folder, *(["--needs", " ".join(needs)] if needs else []), *options]
        return Task("q9_step.py", options, folder, needs, tmp_path / outputs, tmp_path / data)

    return task


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)
    return found


def told(path: Path) -> list[int]:
    """Return the process and its parent that wrote ``path``, once it is there."""
    return [int(number) for number in wait_for(lambda: path.exists() and path.read_text().split())]


def is_gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return not results._is_running(process)


# This machine.


def test_steps_run_side_by_side_with_one_thread_and_what_one_says_comes_back(go, tmp_path):
    engine = Here(2)
    tasks = [go(name, "--tell", str(tmp_path / name)) for name in ("a", "b")]
    futures = [engine.submit(task) for task in tasks]
    told(tmp_path / "a"), told(tmp_path / "b")  # both wait: neither was kept from starting by the other
    engine.stop()
    assert [engine.ended(*pair).code for pair in zip(tasks, futures, strict=True)] == [-signal.SIGKILL] * 2
    engine = Here(1)
    whole, failing = go("whole"), go("failing", "--fail", "1")
    ended = [engine.ended(task, engine.submit(task)) for task in (whole, failing)]
    assert ended == [(0, "the answer\n", ""), (1, "", "error: it failed, as asked\n")]
    assert "threads 1" in (tmp_path / "outputs" / "whole" / "model.safetensors").read_text()


def test_memory_and_cores_bound_the_steps_at_a_time(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for gigabytes, steps in ((100, 8), (8, 4), (1, 1)):
        monkeypatch.setattr("psutil.virtual_memory", lambda of=gigabytes: type("", (), {"available": of * 1e9}))
        assert Here(None).count == steps
    assert Here(3).count == 3


@pytest.mark.skipif(os.name == "nt", reason="signals as these are POSIX's")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_all_steps_within_two_seconds_and_leaves_nothing(go, tmp_path, number):
    driver = f"""
import sys
import reproduce
from common import results, run
from pathlib import Path
results.REPOSITORY = Path({str(tmp_path / "repository")!r})
told = {str(tmp_path)!r}
reproduce.STEPS = tuple(
    reproduce.Step(name, "q9_step.py", ("--folder", name, "--tell", told + "/" + name), (), 1.0) for name in "ab"
)
reproduce.prepare = lambda config: "data"
reproduce.command = lambda step, config, seed: ["python", step.script, *step.options]
run.command_line(reproduce.main, reproduce.Config)
"""
    options = ["--workers", "2", "--data-dir", str(tmp_path / "data"), "--output-dir", str(tmp_path / "outputs")]
    environment = os.environ | {"PYTHONPATH": str(Path(reproduce.__file__).parent)}
    line = [sys.executable, "-c", driver, *options]
    process = subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True)
    steps = [told(tmp_path / name)[0] for name in "ab"]
    assert len(list((tmp_path / "outputs").glob(".*"))) == 2
    sent = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - sent < 10  # two seconds on a machine that has nothing else to do
    assert process.returncode == 130 and said.count("\n") == 1 and said.startswith("error: interrupted")
    assert all(map(is_gone, steps)) and not list((tmp_path / "outputs").iterdir())


# A cluster.


@pytest.fixture
def local_cluster(tmp_path, monkeypatch):
    """Return a function that starts a cluster of so many worker processes, two threads each, and connects."""
    distributed = pytest.importorskip("distributed", reason="requirements-cluster.txt is not installed")
    from common.cluster import Cluster

    monkeypatch.setenv("PREPARED", str(tmp_path / "prepared"))
    made = []

    def start(workers):
        settings = {"dashboard_address": ":0", "local_directory": str(tmp_path / "workers")}
        made.append(distributed.LocalCluster(n_workers=workers, threads_per_worker=2, processes=True, **settings))
        return made[-1], Cluster(made[-1].scheduler_address)

    yield start
    for cluster in made:
        cluster.close()


def test_a_cluster_gives_the_files_that_this_machine_gives(go, local_cluster, tmp_path, monkeypatch):
    _, cluster = local_cluster(1)
    assert cluster.workers() == 2
    here, outputs = Here(1), tmp_path / "outputs"
    tasks = [go("first", data="nowhere"), go("second", data="nowhere")]
    futures = [cluster.submit(task) for task in tasks]
    assert [cluster.ended(*pair) for pair in zip(tasks, futures, strict=True)] == [(0, "the answer\n", "")] * 2
    prepared = (tmp_path / "prepared").read_text().splitlines()
    assert [line.split()[1] for line in prepared] == ["False", "True"], "one after the other, once for both"
    assert str(tmp_path / "workers") in prepared[0] and not (tmp_path / "nowhere").exists()
    third = go("third", needs=("first", "second"))
    assert cluster.ended(third, cluster.submit(third)).code == 0
    assert str(tmp_path / "data") in (tmp_path / "prepared").read_text().splitlines()[2], "it is here too"
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)  # which Dask has set in this process too
    for task in (go("first", outputs="here"), go("second", outputs="here")):
        here.ended(task, here.submit(task))
    here.ended(third, here.submit(third._replace(output_dir=tmp_path / "here")))
    for name in ("first", "second", "third"):
        made, expected = (folder / name / "model.safetensors" for folder in (outputs, tmp_path / "here"))
        assert made.read_bytes() == expected.read_bytes()
        assert results.read_config(outputs / name)["git_commit"] == "the commit"
    assert sorted(path.name for path in outputs.iterdir()) == ["first", "second", "third"]
    cluster.stop()


def test_a_failing_step_a_worker_without_network_and_other_versions_are_one_line_and_write_nothing(
    go, local_cluster, tmp_path, monkeypatch
):
    dask, cluster = local_cluster(1)
    task = go("failing", "--fail", "1")
    assert cluster.ended(task, cluster.submit(task)) == (1, "", "error: it failed, as asked\n")
    task = go("offline", "--dataset", "kmnist", data="nowhere")
    ended = cluster.ended(task, cluster.submit(task))
    assert ended.code == 2 and ended.said.startswith("error: kmnist: tried the network: get online (on worker tcp")
    cluster.expected |= {"torch": "0.1"}  # a worker that came later
    task = go("unlike")
    ended = cluster.ended(task, cluster.submit(task))
    assert ended.code == 2 and ", expected 0.1: install the same versions everywhere" in ended.said
    assert not (tmp_path / "outputs").exists()
    versions = results.versions() | {"numpy": "0.1"}
    monkeypatch.setattr(results, "versions", lambda: versions)
    with pytest.raises(InputError, match=r"--scheduler: worker tcp.* has numpy .*, expected 0.1: install the same"):
        type(cluster)(dask.scheduler_address)


def test_a_step_whose_worker_is_killed_runs_again_elsewhere(go, local_cluster, tmp_path):
    _, cluster = local_cluster(2)
    task = go("whole", "--tell", str(tmp_path / "told"))
    future = cluster.submit(task)
    step, worker = told(tmp_path / "told")
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: is_gone(step), 5)  # it does not go on for nobody
    assert cluster.ended(task, future) == (0, "the answer\n", "")
    assert results.read_config(tmp_path / "outputs" / "whole") is not None
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["whole"]


def test_a_step_that_is_killed_runs_again_and_the_function_travels_whole(go, local_cluster, tmp_path):
    _, cluster = local_cluster(1)
    task = go("whole", "--tell", str(tmp_path / "told"))
    future = cluster.submit(task)
    os.kill(told(tmp_path / "told")[0], signal.SIGTERM)
    assert cluster.ended(task, future) == (0, "the answer\n", "")
    from distributed.protocol import pickle

    assert b"_function_setstate" in pickle.dumps((cluster.perform,)), "by its name, workers could not import it"
    cluster.client.run(lambda dask_worker, run: dask_worker._reproduce["stopped"].add(run), run=cluster.name)
    task = go("late")
    assert cluster.ended(task, cluster.submit(task)).code == -signal.SIGKILL, "a stopped run starts nothing"


def test_a_lost_scheduler_ends_the_run_and_stop_ends_what_runs(go, local_cluster, tmp_path):
    dask, cluster = local_cluster(1)
    other = type(cluster)(dask.scheduler_address)
    task = go("stopped", "--tell", str(tmp_path / "stopped"))
    other.submit(task)
    cluster_task = go("lost", "--tell", str(tmp_path / "lost"))
    future = cluster.submit(cluster_task)
    (stopped, _), (lost, _) = told(tmp_path / "stopped"), told(tmp_path / "lost")
    other.stop()
    wait_for(lambda: is_gone(stopped), 5)
    assert not is_gone(lost), "another run's"
    dask.close()
    with pytest.raises(RunError, match=r"the scheduler at tcp.* was lost; finished steps are kept"):
        cluster.ended(cluster_task, future)
    with pytest.raises(RunError, match="was lost"):
        cluster.workers()
    cluster.stop()
    assert not (tmp_path / "outputs").exists()


def test_no_scheduler_and_no_package_are_one_line(monkeypatch):
    if reproduce.importlib.util.find_spec("distributed"):
        monkeypatch.setattr("common.cluster.TIMEOUT", 0.5)
        with pytest.raises(InputError, match=r"--scheduler: got tcp://127.0.0.1:9, where no scheduler answers"):
            reproduce.start_engine(reproduce.Config(scheduler="tcp://127.0.0.1:9"))
    monkeypatch.setattr(reproduce.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"is not installed: pip install -r requirements-cluster.txt"):
        reproduce.start_engine(reproduce.Config(scheduler="tcp://127.0.0.1:9"))
    with pytest.raises(InputError, match="expected one of them"):
        reproduce.Config(scheduler="tcp://127.0.0.1:9", workers=2)

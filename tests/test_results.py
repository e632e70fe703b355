"""Tests of common/results.py: folders that are swapped in whole, whatever ends a run."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common import results
from tests import helpers

NAMES = ["model.safetensors", "numbers.csv", "loss.png"]
# Leaves TIMES results of no weight in TARGET, all of whose files hold TEXT. Before file operation
# LAST it kills or interrupts itself: python -c RUN TARGET TEXT TIMES LAST HOW
RUN = f"""
import os, signal, sys
from pathlib import Path
from common import results

target, text, times, last, how = sys.argv[1:]
operations = iter(range(1, 10**9))

def count(event, arguments):
    is_write = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir")
    if is_write or event == "open" and arguments[1] == "w":
        if next(operations) == int(last):
            if how == "interrupt":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
for _ in range(int(times)):
    workspace = results.Workspace(Path(target))
    for name in {NAMES}:
        (workspace.folder / name).write_text(text)
    digests = {{path.name: results.sha256(path) for path in workspace.folder.iterdir()}}
    results.write_json(workspace.folder / "config.json", {{"files_sha256": digests}})
    workspace.swap_in()
assert "torch" not in sys.modules
"""
posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals and locks")


def start(
    target: Path, text: str, *, times: int = 1, last: int = 0, how: str = "kill"
) -> subprocess.Popen:
    return helpers.start("-c", RUN, target, text, times, last, how)


def write(target: Path, text: str) -> None:
    """Leave results that hold ``text``."""
    assert helpers.finish(start(target, text)).returncode == 0


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The folder of finished results that hold "old"."""
    write(tmp_path / "outputs" / "q1", "old")
    return tmp_path / "outputs" / "q1"


def text_of(target: Path) -> str:
    """Return the text of results, which must be finished and whole."""
    assert results.read_config(target)
    (text,) = {(target / name).read_text() for name in NAMES}
    return text


def listing(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_results_are_finished_only_while_every_file_is_as_it_was_left(target):
    assert list(results.read_config(target)) == ["files_sha256"]
    for path in sorted(target.iterdir()):
        content = path.read_bytes()
        for damaged in (content[:-4], b"", b"x" + content, b"[]", b"{}", b'{"files_sha256": 1}'):
            path.write_bytes(damaged)
            assert results.read_config(target) is None, (path.name, damaged)
        path.unlink()
        assert results.read_config(target) is None
        path.write_bytes(content)
    assert results.read_config(target)
    assert results.read_config(target.parent) is None
    assert results.read_config(target / "nowhere") is None


def test_what_a_result_is_to_others_is_its_weights_and_numbers(target):
    config = results.read_config(target)
    for name, counts in {"model.safetensors": True, "numbers.csv": True, "loss.png": False}.items():
        changed = {"options": name, "files_sha256": config["files_sha256"] | {name: "0"}}
        differs = results.result_sha256(changed) != results.result_sha256(config)
        assert differs == counts, name


@posix
@pytest.mark.parametrize("how", ["kill", "interrupt"])
def test_ended_before_any_file_operation_a_whole_result_is_there_for_the_next_run(how, target):
    texts = []
    for number in range(1, 99):
        done = helpers.finish(start(target, "new", last=number, how=how))
        assert done.returncode in (0, -signal.SIGKILL if how == "kill" else -signal.SIGINT)
        if target.exists():
            text_of(target)  # nothing is ever a mixture, before the next run too
        else:
            assert how == "kill"
        next_run = results.Workspace(target)
        texts.append(text_of(target))
        assert {name for name in listing(target.parent) if not name.endswith(".lock")} == {
            "q1",
            next_run.folder.name,
        }
        next_run.discard()
        assert listing(target.parent) == {"q1"}
        if done.returncode == 0:
            break
        if texts[-1] == "new":
            write(target, "old")
    assert number > 10 and texts == sorted(texts, reverse=True) and set(texts) == {"old", "new"}


@posix
def test_runs_at_once_and_again_and_again_all_end_well_and_leave_one_whole_result(target):
    processes = [start(target, text, times=50) for text in ("a", "b", "c")]
    for process in processes:
        done = helpers.finish(process)
        assert done.returncode == 0, done.stderr
    assert text_of(target) in ("a", "b", "c")
    assert listing(target.parent) == {"q1"}


@posix
def test_what_a_living_run_writes_and_what_is_not_ours_stays(target):
    not_ours = {".q1-notes", ".q1_other-123.new", ".q1-notes.new", ".q1-0123456789ab.new"}
    for name in not_ours:
        (target.parent / name).mkdir()
    for name, text in ((".q1-notes.lock", ""), (".q1-0123456789ab.lock", "a stranger's")):
        (target.parent / name).write_text(text)
        not_ours.add(name)
    first = results.Workspace(target)
    second = results.Workspace(target)
    for workspace in (first, second):
        assert workspace.folder.is_dir() and not list(workspace.folder.iterdir())
    first.discard()
    assert second.folder.is_dir()
    second.discard()
    assert listing(target.parent) == {"q1"} | not_ours
    assert text_of(target) == "old"


def test_results_that_are_kept_stay_beside_until_someone_removes_them(target):
    workspace = results.Workspace(target)
    (workspace.folder / "model.safetensors").write_text("kept")
    kept = workspace.keep()
    workspace.discard()
    results.Workspace(target).discard()
    assert (kept / "model.safetensors").read_text() == "kept" and text_of(target) == "old"


# Where earlier results cannot be moved, here since a disk is mounted in their place: in a namespace
# of its own, in which this needs no rights.
MOUNTED = """
import subprocess, sys
from pathlib import Path
from common import results

target, when = Path(sys.argv[1]), sys.argv[2]
disk = target.with_name("disk")
disk.mkdir()
if when == "before":
    subprocess.run(["mount", "--bind", disk, target], check=True)
workspace = results.Workspace(target)
print("trained")
(workspace.folder / "model.safetensors").write_text("trained")
if when == "afterwards":
    subprocess.run(["mount", "--bind", disk, target], check=True)
workspace.swap_in()
"""


@posix
@pytest.mark.parametrize("when", ["before", "afterwards"])
def test_no_place_is_an_error_before_training_and_never_the_end_of_what_is_finished(when, target):
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        subprocess.run([*namespace, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no namespaces here")
    command = [*namespace, sys.executable, "-c", MOUNTED, target, when]
    done = subprocess.run(command, cwd=helpers.ROOT, capture_output=True, text=True)
    left = listing(target.parent) - {"q1", "disk"}
    assert text_of(target) == "old"
    if when == "before":
        assert done.stdout == "" and not left
    else:
        (kept,) = left
        assert str(target.parent / kept) in done.stderr.splitlines()[-1]
        assert (target.parent / kept / "model.safetensors").read_text() == "trained"


def test_a_folder_behind_a_link_is_replaced_where_it_is(target, tmp_path):
    link = tmp_path / "link"
    try:
        link.symlink_to(target)
    except OSError:
        pytest.skip("no links here")
    write(link, "new")
    assert link.is_symlink() and text_of(target) == "new"


def test_a_file_in_the_way_is_an_error_and_stays(tmp_path):
    (tmp_path / "q1").write_text("a file")
    for target in (tmp_path / "q1", tmp_path / "q1" / "deeper"):
        with pytest.raises(OSError):
            results.Workspace(target)
    assert (tmp_path / "q1").read_text() == "a file" and listing(tmp_path) == {"q1"}


def test_the_code_of_a_result_is_what_was_imported_of_this_repository():
    code = "from common import run, results; print(*results.imported_files())"
    done = helpers.finish(helpers.start("-c", code))
    files = [f"common/{name}.py" for name in ("__init__", "download", "results", "run")]
    assert done.stdout.split() == files

    assert results.code_sha256(files) == results.code_sha256(files)
    sums = {results.code_sha256(files), results.code_sha256(files[1:])}
    sums.add(results.code_sha256([*files, "common/no_more.py"]))
    assert len(sums) == 3


def test_code_is_the_same_whatever_its_docstrings_and_comments_say(tmp_path):
    path = tmp_path / "code.py"

    def sha256_of(text: str) -> str:
        path.write_text(text)
        return results.code_sha256([path])  # absolute

    of_code = sha256_of('"""Of 3 seeds."""\n\nN = 3\nTEXT = "a"\n')
    assert sha256_of('"""Of 10\nseeds."""\nN = 3  # three\nTEXT = \'a\'\n') == of_code
    others = ["N = 4\nTEXT = 'a'\n", "N = 3\nTEXT = 'b'\n", "N = 3\nTEXT = ('a'\n"]
    assert len({of_code, *map(sha256_of, others)}) == 4


def commit(folder: Path) -> None:
    """Make a folder a git repository of one commit, of all that is in it."""
    environment = {name: text for name, text in os.environ.items() if name[:4] != "GIT_"}
    identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    for arguments in (["init"], ["add", "."], [*identity, "commit", "-m", "all"]):
        subprocess.run(["git", *arguments], cwd=folder, env=environment, check=True)


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_the_commit_is_this_repositorys_and_not_that_of_a_folder_around_it(tmp_path):
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(helpers.ROOT / "common", copy / "common", ignore=ignored)

    def recorded(**environment: str) -> str:
        code = "from common import results; print(results.git_commit())"
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        return helpers.finish(helpers.start("-c", code, cwd=copy, **environment)).stdout.strip()

    commit(tmp_path)
    assert recorded() == "None"
    assert recorded(GIT_DIR=str(tmp_path / ".git"), GIT_WORK_TREE=str(tmp_path)) == "None"
    (copy / ".git").mkdir()  # what is left of a repository
    assert recorded() == "None"

    (copy / ".git").rmdir()
    commit(copy)
    assert len(recorded()) == 40
    (copy / "common" / "run.py").write_text("")
    assert recorded().endswith("-dirty")

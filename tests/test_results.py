"""Tests of common/results.py: folders that are swapped in whole, and what says whether they would come out the same."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common import results

ROOT = Path(__file__).resolve().parents[1]
# A run of no weight, TIMES over, that kills itself before file operation LAST: python -c RUN target text LAST TIMES.
RUN = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from common import results
target, text, last = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
operations = iter(range(1, 10**9))
def count(event, arguments):
    is_write = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir") or event == "open" and arguments[1] == "w"
    if is_write and next(operations) == last:
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
for _ in range(int(sys.argv[4])):
    folder = results.begin(target)
    for name in ("model.safetensors", "metrics.jsonl", "loss.png"):
        (folder / name).write_text(text)
    digests = {{path.name: results.sha256(path) for path in folder.iterdir()}}
    results.write_json(folder / "config.json", {{"files_sha256": digests}})
    results.swap_in(folder, target)
assert "torch" not in sys.modules
"""


def run(target: Path, text: str, *, last: int = 0, times: int = 1) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", RUN, target, text, str(last), str(times)])


@pytest.fixture
def target(tmp_path):
    """The folder of finished results that hold "old"."""
    assert run(tmp_path / "outputs" / "q1", "old").wait() == 0
    return tmp_path / "outputs" / "q1"


def text_of(target: Path) -> str:
    """Return the text of results that must be finished and whole."""
    assert results.read_config(target)
    (text,) = {(target / name).read_text() for name in ("model.safetensors", "metrics.jsonl", "loss.png")}
    return text


def test_results_are_finished_only_while_every_file_is_as_it_was_left(target):
    assert list(results.read_config(target)) == ["files_sha256"]
    for path in sorted(target.iterdir()):
        content = path.read_bytes()
        for damaged in (content[:-4], b"", b"x" + content, b"[]", b"{}", b'{"files_sha256": 1}', b"\xff"):
            path.write_bytes(damaged)
            assert results.read_config(target) is None, (path.name, damaged)
        path.unlink()
        assert results.read_config(target) is None
        path.write_bytes(content)
    assert results.read_config(target.parent) is results.read_config(target / "nowhere") is None


def test_what_a_result_is_to_others_is_its_weights_and_metrics(target):
    written = results.read_config(target)
    for name, counts in {"model.safetensors": True, "metrics.jsonl": True, "loss.png": False}.items():
        changed = written | {"options": name, "files_sha256": written["files_sha256"] | {name: "0"}}
        assert (results.result_sha256(changed) != results.result_sha256(written)) == counts


def test_killed_before_any_file_operation_one_whole_result_is_there_after_the_next_run_has_begun(target):
    texts = []
    for number in range(1, 99):
        code = run(target, "new", last=number).wait()
        if target.exists():
            text_of(target)  # nothing is ever a mixture, before the next run too
        folder = results.begin(target)
        assert set(target.parent.iterdir()) == {target, folder}, number
        texts.append(text_of(target))
        if code == 0:
            break
        assert (code, run(target, "old").wait()) == (-signal.SIGKILL, 0)
    assert number > 10 and texts == sorted(texts, reverse=True) and set(texts) == {"old", "new"}


def test_three_runs_at_once_and_again_and_again_all_end_well_and_leave_one_whole_result(target):
    processes = [run(target, text, times=100) for text in ("a", "b", "c")]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert text_of(target) in ("a", "b", "c") and list(target.parent.iterdir()) == [target]


def test_only_what_killed_runs_of_the_same_results_left_is_swept(target, monkeypatch):
    dead = run(target, "new")
    dead.wait()
    swept = [f".q1-{dead.pid}", f".q1-{os.getpid()}", f".q1-{dead.pid}.old"]
    kept = [f".q1-{os.getppid()}", f".q1-{os.getppid()}.old", f".q1_undo-{dead.pid}", ".q1-notes"]
    for name in swept + kept:
        (target.parent / name / "deep").mkdir(parents=True)
    folder = results.begin(target)
    assert folder.name == f".q1-{os.getpid()}" and not list(folder.iterdir())
    assert {path.name for path in target.parent.iterdir()} == {"q1", folder.name, *kept}

    def refuse(*_):
        raise PermissionError  # it is another user's

    monkeypatch.setattr(os, "kill", refuse)
    (target.parent / swept[0]).mkdir()
    results.begin(target)
    results.remove_unfinished(target.parent)
    assert {path.name for path in target.parent.iterdir()} == {"q1", swept[0], *kept}
    assert text_of(target) == "new"


def test_the_code_of_a_result_is_the_script_and_what_it_imports_without_comments_docstrings_and_figures(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(results, "REPOSITORY", tmp_path)
    (tmp_path / "common").mkdir()
    imports = {"../q": "from common import a, plots", "a": "from common.b import x", "b": "from common import a"}
    imports |= {"plots": "from common import c", "report": "from common import a", "c": "import json"}
    template = '"""Say what."""\nIMPORT\n\n\ndef f(x):\n    """Add."""\n    return x + 1\n'
    template += "\n\ndef figures():\n    return 7\n"

    def code_with(changed: str = "", old: str = "", new: str = "") -> str:
        for name, line in imports.items():
            content = template.replace(old, new) if name == changed else template
            (tmp_path / "common" / f"{name}.py").write_text(content.replace("IMPORT", line))
        return results.code_sha256(tmp_path / "q.py")

    before = code_with()
    for name in ("../q", "a", "b"):
        for change in (("Add.", "Sum."), ("x + 1", "(x  +  1)  # why"), ('"""Say what."""', ""), ("\n\n\n", "\n\n")):
            assert code_with(name, *change) == before, (name, change)
        for change in (("x + 1", "x + 2"), ("x + 1", '"Add."'), ("def f", "def g")):
            assert code_with(name, *change) != before, (name, change)
    for name in ("plots", "report", "c"):  # what makes figures or the report alone
        assert code_with(name, "x + 1", "x + 2") == before, name
    assert code_with("../q", "return 7", "return 8") != before  # drawn anew


def test_the_one_code_of_the_numbers_is_all_scripts_without_their_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "REPOSITORY", tmp_path)
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "a.py").write_text("A = 1\n")
    files = {
        "q1_x.py": "from common import a\nX = 1\ndef figures():\n    return 7\n",
        "q2_y.py": "Y = 1\n",
        "z.py": "Z = 1\n",
    }

    def code_with(changed: str = "", old: str = "", new: str = "") -> str:
        for name, content in files.items():
            (tmp_path / name).write_text(content.replace(old, new) if name == changed else content)
        return results.numbers_sha256()

    before = code_with()
    assert code_with("q1_x.py", "X = 1", "X = 2") != before != code_with("q2_y.py", "Y = 1", "Y = 2")
    assert code_with("q1_x.py", "return 7", "return 8") == before == code_with("z.py", "Z = 1", "Z = 2")
    (tmp_path / "common" / "a.py").write_text("A = 2\n")
    assert code_with() != before


def test_the_code_of_the_scripts_holds_every_module_that_python_loads_for_them(monkeypatch):
    program = "import sys, q3_frozen_decoder, q5_transfer; print(*(n for n in sys.modules if n.startswith('common.')))"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    names, read_text, scripts = set(), Path.read_text, {"q3_frozen_decoder", "q5_transfer"}
    monkeypatch.setattr(Path, "read_text", lambda path, *a: names.add(path.stem) or read_text(path, *a))
    for script in scripts:
        results.code_sha256(ROOT / f"{script}.py")
    assert names == {name.removeprefix("common.") for name in loaded.stdout.split()} - {"plots"} | scripts

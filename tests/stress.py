"""Kill every script at random moments, go on with --resume, and compare with a run that was never killed.

python -m tests.stress --kills 20    # 15 minutes
"""

import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import tyro
from tqdm import tqdm

from common import checkpoint, run
from tests import synthetic

SAME = ("*.pt", "*.png", "metrics.jsonl", "table.md")  # summary.json and config.json tell seconds and paths


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files that a run of one seed determines to the bit, those of its subfolders too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for pattern in SAME
        for path in sorted(folder.rglob(pattern))
        if not path.name.endswith(run.SNAPSHOT) and not path.name.startswith(run.BESIDE)
    }


def prepare(folder: Path, raw: dict[str, bytes], *scripts: str) -> dict[str, float]:
    """Run the scripts in order, never killed, under ``folder``, and return the seconds that each took."""
    synthetic.write(folder / "data", raw)
    seconds = {}
    synthetic.finished(scripts[0], raw, folder, "--help")  # what the first process waits for is no part of a script
    for script in scripts:
        started = time.perf_counter()
        code = synthetic.finished(script, raw, folder)
        assert code == 0, (folder / "printed").read_text()
        seconds[script] = time.perf_counter() - started
    return seconds


def kill_and_resume(script: str, raw: dict[str, bytes], whole: Path, moment: float) -> str:
    """Run ``script`` over the complete results in a copy of ``whole``, kill it after ``moment`` seconds and resume it.

    Raises AssertionError unless every file is whole after the kill and the resumed run ends with the bits of
    ``whole``. Returns "complete" if the run ended before it could be killed, else "killed".
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(whole, folder, dirs_exist_ok=True)
        results = folder / "outputs" / script
        expected = contents(whole / "outputs" / script)
        for path in results.rglob("*.pt"):
            path.write_bytes(b"of an earlier run")
        process = synthetic.started(script, raw, folder)
        process.join(moment)
        process.kill()
        process.join()
        outcome = "complete" if process.exitcode == 0 else "killed"
        assert process.exitcode in (0, -signal.SIGKILL), (folder / "printed").read_text()
        for path, content in contents(results).items():
            assert content in (b"of an earlier run", expected[path]), f"{path} is neither the old file nor the new one"
        for path in results.rglob(f"*{run.SNAPSHOT}"):
            if not path.name.startswith(run.BESIDE):
                checkpoint.read(path)  # checks the sums in it
        assert synthetic.finished(script, raw, folder, "--resume") == 0, (folder / "printed").read_text()
        left = {path.name for path in results.rglob("*") if path.name.startswith(run.BESIDE)}
        assert contents(results) == expected and not left
        return outcome


def main(kills: int = 20, seed: int = 0) -> None:
    """Kill each script ``kills`` times, Q1 in both its variants."""
    moments = random.Random(seed)
    raw = synthetic.raw_contents()
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name)
        seconds = prepare(whole, raw, *synthetic.SCRIPTS)
        for script in synthetic.SCRIPTS:
            outcomes = [
                kill_and_resume(script, raw, whole, moments.uniform(0, seconds[script]))
                for _ in tqdm(range(kills), desc=script, leave=False, disable=None)
            ]
            print(
                f"{script}: {outcomes.count('killed')} killed, {outcomes.count('complete')} ended before; all resumed"
            )


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

"""A copy of this repository whose five scripts do next to nothing, to test what runs them."""

import shutil
from pathlib import Path

import reproduce
from common import download
from tests import helpers

STEP = """
import json, os, sys, time
from pathlib import Path
from common import results

options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
outputs = Path(options["--output-dir"])
workspace = results.Workspace(outputs / NAME)
{extra}
with Path("ran").open("a") as ran:
    print(NAME, options["--seed"], file=ran)

needed = {{name: results.read_config(outputs / name) for name in NEEDS}}
weights = f"{{NAME}} on {{[(outputs / name / 'numbers.csv').read_text() for name in NEEDS]}}"
weights += f" seed {{options['--seed']}}, threads {{os.environ['OMP_NUM_THREADS']}}"
path = Path(options["--data-dir"], "train-labels-idx1-ubyte")
weights += f", data {{path.exists() or path.with_name(path.name + '.gz').exists()}}"
(workspace.folder / "numbers.csv").write_text(weights)

seed = [] if options["--seed"] == "0" else ["--seed", options["--seed"]]
files = results.imported_files()
config = {{
    "command": " ".join(["python", f"{{NAME}}.py", "--dataset", "own", *seed]),
    "versions": results.versions(),
    "git_commit": None,
    "data_sha256": DATA_SHA256,
    "built_on": {{name: results.result_sha256(config) for name, config in needed.items()}},
    "code_files": files,
    "code_sha256": results.code_sha256(files),
    "files_sha256": {{"numbers.csv": results.sha256(workspace.folder / "numbers.csv")}},
}}
results.write_json(workspace.folder / "config.json", config)
workspace.swap_in()
print("the answer")
"""
# For a step's ``extra``: say in a file that it runs, and go on when told to.
HANG = """
told = Path(TOLD)
waits = not told.exists()
told.with_suffix(".part").write_text(f"{os.getpid()} {os.getppid()}")
os.replace(told.with_suffix(".part"), told)
while waits:
    time.sleep(0.05)
"""
REPORT = {
    "__init__": "",
    "draw_page": "print('the page')",
    "pages": "def write(output_dir):\n    return output_dir / 'report.html'",
    "check": """
import dataclasses
from pathlib import Path
from common.run import RunError

@dataclasses.dataclass
class Config:
    output_dir: Path

def main(config):
    raise RunError("compared")
""",
}


class ToyRepository:
    """The copy, the small digits, and a folder of results, all in ``folder``."""

    def __init__(self, folder: Path):
        self.root = folder / "repository"
        self.outputs = folder / "outputs"
        self.data_dir = helpers.write_idx_files(folder / "data")
        self._data_sha256 = download.fingerprint(download.prepare("own", self.data_dir))

        ignored = shutil.ignore_patterns("__pycache__", "report", "figures", "measures")
        shutil.copytree(helpers.ROOT / "common", self.root / "common", ignore=ignored)
        shutil.copy(helpers.ROOT / "reproduce.py", self.root)
        for name, content in REPORT.items():
            path = self.root / "common" / "report" / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
        for step in reproduce.QUESTIONS:
            self.write(step.name)

    def write(self, name: str, extra: str = "") -> None:
        """Write the script of a step, with ``extra`` code before it does anything."""
        (step,) = [step for step in reproduce.QUESTIONS if step.name == name]
        constants = f"NAME = {name!r}\nNEEDS = {step.needs!r}\nDATA_SHA256 = {self._data_sha256!r}"
        (self.root / f"{name}.py").write_text(constants + STEP.format(extra=extra))

    def write_hanging(self, name: str) -> Path:
        """Let a step hang once; return the file in which it then writes its process and parent."""
        told = self.root / f"{name}.told"
        self.write(name, HANG.replace("TOLD", repr(str(told))))
        return told

    def start(self, *options: str):
        """Start reproduce.py."""
        folders = ("--data-dir", self.data_dir, "--output-dir", self.outputs)
        arguments = ("reproduce.py", "--dataset", "own", *folders, *options)
        return helpers.start(*arguments, cwd=self.root)

    def run(self, *options: str):
        """Run reproduce.py to its end."""
        return helpers.finish(self.start(*options))

    def ran(self) -> list[str]:
        """Return which steps have run since this was last asked: their names and seeds."""
        path = self.root / "ran"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines


def numbers_of(told: Path) -> list[int]:
    """Wait for a step that hangs, and return the number of its process and of its parent's."""
    helpers.wait_for(told.exists)
    return [int(number) for number in told.read_text().split()]
